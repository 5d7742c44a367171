// System calls that no interposer sees: the preload library is built from these modules and must not meet its own
// hooks. Each does what the libc function of that name does (errno included), except that it is no cancellation
// point.
#pragma once

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <type_traits>

namespace vmsgr::sys {

namespace detail {

template <typename T>
long word(T value) noexcept {
    if constexpr (std::is_null_pointer_v<T>) {
        return 0;
    } else if constexpr (std::is_pointer_v<T>) {
        return reinterpret_cast<long>(value);
    } else {
        return long(value);
    }
}

inline long enter(long number, long a, long b, long c, long d, long e, long f) noexcept {
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

}  // namespace detail

// libc's syscall() without libc: programs close and read by that one, so it is a hook of the preload library. x86-64.
template <typename... A>
long call(long number, A... arguments) noexcept {
    static_assert(sizeof...(A) <= 6);
#ifdef __clang_analyzer__
    return ::syscall(number, arguments...);  // it knows what that writes
#else
    const long a[6] = {detail::word(arguments)...};
    const long result = detail::enter(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (static_cast<unsigned long>(result) > -4096UL) {
        errno = int(-result);
        return -1;
    }
    return result;
#endif
}

inline int close(int fd) noexcept { return int(call(SYS_close, fd)); }
inline ssize_t send(int fd, const void* p, size_t n, int flags) noexcept {
    return call(SYS_sendto, fd, p, n, flags, nullptr, 0);
}
inline ssize_t recv(int fd, void* p, size_t n, int flags) noexcept {
    return call(SYS_recvfrom, fd, p, n, flags, nullptr, nullptr);
}
inline ssize_t sendmsg(int fd, const msghdr* m, int flags) noexcept { return call(SYS_sendmsg, fd, m, flags); }
inline ssize_t recvmsg(int fd, msghdr* m, int flags) noexcept { return call(SYS_recvmsg, fd, m, flags); }
inline int fcntl(int fd, int cmd, long arg = 0) noexcept { return int(call(SYS_fcntl, fd, cmd, arg)); }
inline int dup3(int from, int to, int flags) noexcept { return int(call(SYS_dup3, from, to, flags)); }
inline int socket(int domain, int type, int protocol) noexcept { return int(call(SYS_socket, domain, type, protocol)); }
inline int socketpair(int domain, int type, int protocol, int* fds) noexcept {
    return int(call(SYS_socketpair, domain, type, protocol, fds));
}
inline int connect(int fd, const void* sa, socklen_t len) noexcept { return int(call(SYS_connect, fd, sa, len)); }
inline int getsockopt(int fd, int level, int name, void* value, socklen_t* len) noexcept {
    return int(call(SYS_getsockopt, fd, level, name, value, len));
}
inline int setsockopt(int fd, int level, int name, const void* value, socklen_t len) noexcept {
    return int(call(SYS_setsockopt, fd, level, name, value, len));
}
// timeout_ms < 0: without end.
inline int poll(pollfd* fds, nfds_t n, int timeout_ms) noexcept {
    timespec ts{timeout_ms / 1000, (timeout_ms % 1000) * 1'000'000L};
    return int(call(SYS_ppoll, fds, n, timeout_ms < 0 ? nullptr : &ts, nullptr, 0));
}

// The calls in which a program's thread may sleep for long. The preload library puts libc's own here, which are
// cancellation points: so none of them, and nothing on the way to one, is noexcept. Set once, before there are threads.
struct sleeping_calls {
    int (*poll)(pollfd*, nfds_t, int);
    ssize_t (*recv)(int, void*, size_t, int);
    ssize_t (*recvmsg)(int, msghdr*, int);
    ssize_t (*sendmsg)(int, const msghdr*, int);
    int (*accept4)(int, sockaddr*, socklen_t*, int);
};
inline constinit sleeping_calls sleeping{
    poll, recv, recvmsg, sendmsg,
    [](int fd, sockaddr* sa, socklen_t* len, int flags) { return int(call(SYS_accept4, fd, sa, len, flags)); }};

}  // namespace vmsgr::sys
