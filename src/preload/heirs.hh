// Whether a program that this process is about to start will have the library, and with it use connections as they are.
// Any thread; in the child of a fork too. Nothing here allocates.
#pragma once

namespace vmsgr::preload {

// What execve, execvpe and fexecve name.
struct successor {
    const char* path = nullptr;  // or null: `file`
    int file = -1;
    char* const* argv = nullptr;
    bool searched = false;  // along $PATH, unless the name has a slash
};

// Null: it will attach to the same daemon, as the same user. Else why not.
const char* why_plain(const successor& next, char* const* envp) noexcept;

}  // namespace vmsgr::preload
