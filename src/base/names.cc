#include "base/names.hh"

#include <errno.h>
#include <string.h>

#include <algorithm>

#include "base/sys.hh"

namespace vmsgr::base {

namespace {

address name_of(int fd, long call) noexcept {
    sockaddr_storage ss{};
    socklen_t len = sizeof ss;
    if (sys::call(call, fd, &ss, &len) != 0) {
        return {};
    }
    return from_sockaddr(reinterpret_cast<sockaddr*>(&ss), len).value_or(address{});
}

}  // namespace

address local_name(int fd) noexcept { return name_of(fd, SYS_getsockname); }
address peer_name(int fd) noexcept { return name_of(fd, SYS_getpeername); }

int give_name(const address& a, sockaddr* sa, socklen_t* len) noexcept {
    if (sa == nullptr || len == nullptr) {
        errno = EFAULT;
        return -1;
    }
    if (int(*len) < 0) {
        errno = EINVAL;
        return -1;
    }
    sockaddr_storage ss{};
    const socklen_t whole = to_sockaddr(a, ss);
    memcpy(sa, &ss, std::min(*len, whole));
    *len = whole;
    return 0;
}

}  // namespace vmsgr::base
