// Which network namespace a socket lives in (SO_NETNS_COOKIE).
#pragma once

#include <cstdint>

#include "base/sys.hh"

namespace vmsgr::base {

// 0 where the kernel does not tell (before 5.14).
inline uint64_t netns_cookie(int fd) noexcept {
    uint64_t cookie = 0;
    socklen_t len = sizeof cookie;
    return sys::getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &len) == 0 ? cookie : 0;
}

}  // namespace vmsgr::base
