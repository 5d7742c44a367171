// How epoll_wait, poll and select look for a moment before they sleep. How long is the process's budget (shm/spin.hh);
// whether it pays is learned by each thread for itself. Any thread; nothing here allocates; errno is kept.
//
// What a spin may cost. A sleep and the wake-up from it cost this side some microseconds of processor time: so much a
// look that found something pays into the thread's account (shm::spin_account). So spinning takes (nearly) no more
// processor time than the sleeping it replaces, and an idle program none. With a budget that somebody asked for, a
// success pays in the whole budget: latency is bought with processor time, up to one budget for each success. A thread
// that may run on one processor only never spins; one that lost its processor while it spun takes that for a sign that
// others need it, and stays away longer.
//
// Signals. A handler that runs during a spin is like one that ran just before the call: the sleep that follows is not
// interrupted by it. That race is as old as these calls, and it is what ppoll, pselect and epoll_pwait are for; their
// masks are applied by the kernel's own call alone, after the spin, so that what is blocked before the call stays
// blocked until then, and interrupts that call. For the others the race is as wide as the spin: a one-shot alarm meets
// it once in (its time / the budget) tries. It cannot be narrowed without two system calls a spin (and those would
// give the signal to another thread); poll's own looks tell, as the kernel's poll does with timeout 0.
#pragma once

#include <cstdint>

#include "shm/spin.hh"

namespace vmsgr::preload {

// Somebody chose the budget: see above.
void spin_as_asked() noexcept;

// For how long this wait looks; 0: it sleeps at once. at_most_ns < 0: as long as the budget allows.
int64_t spin_budget_ns(int64_t at_most_ns) noexcept;
void note_spin(const shm::look_result& r) noexcept;

}  // namespace vmsgr::preload
