// listen() and accept(). A routed listener's number is a door (proto/dial.hh): a listening unix socket, from which
// the kernel gives each connection, whoever dialled it. The listening TCP socket is the program's own; the daemon has
// a copy of it, and we keep one: when the daemon goes away, the number becomes that socket again (the port never
// closes), and when it is back, a door.
#pragma once

#include <sys/socket.h>

#include <atomic>

#include "preload/objects.hh"

namespace vmsgr::preload {

int routed_listen(int fd, int backlog);
// As accept4(2) on a number that is a listener's.
int routed_accept(int fd, sockaddr* sa, socklen_t* len, int flags);

// For the re-attach thread: does any listener wait for the daemon; let those that can listen through it again.
bool listeners_wait() noexcept;
void listen_again() noexcept;

// Leaves with the daemon what an heir of the listener behind fd needs; and the heir's object from that. Null: no
// memory, or not a listener's.
void deposit_listener(int fd, const object& o) noexcept;
object* inherited_listener(client::inherited& from) noexcept;

// The daemon lets go of the listening socket, without stopping it, before this returns.
void leave_daemon(listener_part& part) noexcept;
// False: it is there already, or the number means something else by now.
bool put_kernel_socket_behind(int fd, object* o) noexcept;

// The number becomes the kernel's listening socket, as somebody without the library gets it, or this process uses its
// sockets past the hooks. Nobody listens through the daemon any more: it would take connections that the other is to
// accept. What waits in the door is left to relatives for a moment, and reset then.
void give_listener_to_kernel(int fd, object* o) noexcept;

// Shared with forks: how many listeners relatives have given away so. Null: no memory, or inert.
extern std::atomic<uint32_t>* listeners_given;
extern std::atomic<uint32_t> listeners_given_seen;
void share_listeners_given() noexcept;  // once, at the start
// Before a wait: this process's numbers for them become the kernel's, too, or they would show nothing any more.
void follow_given_listeners() noexcept;
inline bool listeners_were_given() noexcept {
    return listeners_given != nullptr &&
           listeners_given->load(std::memory_order_acquire) != listeners_given_seen.load(std::memory_order_relaxed);
}

// The listener `o` loses its last number here, which is still open. When no relative holds it either, its port is free
// when this returns (a bind may follow at once): the daemon closes its copy, then its end of the lifeline.
void stop_listening(object* o) noexcept;

// The program has shut its listening socket down: what waits is reset, as the kernel does, and the number is that
// socket until the program listens again.
void shut_listener(int fd, object* o) noexcept;

// The listening socket shows a connection only with its first bytes (TCP_DEFER_ACCEPT): that is TCP's to keep, so
// programs of this host come by TCP too.
bool defers_accept(int socket) noexcept;

}  // namespace vmsgr::preload
