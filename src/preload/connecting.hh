// connect(): which way, and the hand-over of a connecting or connected socket to the daemon.
#pragma once

#include <sys/socket.h>

namespace vmsgr::preload {

// As connect(2). Called only while the library is active.
int routed_connect(int fd, const sockaddr* sa, socklen_t len);

}  // namespace vmsgr::preload
