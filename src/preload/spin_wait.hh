// How epoll_wait, poll and select look for a moment before they sleep. How long is the process's budget
// (client/spin.hh); whether it pays is learned by each thread for itself. Any thread; nothing here allocates; errno is
// kept.
//
// What a spin may cost. A sleep and the wake-up from it cost this side some microseconds of processor time. A thread
// has an account: what a spin took is drawn from it; one that found something pays in what it saved. While the account
// is good, waits spin. Overdrawn, the thread sleeps at once for the next 8, 16, .. 4096 waits, and tries again. So
// spinning takes (nearly) no more processor time than the sleeping it replaces, and an idle program none. With a budget
// that somebody asked for, a success pays in the whole budget: latency is bought with processor time, up to one budget
// for each success. A thread that may run on one processor only never spins; one that lost its processor while it spun
// takes that for a sign that others need it, and stays away longer.
//
// Signals. A handler that runs during a spin is like one that ran just before the call: the sleep that follows is not
// interrupted by it. That race is as old as these calls, and it is what ppoll, pselect and epoll_pwait are for; their
// masks are applied by the kernel's own call alone, after the spin, so that what is blocked before the call stays
// blocked until then, and interrupts that call. For the others the race is as wide as the spin: a one-shot alarm meets
// it once in (its time / the budget) tries. It cannot be narrowed without two system calls a spin (and those would
// give the signal to another thread); poll's own looks tell, as the kernel's poll does with timeout 0.
#pragma once

#include <cstdint>

#include "client/spin.hh"

namespace vmsgr::preload {

// Somebody chose the budget: see above.
void spin_as_asked() noexcept;

// One wait:   if (spin_wait s(ns)) { do { look; if (found) { s.won(); .. } } while (s.more()); }   then sleep.
class spin_wait {
    int64_t _began_ns = 0;
    int64_t _seen_ns = 0;
    int64_t _until_ns = 0;  // 0: does not spin
    bool _won = false;
    bool _lost_processor = false;

public:
    // at_most_ns < 0: as long as the budget allows.
    explicit spin_wait(int64_t at_most_ns = -1) noexcept {
        if (client::spin_limit_ns() != 0) {
            begin(at_most_ns);
        }
    }
    spin_wait(const spin_wait&) = delete;
    spin_wait& operator=(const spin_wait&) = delete;
    ~spin_wait() {
        if (_until_ns != 0) {
            end();
        }
    }
    explicit operator bool() const noexcept { return _until_ns != 0; }

    // Lets some nanoseconds pass. False: the budget is used up.
    bool more() noexcept;
    void won() noexcept { _won = true; }
    int64_t spent_ns() const noexcept { return _seen_ns - _began_ns; }

private:
    void begin(int64_t at_most_ns) noexcept;
    void end() noexcept;
};

}  // namespace vmsgr::preload
