// listen() and accept(). A routed listener's number is a door (proto/dial.hh): a listening unix socket, from which
// the kernel gives each connection, whoever dialled it. The listening TCP socket is the program's own; the daemon has
// a copy of it, and we keep one: when the daemon goes away, the number becomes that socket again (the port never
// closes), and when it is back, a door.
#pragma once

#include <sys/socket.h>

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

// The number becomes the kernel's listening socket, for an heir without the library. for_good: nobody listens through
// the daemon any more, if no relative holds it.
void give_listener_to_kernel(int fd, object* o, bool for_good) noexcept;

// The listener `o` loses its last number here, which is still open. When no relative holds it either, its port is free
// when this returns (a bind may follow at once): the daemon closes its copy, then its end of the lifeline.
void stop_listening(object* o) noexcept;

// The door was shut: what waits in it is reset, as the kernel does.
void reset_waiting(int door) noexcept;

// The listening socket shows a connection only with its first bytes (TCP_DEFER_ACCEPT): that is TCP's to keep, so
// programs of this host come by TCP too.
bool defers_accept(int socket) noexcept;

}  // namespace vmsgr::preload
