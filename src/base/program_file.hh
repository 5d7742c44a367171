// What a program's file says about LD_PRELOAD: whether the dynamic linker will load a library into it. Any thread.
// Nothing here allocates; async-signal-safe.
#pragma once

#include <cstdint>

namespace vmsgr::base {

enum class preload_obstacle : uint8_t {
    none,
    unreadable,  // executable perhaps, but its headers cannot be read; errno says why
    linked_statically,
    other_class,     // a 32-bit program
    other_libc,      // its dynamic linker is not glibc's
    setuid,
    setgid,
    capabilities,
};

struct program_facts {
    preload_obstacle obstacle = preload_obstacle::unreadable;  // a script's is its interpreter's
    bool is_script = false;
};
program_facts look_at_program(const char* path) noexcept;
program_facts look_at_program(int file) noexcept;

// "it is linked statically"; empty for none.
const char* to_text(preload_obstacle o) noexcept;

}  // namespace vmsgr::base
