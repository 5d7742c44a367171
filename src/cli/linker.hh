// What the dynamic linker itself says of a program before it starts. Single thread.
#pragma once

#include <string>
#include <vector>

namespace vmsgr::cli {

struct linked {
    std::vector<std::string> objects;  // paths of the libraries that it would load, in its order
    std::string complaint;             // what it wrote to stderr, one line; empty: nothing
    bool starts = false;               // it has found all that the program needs
};

// Asks `linker` (the program's PT_INTERP) what it would load for this program with $LD_PRELOAD as given. The program's
// code does not run. A linker that others than root and this user may write to is not started.
linked ask_linker(const std::string& linker, const std::string& program, const std::string& preload);

}  // namespace vmsgr::cli
