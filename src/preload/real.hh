// The functions that our hooks stand in front of. Before our constructor has run (allocators read files and make
// pipes that early, some from inside malloc) they are plain system calls: dlsym takes locks.
#pragma once

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

namespace vmsgr::preload {

template <long Number, typename R, typename... A>
R raw_call(A... a) {
    return R(::syscall(Number, a...));
}
inline int raw_fcntl(int fd, int cmd, ...) {
    va_list ap;
    va_start(ap, cmd);
    void* arg = va_arg(ap, void*);
    va_end(ap);
    return int(::syscall(SYS_fcntl, fd, cmd, arg));
}
inline int raw_ioctl(int fd, unsigned long request, ...) {
    va_list ap;
    va_start(ap, request);
    void* arg = va_arg(ap, void*);
    va_end(ap);
    return int(::syscall(SYS_ioctl, fd, request, arg));
}
inline ssize_t raw_send(int fd, const void* p, size_t n, int flags) {
    return ::syscall(SYS_sendto, fd, p, n, flags, nullptr, 0);
}
inline ssize_t raw_recv(int fd, void* p, size_t n, int flags) {
    return ::syscall(SYS_recvfrom, fd, p, n, flags, nullptr, nullptr);
}
inline int raw_dup2(int from, int to) { return int(::syscall(SYS_dup2, from, to)); }

inline constexpr size_t kernel_sigset_bytes = 8;
inline int raw_epoll_pwait(int epfd, epoll_event* e, int max, int timeout, const sigset_t* mask) {
    return int(::syscall(SYS_epoll_pwait, epfd, e, max, timeout, mask, kernel_sigset_bytes));
}
inline int raw_epoll_pwait2(int epfd, epoll_event* e, int max, const timespec* timeout, const sigset_t* mask) {
    return int(::syscall(SYS_epoll_pwait2, epfd, e, max, timeout, mask, kernel_sigset_bytes));
}
inline int raw_ppoll(pollfd* fds, nfds_t n, const timespec* timeout, const sigset_t* mask) {
    timespec left = timeout != nullptr ? *timeout : timespec{};  // the kernel writes what is left
    return int(::syscall(SYS_ppoll, fds, n, timeout != nullptr ? &left : nullptr, mask, kernel_sigset_bytes));
}
inline int raw_pselect(int n, fd_set* in, fd_set* out, fd_set* except, const timespec* timeout, const sigset_t* mask) {
    timespec left = timeout != nullptr ? *timeout : timespec{};
    struct {
        const sigset_t* at;
        size_t bytes;
    } masked{mask, kernel_sigset_bytes};
    return int(::syscall(SYS_pselect6, n, in, out, except, timeout != nullptr ? &left : nullptr, &masked));
}

struct real_calls {
    ssize_t (*read)(int, void*, size_t) = raw_call<SYS_read>;
    ssize_t (*write)(int, const void*, size_t) = raw_call<SYS_write>;
    ssize_t (*readv)(int, const iovec*, int) = raw_call<SYS_readv>;
    ssize_t (*writev)(int, const iovec*, int) = raw_call<SYS_writev>;
    ssize_t (*send)(int, const void*, size_t, int) = raw_send;
    ssize_t (*recv)(int, void*, size_t, int) = raw_recv;
    ssize_t (*sendto)(int, const void*, size_t, int, const sockaddr*, socklen_t) = raw_call<SYS_sendto>;
    ssize_t (*recvfrom)(int, void*, size_t, int, sockaddr*, socklen_t*) = raw_call<SYS_recvfrom>;
    ssize_t (*sendmsg)(int, const msghdr*, int) = raw_call<SYS_sendmsg>;
    ssize_t (*recvmsg)(int, msghdr*, int) = raw_call<SYS_recvmsg>;
    int (*sendmmsg)(int, mmsghdr*, unsigned, int) = raw_call<SYS_sendmmsg>;
    int (*recvmmsg)(int, mmsghdr*, unsigned, int, timespec*) = raw_call<SYS_recvmmsg>;
    ssize_t (*sendfile)(int, int, off_t*, size_t) = raw_call<SYS_sendfile>;
    ssize_t (*splice)(int, loff_t*, int, loff_t*, size_t, unsigned) = raw_call<SYS_splice>;

    int (*socket)(int, int, int) = raw_call<SYS_socket>;
    int (*connect)(int, const sockaddr*, socklen_t) = raw_call<SYS_connect>;
    int (*listen)(int, int) = raw_call<SYS_listen>;
    int (*accept)(int, sockaddr*, socklen_t*) = raw_call<SYS_accept>;
    int (*accept4)(int, sockaddr*, socklen_t*, int) = raw_call<SYS_accept4>;
    int (*shutdown)(int, int) = raw_call<SYS_shutdown>;
    int (*getsockopt)(int, int, int, void*, socklen_t*) = raw_call<SYS_getsockopt>;
    int (*setsockopt)(int, int, int, const void*, socklen_t) = raw_call<SYS_setsockopt>;
    int (*getsockname)(int, sockaddr*, socklen_t*) = raw_call<SYS_getsockname>;
    int (*getpeername)(int, sockaddr*, socklen_t*) = raw_call<SYS_getpeername>;

    int (*close)(int) = raw_call<SYS_close>;
    int (*close_range)(unsigned, unsigned, int) = raw_call<SYS_close_range>;
    void (*closefrom)(int) = nullptr;
    int (*dup)(int) = raw_call<SYS_dup>;
    int (*dup2)(int, int) = raw_dup2;
    int (*dup3)(int, int, int) = raw_call<SYS_dup3>;
    int (*fcntl)(int, int, ...) = raw_fcntl;
    int (*fcntl64)(int, int, ...) = raw_fcntl;
    int (*ioctl)(int, unsigned long, ...) = raw_ioctl;
    int (*epoll_ctl)(int, int, int, epoll_event*) = raw_call<SYS_epoll_ctl>;

    int (*epoll_wait)(int, epoll_event*, int, int) = raw_call<SYS_epoll_wait>;
    int (*epoll_pwait)(int, epoll_event*, int, int, const sigset_t*) = raw_epoll_pwait;
    int (*epoll_pwait2)(int, epoll_event*, int, const timespec*, const sigset_t*) = raw_epoll_pwait2;
    int (*poll)(pollfd*, nfds_t, int) = raw_call<SYS_poll>;
    int (*ppoll)(pollfd*, nfds_t, const timespec*, const sigset_t*) = raw_ppoll;
    int (*select)(int, fd_set*, fd_set*, fd_set*, timeval*) = raw_call<SYS_select>;
    int (*pselect)(int, fd_set*, fd_set*, fd_set*, const timespec*, const sigset_t*) = raw_pselect;

    pid_t (*vfork)() = nullptr;
    int (*execve)(const char*, char* const*, char* const*) = raw_call<SYS_execve>;
    int (*execvpe)(const char*, char* const*, char* const*) = nullptr;
    int (*fexecve)(int, char* const*, char* const*) = nullptr;
    int (*posix_spawn)(pid_t*, const char*, const posix_spawn_file_actions_t*, const posix_spawnattr_t*, char* const*,
                       char* const*) = nullptr;
    int (*posix_spawnp)(pid_t*, const char*, const posix_spawn_file_actions_t*, const posix_spawnattr_t*, char* const*,
                        char* const*) = nullptr;
    int (*vdprintf)(int, const char*, va_list) = nullptr;
    FILE* (*fdopen)(int, const char*) = nullptr;
    int (*fileno)(FILE*) = nullptr;
};

extern constinit real_calls real;
void find_real_calls() noexcept;

}  // namespace vmsgr::preload
