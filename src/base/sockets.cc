#include "base/sockets.hh"

#include <errno.h>
#include <fcntl.h>
#include <linux/socket.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "base/sys.hh"
#include "base/unique_fd.hh"

namespace vmsgr::base {

int socket_option(int fd, int name) noexcept {
    int value = 0;
    socklen_t len = sizeof value;
    return sys::getsockopt(fd, SOL_SOCKET, name, &value, &len) == 0 ? value : -1;
}

const char* not_tcp(int fd) noexcept {
    const int domain = socket_option(fd, SO_DOMAIN);
    if (domain != AF_INET && domain != AF_INET6) {
        return "not an IPv4 or IPv6 socket";
    }
    if (socket_option(fd, SO_TYPE) != SOCK_STREAM || socket_option(fd, SO_PROTOCOL) != IPPROTO_TCP) {
        return "not a TCP socket";
    }
    return nullptr;
}

bool is_unconnected(int fd) noexcept {
    tcp_info info{};
    socklen_t len = sizeof info;
    return sys::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 && info.tcpi_state == TCP_CLOSE;
}

asked_buffers buffers_asked_of(int fd) noexcept {
    const int asked = std::max(socket_option(fd, SO_BUF_LOCK), 0);
    auto bytes = [&](int lock, int name) {
        return (asked & lock) != 0 ? uint32_t(std::max(socket_option(fd, name), 0)) : 0;
    };
    asked_buffers a{bytes(SOCK_SNDBUF_LOCK, SO_SNDBUF), bytes(SOCK_RCVBUF_LOCK, SO_RCVBUF)};
    socklen_t len = sizeof a.unsent;
    if (sys::getsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &a.unsent, &len) != 0) {
        a.unsent = 0;
    }
    return a;
}

bool blocks(int fd) noexcept { return (sys::fcntl(fd, F_GETFL) & O_NONBLOCK) == 0; }

std::optional<ucred> peer_credentials(int fd) noexcept {
    ucred c;
    socklen_t len = sizeof c;
    if (sys::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &len) != 0) {
        return std::nullopt;
    }
    return c;
}

const char* not_unix(int fd, int type) noexcept {
    return socket_option(fd, SO_DOMAIN) == AF_UNIX && socket_option(fd, SO_TYPE) == type
               ? nullptr
               : "not a unix socket of its kind";
}

namespace {

std::optional<linger> linger_of(int fd) noexcept {
    linger l{};
    socklen_t len = sizeof l;
    return sys::getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &len) == 0 ? std::optional(l) : std::nullopt;
}

}  // namespace

bool lingers_zero(int fd) noexcept {
    const auto l = linger_of(fd);
    return l && l->l_onoff != 0 && l->l_linger == 0;
}

void stop_lingering(int fd) noexcept {
    if (!lingers_zero(fd)) {
        const linger off{};
        sys::setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
    }
}

std::optional<linger> linger_no_time(int fd) noexcept {
    const auto before = linger_of(fd);
    const linger none{1, 0};
    const bool set = before && sys::setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none) == 0;
    return set ? before : std::nullopt;
}

uint64_t socket_cookie(int fd) noexcept {
    uint64_t cookie = 0;
    socklen_t len = sizeof cookie;
    return sys::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) == 0 ? cookie : 0;
}

size_t unread_by_peer(int fd) noexcept {
    int bytes = 0;
    return sys::call(SYS_ioctl, fd, SIOCOUTQ, &bytes) == 0 ? size_t(std::max(bytes, 0)) : 0;
}

int ending_of_tcp(int err, int otherwise) noexcept {
    switch (err) {
    case EACCES:
    case EADDRINUSE:
    case EADDRNOTAVAIL:
    case ECONNABORTED:
    case ECONNREFUSED:
    case ECONNRESET:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case EMFILE:
    case EMSGSIZE:
    case ENETDOWN:
    case ENETUNREACH:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case ENOPROTOOPT:
    case EOPNOTSUPP:
    case EPERM:
    case EPIPE:
    case EPROTO:
    case ETIMEDOUT: return err;
    default: return otherwise;
    }
}

bool shut_down_empty(int fd) noexcept {
    // With it each packet brings something beside its bytes, for which there is no room here: so one without bytes is
    // told from the end of file.
    constexpr int on = 1;
    msghdr m{};
    return sys::setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0 &&
           sys::call(SYS_shutdown, fd, SHUT_RDWR) == 0 && sys::recvmsg(fd, &m, MSG_PEEK | MSG_DONTWAIT) == 0 &&
           (m.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) == 0;
}

}  // namespace vmsgr::base
