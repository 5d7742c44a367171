// listen() and accept(). A routed listener's number is a doorbell on which each connection arrives as one message
// with its descriptors, so accept() is one recvmsg and the kernel decides who is woken. The listening socket itself
// is the program's own; the daemon has a copy of it, and we keep one: when the daemon goes away, the number becomes
// that socket again (the port never closes), and when it is back, the doorbell.
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

// The object for a listener's doorbell that came from a relative. Null: the daemon does not know it any more.
object* inherited_listener(uint64_t key) noexcept;

// The listener `o` loses its last number here, fd, which is still open. When no relative holds it either, its port
// is free when this returns (a bind may follow at once): the daemon closes its copy, then its end of the doorbell.
void stop_listening(object* o, int fd) noexcept;

// The program wants number fd for itself: if it is our copy of a listening socket, that moves.
void move_listener_socket(int fd) noexcept;

}  // namespace vmsgr::preload
