// Addresses of sockets, asked of the kernel and given to callers of getsockname(), accept() and their kin. Any thread;
// no hook of ours is met.
#pragma once

#include "base/address.hh"

namespace vmsgr::base {

// None where the socket has none, or is of another family.
address local_name(int fd) noexcept;
address peer_name(int fd) noexcept;

// Copies as much of it as *len says, and sets *len to the whole, as the kernel does. 0, or -1 with EFAULT (a null
// pointer) or EINVAL (a negative length).
int give_name(const address& a, sockaddr* sa, socklen_t* len) noexcept;

}  // namespace vmsgr::base
