// Conduits that come from elsewhere: through exec, or as SCM_RIGHTS from a relative. A doorbell carries its
// connection's key in the kernel; the daemon gives the memory for it.
#pragma once

#include <sys/socket.h>

#include <cstdint>

#include "preload/heirs.hh"

namespace vmsgr::preload {

// In the constructor: looks through the numbers of this process, as its predecessor may have had conduits.
void take_inheritance() noexcept;

// A connection is about to be used inside libc, past all hooks: it turns plain.
void serve_inside_libc(int fd, proto::plain_cause why) noexcept;
// The same for stdio, which uses 0, 1 and 2.
void serve_stdio(int fd) noexcept;

// From now on this process uses its sockets past the hooks (io_uring), or may make few system calls (seccomp): what
// it has turns plain, and what comes stays the kernel's. Once.
void leave_to_kernel(proto::plain_cause why) noexcept;

// After recvmsg(): what the descriptors that came are.
void take_received(const msghdr* m) noexcept;

// Before sendmsg() on a socket that is not ours: what goes to another process is left with the daemon for it, or
// turns plain. A listener has a holder then that is never counted off again.
void note_sent(int unix_socket, const msghdr* m) noexcept;

// Everything of ours that an heir may need is with the daemon when this returns.
void leave_for_heirs() noexcept;

// Before another program is started, by exec in this process or in a child of its own. One that will have the library
// finds what it needs of our connections with the daemon; for any other, those that it gets turn plain, and listeners
// become the kernel's.
enum class starts : uint8_t { here, in_child };
void prepare_heir(const successor& next, char* const* envp, starts where) noexcept;

}  // namespace vmsgr::preload
