// Whether a program that this process is about to start will have the library, and with it use connections as they are.
// Any thread; in the child of a fork too. Nothing here allocates.
#pragma once

#include "proto/plain_cause.hh"

namespace vmsgr::preload {

// What execve, execvpe and fexecve name.
struct successor {
    const char* path = nullptr;  // or null: `file`
    int file = -1;
    char* const* argv = nullptr;
    bool searched = false;  // along $PATH, unless the name has a slash
};

// False: exec fails, as there is no such program. Servers try the folders of $PATH one by one.
bool will_start(const successor& next) noexcept;

// none: it will attach to the same daemon, as the same user. Else why not.
proto::plain_cause why_plain(const successor& next, char* const* envp) noexcept;

// none: whoever is at the other end of this unix socket has the library, and takes part. Its own relatives are taken
// to have it. Else why not.
proto::plain_cause why_plain(int unix_socket) noexcept;

// $VMSGR_INHERIT, one digit, which is changed where it stands: environments are copied and passed on by calls that no
// hook sees. 1: the new program looks through its descriptors for connections. False: the environment has it not.
bool tell_heir(char* const* envp) noexcept;
// In the new program: it was told so, and those that it starts are not.
bool was_told() noexcept;

}  // namespace vmsgr::preload
