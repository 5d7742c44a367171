// A thread of the library's own in somebody else's program: detached, with a small stack, and no signal is delivered to
// it. libc's pthread_create, so not in a signal handler. False: none could be made.
#pragma once

#include <pthread.h>
#include <signal.h>

namespace vmsgr::base {

inline bool start_background(void* (*run)(void*)) noexcept {
    constexpr size_t stack_bytes = 128u << 10;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_attr_t a;
    pthread_attr_init(&a);
    pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&a, stack_bytes);
    pthread_t t;
    const bool started = pthread_create(&t, &a, run, nullptr) == 0;
    pthread_attr_destroy(&a);
    pthread_sigmask(SIG_SETMASK, &old, nullptr);
    return started;
}

}  // namespace vmsgr::base
