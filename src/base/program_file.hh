// What a program's file says about the preload library: whether the dynamic linker will load it, and whether its hooks
// will see the program's calls. And which file a name means. Any thread. Nothing here allocates; async-signal-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace vmsgr::base {

enum class preload_obstacle : uint8_t {
    none,
    unreadable,  // executable perhaps, but its headers cannot be read; errno says why
    linked_statically,
    other_class,    // a 32-bit program
    other_machine,  // for another processor
    other_libc,     // its dynamic linker is not glibc's
    setuid,         // it would run with another effective user than its real one; or group, or capabilities
    setgid,
    capabilities,
    go,  // the library is loaded, but the program makes its system calls itself
};

struct program_facts {
    preload_obstacle obstacle = preload_obstacle::unreadable;  // a script's is its interpreter's
    bool is_script = false;
};
program_facts look_at_program(const char* path) noexcept;
program_facts look_at_program(int file) noexcept;

// "it is linked statically"; empty for none.
const char* to_text(preload_obstacle o) noexcept;

// The first line of a script, as the kernel takes it apart: "#!INTERPRETER ARGUMENT". Points into itself.
inline constexpr size_t script_line_max = 256;
struct script_line {
    char text[script_line_max];
    char* interpreter = nullptr;  // ends in NUL, as the next one; null: it is no script
    char* argument = nullptr;     // all of the rest, spaces too; null: none
};
void read_script_line(int file, script_line& out) noexcept;

// 0: this user may execute the file. Else EACCES or ENOENT.
int why_not_executable(const char* path) noexcept;

// Which file execvp() would execute for this name: along $PATH unless the name has a slash. 0 and the path, or ENOENT,
// or EACCES where a file is there that may not be executed, or ENAMETOOLONG.
inline constexpr size_t program_path_max = 4096;
int find_program(const char* name, char (&path)[program_path_max]) noexcept;

}  // namespace vmsgr::base
