// What a socket is, asked of the kernel: by system calls that no interposer sees, so for programs and daemon alike.
// A descriptor that somebody sent is checked by these before it is used. Any thread; nothing waits or allocates.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <optional>

#include "base/address.hh"
#include "base/names.hh"

namespace vmsgr::base {

// An int option of SOL_SOCKET; -1 where there is none.
int socket_option(int fd, int name) noexcept;
// Why fd is no TCP socket over IPv4 or IPv6; null: it is one.
const char* not_tcp(int fd) noexcept;
// A TCP socket that is neither connected, nor connecting, nor listening (it may be bound).
bool is_unconnected(int fd) noexcept;
// Whether calls on it wait: O_NONBLOCK is not set. False too for a number that is closed.
bool blocks(int fd) noexcept;
// Who is at the other end of an AF_UNIX socket, as the kernel says; of a listening one, who called listen().
std::optional<ucred> peer_credentials(int fd) noexcept;
// Why fd is no AF_UNIX socket of this type; null: it is one.
const char* not_unix(int fd, int type) noexcept;

// The last close of a TCP socket with SO_LINGER waits, in whatever process it happens, unless the time is 0: that close
// is a reset, and stays one. For every descriptor that a stranger sent; does nothing to what is no socket.
void stop_lingering(int fd) noexcept;
// The next last close of this TCP socket is a reset. What SO_LINGER was before; none: it could not be set.
std::optional<linger> linger_no_time(int fd) noexcept;
// SO_LINGER is on, with 0 s.
bool lingers_zero(int fd) noexcept;
// The sizes that a program has asked for (SO_SNDBUF, SO_RCVBUF, TCP_NOTSENT_LOWAT), as the kernel made them. 0: it has
// not, or Linux is older than 5.14 and does not tell.
struct asked_buffers {
    uint32_t send = 0, receive = 0, unsent = 0;
};
asked_buffers buffers_asked_of(int fd) noexcept;
// The kernel's number for this socket, whatever descriptor it is seen through; never used again. 0: not told.
uint64_t socket_cookie(int fd) noexcept;

// Of a unix socket: what the other end has not read of what was sent, as the kernel accounts for it; 0: all is read, or
// there is no other end.
size_t unread_by_peer(int fd) noexcept;

// err where TCP can end a connection, or its connect(), with it; else `otherwise`. For what the other side has written:
// a program takes EBADF or EFAULT for a fault of its own.
int ending_of_tcp(int err, int otherwise) noexcept;

// Ends a connected unix socket of packets both ways. True: nothing lies in it and nothing can come, so that its close
// waits for nobody.
bool shut_down_empty(int fd) noexcept;

}  // namespace vmsgr::base
