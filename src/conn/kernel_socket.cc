#include "conn/kernel_socket.hh"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/sockets.hh"

namespace vmsgr::conn {

bool is_listening(int fd) noexcept { return base::socket_option(fd, SO_ACCEPTCONN) == 1; }

int make_nonblocking(int fd) noexcept {
    int flags = ::fcntl(fd, F_GETFL);
    if (flags >= 0 && (flags & O_NONBLOCK) == 0 && ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
        return -1;
    }
    return flags;
}

base::unique_fd duplicate(int fd) noexcept { return base::unique_fd(fd < 0 ? -1 : ::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

int take_socket_error(int fd) noexcept {
    int err = 0;
    socklen_t len = sizeof err;
    return ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) == 0 ? err : errno;
}

bool has_unsent(int fd) noexcept {
    int n = 0;
    return ::ioctl(fd, SIOCOUTQ, &n) == 0 && n > 0;
}

bool has_unread(int fd) noexcept {
    int n = 0;  // a look by recv() would take a pending error
    return ::ioctl(fd, FIONREAD, &n) == 0 && n > 0;
}

progress connect_progress(int fd) noexcept {
    tcp_info info{};
    socklen_t len = sizeof info;
    if (::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0) {
        return progress::failed;
    }
    if (info.tcpi_state == TCP_CLOSE) {
        return has_unread(fd) ? progress::up : progress::failed;  // reset already, but it had sent something
    }
    return info.tcpi_state == TCP_SYN_SENT || info.tcpi_state == TCP_SYN_RECV ? progress::under_way : progress::up;
}

int begin_connect(int fd, const base::address& to) noexcept {
    sockaddr_storage ss{};
    socklen_t len = base::to_sockaddr(to, ss);
    if (make_nonblocking(fd) < 0) {
        return errno;
    }
    if (::connect(fd, reinterpret_cast<sockaddr*>(&ss), len) == 0 || errno == EINPROGRESS) {
        return 0;
    }
    return errno;
}

void close_tcp(base::unique_fd& fd) noexcept {
    if (!fd) {
        return;
    }
    if (base::lingers_zero(fd.get())) {
        reset_tcp(fd);
        return;
    }
    // A linger time would make close() itself wait, on non-blocking sockets too.
    linger off{};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &off, sizeof off);
    if (!has_unread(fd.get())) {
        ::shutdown(fd.get(), SHUT_WR);
    }
    fd.reset();
}

void disconnect_tcp(int fd) noexcept {
    sockaddr none{};
    none.sa_family = AF_UNSPEC;
    ::connect(fd, &none, sizeof none);  // RST, whoever else holds it; does not wait
}

void reset_tcp(base::unique_fd& fd) noexcept {
    if (!fd) {
        return;
    }
    disconnect_tcp(fd.get());
    linger zero{1, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &zero, sizeof zero);
    fd.reset();
}

}  // namespace vmsgr::conn
