// What the compiler's own static libraries want of a newer glibc than 2.34, made from what 2.34 has, so that the
// preload library and libvmsgr load into the programs of older systems: CentOS Stream 9, Ubuntu 22.04, Debian 12.
//
// older_glibc.cc defines these names for the library that it is linked into, and hides them. Nothing calls them but
// libstdc++.a (__isoc23_strtoul) and libgcc_eh.a (_dl_find_object). The target vmsgr_loads_anywhere
// (src/base/CMakeLists.txt) brings it, with the link options that belong to it.
#pragma once

#include <dlfcn.h>

namespace vmsgr::base {

// The object whose segments hold `pc`: 0, and *found filled in as by _dl_find_object (glibc 2.35) but for the link map;
// -1 where none does. Takes the loader's lock for as long as it looks. Any thread.
int find_loaded_object(const void* pc, dl_find_object* found) noexcept;

// What _dl_find_object does from now on: asks glibc where that has it (which takes no lock), or walks as above. The
// library's constructor says true; false is for tests.
void find_objects_by_glibc(bool ask) noexcept;

}  // namespace vmsgr::base
