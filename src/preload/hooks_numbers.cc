// Calls that return new descriptor numbers. The kernel gives out only what is free, so whatever the table still says of
// such a number was closed behind our back (fclose, a library that makes its own system calls): it is forgotten, and no
// byte of a file goes to a peer.
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "preload/event_loop.hh"
#include "preload/hook.hh"
#include "preload/runtime.hh"

using namespace vmsgr::preload;

namespace {

int fresh(int fd) noexcept {
    if (known(fd) && !in_vfork_child()) {
        const int saved = errno;
        forget_number(fd);
        errno = saved;
    }
    return fd;
}

int followed(int epfd) noexcept {
    follow_set(epfd);
    return epfd;
}

int fresh_pair(int result, const int* fds) noexcept {
    if (result == 0) {
        fresh(fds[0]);
        fresh(fds[1]);
    }
    return result;
}

// Constructors of other libraries open files before ours has run.
template <typename F>
F& found(F& call) noexcept {
    if (call == nullptr) {
        find_real_calls();
    }
    return call;
}

FILE* fresh_file(FILE* f) noexcept {
    if (f != nullptr && table != nullptr) {
        fresh(found(real.fileno)(f));
    }
    return f;
}

void leave_number_of(FILE* f) noexcept {
    if (table != nullptr) {
        leave_file(found(real.fileno)(f));
    }
}

// open() and its kin have a mode where they may make a file.
bool has_mode(int flags) noexcept { return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE; }

}  // namespace

#define VMSGR_OPEN_HOOK(name)                                                      \
    VMSGR_HOOK int name(const char* path, int flags, ...) {                        \
        va_list ap;                                                                \
        va_start(ap, flags);                                                       \
        const mode_t mode = has_mode(flags) ? mode_t(va_arg(ap, int)) : mode_t(0); \
        va_end(ap);                                                                \
        return fresh(real.name(path, flags, mode));                                \
    }
VMSGR_OPEN_HOOK(open)
VMSGR_OPEN_HOOK(open64)
#undef VMSGR_OPEN_HOOK

#define VMSGR_OPENAT_HOOK(name)                                                    \
    VMSGR_HOOK int name(int folder, const char* path, int flags, ...) {            \
        va_list ap;                                                                \
        va_start(ap, flags);                                                       \
        const mode_t mode = has_mode(flags) ? mode_t(va_arg(ap, int)) : mode_t(0); \
        va_end(ap);                                                                \
        return fresh(real.name(folder, path, flags, mode));                        \
    }
VMSGR_OPENAT_HOOK(openat)
VMSGR_OPENAT_HOOK(openat64)
#undef VMSGR_OPENAT_HOOK

// What fortified programs call in their place.
VMSGR_HOOK int __open_2(const char* path, int flags) { return ::open(path, flags); }
VMSGR_HOOK int __open64_2(const char* path, int flags) { return ::open(path, flags); }
VMSGR_HOOK int __openat_2(int folder, const char* path, int flags) { return ::openat(folder, path, flags); }
VMSGR_HOOK int __openat64_2(int folder, const char* path, int flags) { return ::openat(folder, path, flags); }

VMSGR_HOOK int creat(const char* path, mode_t mode) { return fresh(real.creat(path, mode)); }
VMSGR_HOOK int pipe(int fds[2]) { return fresh_pair(real.pipe(fds), fds); }
VMSGR_HOOK int pipe2(int fds[2], int flags) { return fresh_pair(real.pipe2(fds, flags), fds); }
VMSGR_HOOK int socketpair(int domain, int type, int protocol, int fds[2]) {
    return fresh_pair(real.socketpair(domain, type, protocol, fds), fds);
}
VMSGR_HOOK int eventfd(unsigned value, int flags) { return fresh(real.eventfd(value, flags)); }
VMSGR_HOOK int timerfd_create(clockid_t clock, int flags) { return fresh(real.timerfd_create(clock, flags)); }
VMSGR_HOOK int signalfd(int fd, const sigset_t* mask, int flags) {
    const int r = real.signalfd(fd, mask, flags);
    return fd == -1 ? fresh(r) : r;
}
VMSGR_HOOK int memfd_create(const char* name, unsigned flags) { return fresh(real.memfd_create(name, flags)); }
VMSGR_HOOK int epoll_create(int size) { return followed(fresh(real.epoll_create(size))); }
VMSGR_HOOK int epoll_create1(int flags) { return followed(fresh(real.epoll_create1(flags))); }
VMSGR_HOOK int inotify_init() { return fresh(real.inotify_init()); }
VMSGR_HOOK int inotify_init1(int flags) { return fresh(real.inotify_init1(flags)); }

VMSGR_HOOK FILE* fopen(const char* path, const char* mode) { return fresh_file(found(real.fopen)(path, mode)); }
VMSGR_HOOK FILE* fopen64(const char* path, const char* mode) { return fresh_file(found(real.fopen64)(path, mode)); }
VMSGR_HOOK DIR* opendir(const char* path) {
    DIR* d = found(real.opendir)(path);
    if (d != nullptr && table != nullptr) {
        fresh(::dirfd(d));
    }
    return d;
}

// These close inside libc what may be ours: it is said before, so that the peer is told.
VMSGR_HOOK int fclose(FILE* f) {
    leave_number_of(f);
    return found(real.fclose)(f);
}
VMSGR_HOOK FILE* freopen(const char* path, const char* mode, FILE* f) {
    if (path != nullptr) {
        leave_number_of(f);
    }
    return fresh_file(found(real.freopen)(path, mode, f));
}
VMSGR_HOOK FILE* freopen64(const char* path, const char* mode, FILE* f) {
    if (path != nullptr) {
        leave_number_of(f);
    }
    return fresh_file(found(real.freopen64)(path, mode, f));
}
VMSGR_HOOK int daemon(int keeps_folder, int keeps_files) {
    for (int fd = 0; keeps_files == 0 && fd <= 2; ++fd) {
        leave_file(fd);
    }
    return found(real.daemon)(keeps_folder, keeps_files);
}
