// Descriptors in a message of a unix socket (SCM_RIGHTS).
#pragma once

#include <string.h>
#include <sys/socket.h>

#include <cstddef>
#include <span>

namespace vmsgr::base {

// They go with it. control: at least CMSG_SPACE(fds.size_bytes()) bytes, aligned as cmsghdr, which the message uses as
// long as it lives.
inline void put_rights(msghdr& m, std::span<char> control, std::span<const int> fds) noexcept {
    if (fds.empty()) {
        return;
    }
    m.msg_control = control.data();
    m.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size_bytes());
    memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
}

// each(int): every descriptor of a message that came, or that is to be sent; whose they are is the caller's to say.
template <typename Each>
void each_right(const msghdr& m, Each&& each) {
    auto* message = const_cast<msghdr*>(&m);
    for (cmsghdr* c = CMSG_FIRSTHDR(message); c != nullptr; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        for (size_t i = 0; CMSG_LEN((i + 1) * sizeof(int)) <= c->cmsg_len; ++i) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
            each(fd);
        }
    }
}

}  // namespace vmsgr::base
