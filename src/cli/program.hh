// What can be said of a program before it runs: where it is, whether the dynamic linker will load a preload library
// into it, and where that library is. Single thread.
#pragma once

#include <string>
#include <string_view>

#include "base/error.hh"

namespace vmsgr::cli {

// As execvp finds it. errnum: ENOENT, or EACCES where a file is there that may not run.
base::result<std::string> find_program(const std::string& name);

// Why LD_PRELOAD has no effect on this file; empty: it has. A script counts as its interpreter.
std::string preload_obstacle(const std::string& path);

inline constexpr const char* preload_library = "libvmsgr-preload.so";
// $VMSGR_PRELOAD, or beside this binary as built (../lib) or installed (../lib/ARCH, ../lib/vmsgr).
base::result<std::string> find_library();
// What LD_PRELOAD has to be: the library, and behind it what is there already.
base::result<std::string> preload_value(const std::string& library);

std::string_view basename_of(std::string_view path);

}  // namespace vmsgr::cli
