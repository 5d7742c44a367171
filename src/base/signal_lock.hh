// For state that signal handlers may need. Any thread. errno is kept.
#pragma once

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

#include "base/sys.hh"

namespace vmsgr::base {

// The kernel's own set: sigset_t of libc is larger than what the system call takes, and libc leaves out two signals.
using kernel_sigset = uint64_t;

// Blocks all signals of its thread while it lives. Only the outermost one of a thread asks the kernel: a call that
// takes several locks one after the other holds one of these around them, and pays twice 0.1 us instead of each time.
class signals_blocked {
    struct thread_state {
        uint32_t depth;
        kernel_sigset before;
    };
    // initial-exec: a signal handler may be the first in its thread to touch it, and must not allocate.
    __attribute__((tls_model("initial-exec"))) static inline constinit thread_local thread_state mine{};

    static void set_mask(kernel_sigset now, kernel_sigset* before) noexcept {
        const int saved = errno;
        sys::call(SYS_rt_sigprocmask, SIG_SETMASK, &now, before, sizeof now);
        errno = saved;
    }

    friend class signal_lock;
    static void enter() noexcept {
        if (mine.depth == 0) {
            kernel_sigset before = 0;
            set_mask(~kernel_sigset{0}, &before);
            mine.before = before;
        }
        ++mine.depth;
    }
    static void leave() noexcept {
        if (--mine.depth == 0) {
            set_mask(mine.before, nullptr);
        }
    }

public:
    signals_blocked() noexcept { enter(); }
    ~signals_blocked() { leave(); }
    signals_blocked(const signals_blocked&) = delete;
    signals_blocked& operator=(const signals_blocked&) = delete;
};

// While a thread holds it, all of its signals are blocked. A handler may call close(), connect() or fork(), as POSIX
// allows; if it ran above a holder of the lock, it would wait for itself for ever. Never recursive.
class signal_lock {
    pthread_mutex_t _mutex = PTHREAD_MUTEX_INITIALIZER;

public:
    constexpr signal_lock() noexcept = default;
    signal_lock(const signal_lock&) = delete;
    signal_lock& operator=(const signal_lock&) = delete;

    void lock() noexcept {
        signals_blocked::enter();
        pthread_mutex_lock(&_mutex);
    }
    // Also in the child of a fork that was made under the lock.
    void unlock() noexcept {
        pthread_mutex_unlock(&_mutex);
        signals_blocked::leave();
    }
};

}  // namespace vmsgr::base
