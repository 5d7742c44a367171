// What can be said of a program before it runs: where it is, and whether the dynamic linker will load a preload
// library into it. Single thread.
#pragma once

#include <string>
#include <string_view>

#include "base/error.hh"

namespace vmsgr::cli {

// As execvp finds it. errnum: ENOENT, or EACCES where a file is there that may not run.
base::result<std::string> find_program(const std::string& name);

// Why LD_PRELOAD has no effect on this file; empty: it has. A script counts as its interpreter.
std::string preload_obstacle(const std::string& path);

std::string_view basename_of(std::string_view path);

}  // namespace vmsgr::cli
