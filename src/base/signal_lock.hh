// A lock of the library's that a signal handler may want too: with all signals blocked while it is held, no handler runs
// in between and waits for its own thread. Recursive use is an error. Across fork: lock() and unlock() by hand.
#pragma once

#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace vmsgr::base {

class signal_mutex {
    pthread_mutex_t _m = PTHREAD_MUTEX_INITIALIZER;

public:
    void lock(uint64_t& mask) noexcept {
        // The kernel's own mask of 64 signals: libc's leaves out those that it uses itself.
        const uint64_t all = ~uint64_t{0};
        ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &mask, sizeof mask);
        pthread_mutex_lock(&_m);
    }
    void unlock(uint64_t mask) noexcept {
        pthread_mutex_unlock(&_m);
        ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, nullptr, sizeof mask);
    }
};

class signal_lock {
    signal_mutex& _m;
    uint64_t _mask = 0;

public:
    explicit signal_lock(signal_mutex& m) noexcept : _m(m) { _m.lock(_mask); }
    signal_lock(const signal_lock&) = delete;
    signal_lock& operator=(const signal_lock&) = delete;
    ~signal_lock() { _m.unlock(_mask); }
};

}  // namespace vmsgr::base
