// The lock for state that signal handlers may need: while a thread holds it, all of its signals are blocked. A handler
// may call close(), connect() or fork(), as POSIX allows; if it ran above a holder of the lock, it would wait for
// itself for ever. Any thread. Never recursive. errno is kept.
#pragma once

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace vmsgr::base {

// The kernel's own set: sigset_t of libc is larger than what the system call takes, and libc leaves out two signals.
using kernel_sigset = uint64_t;

class signal_lock {
    pthread_mutex_t _mutex = PTHREAD_MUTEX_INITIALIZER;
    kernel_sigset _before = 0;  // the holder's mask

    static void set_mask(kernel_sigset now, kernel_sigset* before) noexcept {
        const int saved = errno;
        ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &now, before, sizeof now);
        errno = saved;
    }

public:
    constexpr signal_lock() noexcept = default;
    signal_lock(const signal_lock&) = delete;
    signal_lock& operator=(const signal_lock&) = delete;

    void lock() noexcept {
        kernel_sigset before = 0;
        set_mask(~kernel_sigset{0}, &before);
        pthread_mutex_lock(&_mutex);
        _before = before;
    }
    // Also in the child of a fork that was made under the lock.
    void unlock() noexcept {
        const kernel_sigset before = _before;
        pthread_mutex_unlock(&_mutex);
        set_mask(before, nullptr);
    }
};

}  // namespace vmsgr::base
