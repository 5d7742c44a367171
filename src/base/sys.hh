// System calls that no interposer sees: the preload library is built from these modules and must not meet its own
// hooks. Each does what the libc function of that name does (errno included), except that it is no cancellation
// point.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace vmsgr::sys {

inline int close(int fd) noexcept { return int(::syscall(SYS_close, fd)); }
inline ssize_t send(int fd, const void* p, size_t n, int flags) noexcept {
    return ::syscall(SYS_sendto, fd, p, n, flags, nullptr, 0);
}
inline ssize_t recv(int fd, void* p, size_t n, int flags) noexcept {
    return ::syscall(SYS_recvfrom, fd, p, n, flags, nullptr, nullptr);
}
inline ssize_t sendmsg(int fd, const msghdr* m, int flags) noexcept { return ::syscall(SYS_sendmsg, fd, m, flags); }
inline ssize_t recvmsg(int fd, msghdr* m, int flags) noexcept { return ::syscall(SYS_recvmsg, fd, m, flags); }
inline int fcntl(int fd, int cmd, long arg = 0) noexcept { return int(::syscall(SYS_fcntl, fd, cmd, arg)); }
inline int dup3(int from, int to, int flags) noexcept { return int(::syscall(SYS_dup3, from, to, flags)); }
inline int socket(int domain, int type, int protocol) noexcept {
    return int(::syscall(SYS_socket, domain, type, protocol));
}
inline int socketpair(int domain, int type, int protocol, int* fds) noexcept {
    return int(::syscall(SYS_socketpair, domain, type, protocol, fds));
}
inline int connect(int fd, const void* sa, socklen_t len) noexcept { return int(::syscall(SYS_connect, fd, sa, len)); }
inline int getsockopt(int fd, int level, int name, void* value, socklen_t* len) noexcept {
    return int(::syscall(SYS_getsockopt, fd, level, name, value, len));
}
inline int setsockopt(int fd, int level, int name, const void* value, socklen_t len) noexcept {
    return int(::syscall(SYS_setsockopt, fd, level, name, value, len));
}
// timeout_ms < 0: without end.
inline int poll(pollfd* fds, nfds_t n, int timeout_ms) noexcept {
    timespec ts{timeout_ms / 1000, (timeout_ms % 1000) * 1'000'000L};
    return int(::syscall(SYS_ppoll, fds, n, timeout_ms < 0 ? nullptr : &ts, nullptr, 0));
}

}  // namespace vmsgr::sys
