// The functions that our hooks stand in front of. Before our constructor has run (allocators read files and make
// pipes that early, some from inside malloc) they are plain system calls: dlsym takes locks. Null: not before then.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
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

#include "base/sys.hh"

namespace vmsgr::preload {

template <long Number, typename R, typename... A>
R raw_call(A... a) {
    return R(sys::call(Number, a...));
}
inline int raw_fcntl(int fd, int cmd, ...) {
    va_list ap;
    va_start(ap, cmd);
    void* arg = va_arg(ap, void*);
    va_end(ap);
    return int(sys::call(SYS_fcntl, fd, cmd, arg));
}
inline int raw_ioctl(int fd, unsigned long request, ...) {
    va_list ap;
    va_start(ap, request);
    void* arg = va_arg(ap, void*);
    va_end(ap);
    return int(sys::call(SYS_ioctl, fd, request, arg));
}
inline ssize_t raw_send(int fd, const void* p, size_t n, int flags) {
    return sys::call(SYS_sendto, fd, p, n, flags, nullptr, 0);
}
inline ssize_t raw_recv(int fd, void* p, size_t n, int flags) {
    return sys::call(SYS_recvfrom, fd, p, n, flags, nullptr, nullptr);
}
// The offset comes in two words, of which the second counts on machines with small ones alone.
inline ssize_t raw_preadv2(int fd, const iovec* iov, int n, off_t offset, int flags) {
    return sys::call(SYS_preadv2, fd, iov, n, offset, 0, flags);
}
inline ssize_t raw_pwritev2(int fd, const iovec* iov, int n, off_t offset, int flags) {
    return sys::call(SYS_pwritev2, fd, iov, n, offset, 0, flags);
}
inline int raw_dup2(int from, int to) { return int(sys::call(SYS_dup2, from, to)); }

inline constexpr size_t kernel_sigset_bytes = 8;
inline int raw_epoll_pwait(int epfd, epoll_event* e, int max, int timeout, const sigset_t* mask) {
    return int(sys::call(SYS_epoll_pwait, epfd, e, max, timeout, mask, kernel_sigset_bytes));
}
inline int raw_epoll_pwait2(int epfd, epoll_event* e, int max, const timespec* timeout, const sigset_t* mask) {
    return int(sys::call(SYS_epoll_pwait2, epfd, e, max, timeout, mask, kernel_sigset_bytes));
}
inline int raw_ppoll(pollfd* fds, nfds_t n, const timespec* timeout, const sigset_t* mask) {
    timespec left = timeout != nullptr ? *timeout : timespec{};  // the kernel writes what is left
    return int(sys::call(SYS_ppoll, fds, n, timeout != nullptr ? &left : nullptr, mask, kernel_sigset_bytes));
}
inline int raw_pselect(int n, fd_set* in, fd_set* out, fd_set* except, const timespec* timeout, const sigset_t* mask) {
    timespec left = timeout != nullptr ? *timeout : timespec{};
    struct {
        const sigset_t* at;
        size_t bytes;
    } masked{mask, kernel_sigset_bytes};
    return int(sys::call(SYS_pselect6, n, in, out, except, timeout != nullptr ? &left : nullptr, &masked));
}

inline int raw_openat(int folder, const char* path, int flags, ...) {
    va_list ap;
    va_start(ap, flags);
    const int mode = va_arg(ap, int);
    va_end(ap);
    return int(sys::call(SYS_openat, folder, path, flags, mode));
}
inline int raw_open(const char* path, int flags, ...) {
    va_list ap;
    va_start(ap, flags);
    const int mode = va_arg(ap, int);
    va_end(ap);
    return raw_openat(AT_FDCWD, path, flags, mode);
}
inline int raw_signalfd(int fd, const sigset_t* mask, int flags) {
    return int(sys::call(SYS_signalfd4, fd, mask, kernel_sigset_bytes, flags));
}

// CALL(result, name, parameters, what it is before dlsym has found it)
#define VMSGR_REAL_CALLS(CALL)                                                                               \
    CALL(ssize_t, read, (int, void*, size_t), raw_call<SYS_read>)                                            \
    CALL(ssize_t, write, (int, const void*, size_t), raw_call<SYS_write>)                                    \
    CALL(ssize_t, readv, (int, const iovec*, int), raw_call<SYS_readv>)                                      \
    CALL(ssize_t, writev, (int, const iovec*, int), raw_call<SYS_writev>)                                    \
    CALL(ssize_t, preadv2, (int, const iovec*, int, off_t, int), raw_preadv2)                                \
    CALL(ssize_t, pwritev2, (int, const iovec*, int, off_t, int), raw_pwritev2)                              \
    CALL(ssize_t, send, (int, const void*, size_t, int), raw_send)                                           \
    CALL(ssize_t, recv, (int, void*, size_t, int), raw_recv)                                                 \
    CALL(ssize_t, sendto, (int, const void*, size_t, int, const sockaddr*, socklen_t), raw_call<SYS_sendto>) \
    CALL(ssize_t, recvfrom, (int, void*, size_t, int, sockaddr*, socklen_t*), raw_call<SYS_recvfrom>)        \
    CALL(ssize_t, sendmsg, (int, const msghdr*, int), raw_call<SYS_sendmsg>)                                 \
    CALL(ssize_t, recvmsg, (int, msghdr*, int), raw_call<SYS_recvmsg>)                                       \
    CALL(int, sendmmsg, (int, mmsghdr*, unsigned, int), raw_call<SYS_sendmmsg>)                              \
    CALL(int, recvmmsg, (int, mmsghdr*, unsigned, int, timespec*), raw_call<SYS_recvmmsg>)                   \
    CALL(ssize_t, sendfile, (int, int, off_t*, size_t), raw_call<SYS_sendfile>)                              \
    CALL(ssize_t, splice, (int, loff_t*, int, loff_t*, size_t, unsigned), raw_call<SYS_splice>)              \
    CALL(int, socket, (int, int, int), raw_call<SYS_socket>)                                                 \
    CALL(int, connect, (int, const sockaddr*, socklen_t), raw_call<SYS_connect>)                             \
    CALL(int, bind, (int, const sockaddr*, socklen_t), raw_call<SYS_bind>)                                   \
    CALL(int, listen, (int, int), raw_call<SYS_listen>)                                                      \
    CALL(int, accept, (int, sockaddr*, socklen_t*), raw_call<SYS_accept>)                                    \
    CALL(int, accept4, (int, sockaddr*, socklen_t*, int), raw_call<SYS_accept4>)                             \
    CALL(int, shutdown, (int, int), raw_call<SYS_shutdown>)                                                  \
    CALL(int, getsockopt, (int, int, int, void*, socklen_t*), raw_call<SYS_getsockopt>)                      \
    CALL(int, setsockopt, (int, int, int, const void*, socklen_t), raw_call<SYS_setsockopt>)                 \
    CALL(int, getsockname, (int, sockaddr*, socklen_t*), raw_call<SYS_getsockname>)                          \
    CALL(int, getpeername, (int, sockaddr*, socklen_t*), raw_call<SYS_getpeername>)                          \
    CALL(int, close, (int), raw_call<SYS_close>)                                                             \
    CALL(int, close_range, (unsigned, unsigned, int), raw_call<SYS_close_range>)                             \
    CALL(void, closefrom, (int), nullptr)                                                                    \
    CALL(int, dup, (int), raw_call<SYS_dup>)                                                                 \
    CALL(int, dup2, (int, int), raw_dup2)                                                                    \
    CALL(int, dup3, (int, int, int), raw_call<SYS_dup3>)                                                     \
    CALL(int, fcntl, (int, int, ...), raw_fcntl)                                                             \
    CALL(int, fcntl64, (int, int, ...), raw_fcntl)                                                           \
    CALL(int, ioctl, (int, unsigned long, ...), raw_ioctl)                                                   \
    CALL(int, epoll_ctl, (int, int, int, epoll_event*), raw_call<SYS_epoll_ctl>)                             \
    CALL(int, epoll_wait, (int, epoll_event*, int, int), raw_call<SYS_epoll_wait>)                           \
    CALL(int, epoll_pwait, (int, epoll_event*, int, int, const sigset_t*), raw_epoll_pwait)                  \
    CALL(int, epoll_pwait2, (int, epoll_event*, int, const timespec*, const sigset_t*), raw_epoll_pwait2)    \
    CALL(int, poll, (pollfd*, nfds_t, int), raw_call<SYS_poll>)                                              \
    CALL(int, ppoll, (pollfd*, nfds_t, const timespec*, const sigset_t*), raw_ppoll)                         \
    CALL(int, select, (int, fd_set*, fd_set*, fd_set*, timeval*), raw_call<SYS_select>)                      \
    CALL(int, pselect, (int, fd_set*, fd_set*, fd_set*, const timespec*, const sigset_t*), raw_pselect)      \
    CALL(int, execve, (const char*, char* const*, char* const*), raw_call<SYS_execve>)                       \
    CALL(int, execvpe, (const char*, char* const*, char* const*), nullptr)                                   \
    CALL(int, fexecve, (int, char* const*, char* const*), nullptr)                                           \
    CALL(int, posix_spawn,                                                                                   \
         (pid_t*, const char*, const posix_spawn_file_actions_t*, const posix_spawnattr_t*, char* const*,    \
          char* const*),                                                                                     \
         nullptr)                                                                                            \
    CALL(int, posix_spawnp,                                                                                  \
         (pid_t*, const char*, const posix_spawn_file_actions_t*, const posix_spawnattr_t*, char* const*,    \
          char* const*),                                                                                     \
         nullptr)                                                                                            \
    CALL(pid_t, _Fork, (), nullptr)                                                                          \
    CALL(int, clone, (int (*)(void*), void*, int, void*, ...), nullptr)                                      \
    CALL(int, posix_spawn_file_actions_adddup2, (posix_spawn_file_actions_t*, int, int), nullptr)            \
    CALL(int, pthread_setcanceltype, (int, int*), nullptr)                                                   \
    CALL(int, open, (const char*, int, ...), raw_open)                                                       \
    CALL(int, open64, (const char*, int, ...), raw_open)                                                     \
    CALL(int, openat, (int, const char*, int, ...), raw_openat)                                              \
    CALL(int, openat64, (int, const char*, int, ...), raw_openat)                                            \
    CALL(int, creat, (const char*, mode_t), raw_call<SYS_creat>)                                             \
    CALL(int, pipe, (int*), raw_call<SYS_pipe>)                                                              \
    CALL(int, pipe2, (int*, int), raw_call<SYS_pipe2>)                                                       \
    CALL(int, socketpair, (int, int, int, int*), raw_call<SYS_socketpair>)                                   \
    CALL(int, eventfd, (unsigned, int), raw_call<SYS_eventfd2>)                                              \
    CALL(int, timerfd_create, (clockid_t, int), raw_call<SYS_timerfd_create>)                                \
    CALL(int, signalfd, (int, const sigset_t*, int), raw_signalfd)                                           \
    CALL(int, memfd_create, (const char*, unsigned), raw_call<SYS_memfd_create>)                             \
    CALL(int, epoll_create, (int), raw_call<SYS_epoll_create>)                                               \
    CALL(int, epoll_create1, (int), raw_call<SYS_epoll_create1>)                                             \
    CALL(int, inotify_init, (), raw_call<SYS_inotify_init>)                                                  \
    CALL(int, inotify_init1, (int), raw_call<SYS_inotify_init1>)                                             \
    CALL(FILE*, fopen, (const char*, const char*), nullptr)                                                  \
    CALL(FILE*, fopen64, (const char*, const char*), nullptr)                                                \
    CALL(DIR*, opendir, (const char*), nullptr)                                                              \
    CALL(int, fclose, (FILE*), nullptr)                                                                      \
    CALL(FILE*, freopen, (const char*, const char*, FILE*), nullptr)                                         \
    CALL(FILE*, freopen64, (const char*, const char*, FILE*), nullptr)                                       \
    CALL(int, daemon, (int, int), nullptr)                                                                   \
    CALL(void, longjmp, (__jmp_buf_tag*, int), nullptr)                                                      \
    CALL(void, siglongjmp, (__jmp_buf_tag*, int), nullptr)                                                   \
    CALL(void, __longjmp_chk, (__jmp_buf_tag*, int), nullptr)                                                \
    CALL(int, system, (const char*), nullptr)                                                                \
    CALL(FILE*, popen, (const char*, const char*), nullptr)                                                  \
    CALL(int, vdprintf, (int, const char*, va_list), nullptr)                                                \
    CALL(FILE*, fdopen, (int, const char*), nullptr)                                                         \
    CALL(int, fileno, (FILE*), nullptr)

struct real_calls {
// NOLINTNEXTLINE(bugprone-macro-parentheses): types and names, not expressions
#define VMSGR_DECLARE_CALL(result, name, parameters, early) result(*name) parameters = early;
    VMSGR_REAL_CALLS(VMSGR_DECLARE_CALL)
#undef VMSGR_DECLARE_CALL
};

extern constinit real_calls real;
void find_real_calls() noexcept;
// The function of that name behind ours; null: none. Takes the linker's lock.
void* next_function(const char* name) noexcept;

}  // namespace vmsgr::preload
