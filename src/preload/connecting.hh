// connect(): which way, and the hand-over of a connecting or connected socket to the daemon.
#pragma once

#include <sys/socket.h>

#include "preload/objects.hh"

namespace vmsgr::preload {

// Takes the kernel's socket back from the daemon, for what can only be done to it: ending an attempt under way
// (shutdown), breaking a connection (connect to AF_UNSPEC). False: the connection has ended there already.
bool recall(int fd, object* o) noexcept;

// As connect(2). Called only while the library is active.
int routed_connect(int fd, const sockaddr* sa, socklen_t len);

}  // namespace vmsgr::preload
