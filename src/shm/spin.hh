// How a call looks before it sleeps in the kernel, and whether that pays. A sleep costs both sides a system call, and
// its waking some more; a look costs a processor that others may want.
//
// Here are the only loop that spins (look_until), the only account of what spinning cost and saved (spin_account), and
// what a reader or a writer of a ring makes of them (patience). How long is the process's budget ($VMSGR_SPIN_US,
// `vmsgr run --spin-us`) or the caller's own. Any thread. Nothing here allocates.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <utility>

#include "base/clock.hh"

namespace vmsgr::shm {

// This thread may run on one processor only: whoever it waits for cannot run meanwhile. Keeps errno.
bool has_one_processor() noexcept;
// 0: never. Zero on one processor, whatever is set.
void set_spin_limit(uint32_t us) noexcept;
inline constinit std::atomic<uint32_t> spin_limit{0};  // in ns
inline uint32_t spin_limit_ns() noexcept { return spin_limit.load(std::memory_order_relaxed); }

// How densely a call looks. What only flows in is let gather: a reader that takes each small piece as it comes makes
// the writer wait for the cache line of every one.
struct pace {
    int looks_a_clock;   // the clock is read after so many looks
    int pauses_before;   // before each look
    int pauses_after;
};
inline constexpr pace tight{8, 0, 1};
inline constexpr pace gathering{8, 256, 1};
inline constexpr pace loose{16, 0, 16};
inline constexpr pace system_calls{1, 0, 1};  // each look is one

struct look_result {
    bool found;
    bool lost_processor;  // so much time passed between two looks that this thread was not running
    int64_t took_ns;      // from the first reading of the clock to the last
};

// Looks until `over`, or until limit_ns have passed. Not noexcept: a look may be a cancellation point.
template <typename Over>
look_result look_until(pace p, int64_t limit_ns, Over&& over) noexcept(noexcept(over())) {
    constexpr int64_t not_running_ns = 50'000;
    constexpr auto pause = [](int n) noexcept {
        for (; n != 0; --n) {
            __builtin_ia32_pause();
        }
    };
    int64_t began_ns = 0, seen_ns = 0;
    bool lost = false;
    for (;;) {
        for (int i = 0; i < p.looks_a_clock; ++i) {
            pause(p.pauses_before);
            if (over()) {
                return {true, lost, seen_ns - began_ns};
            }
            pause(p.pauses_after);
        }
        const int64_t now_ns = base::now_ns();
        if (began_ns == 0) {
            began_ns = now_ns;
        } else {
            lost = lost || now_ns - seen_ns > not_running_ns;
        }
        seen_ns = now_ns;
        if (now_ns - began_ns >= limit_ns) {
            return {over(), lost, now_ns - began_ns};
        }
    }
}

// An account of processor time. What a look took is drawn from it; one that found something pays in what it saved.
// While the account is good, looking goes on. Overdrawn, the next 8, 16, .. 1024 waits sleep at once, and a trial
// follows. So looking takes (nearly) no more time than it saves, and next to none where nothing ever comes.
//
// A hint: races on it cost time, not correctness.
class spin_account {
    std::atomic<int64_t> _balance_ns{0};
    std::atomic<uint32_t> _pause{0};  // waits that the next failure keeps away
    std::atomic<uint32_t> _skip{0};   // waits that sleep at once from now on

    // A good account lasts for so many failures in a row.
    static constexpr int64_t failures_kept = 8;
    // So many a trial lasts for: in a ping-pong both ends must try at the same time.
    static constexpr int64_t failures_allowed = 4;

public:
    static constexpr uint32_t pause_first = 8;
    static constexpr uint32_t pause_longest = 1024;

    // Asked once for each wait.
    bool pays() noexcept {
        const uint32_t skip = _skip.load(std::memory_order_relaxed);
        if (skip != 0) {
            _skip.store(skip - 1, std::memory_order_relaxed);
        }
        return skip == 0;
    }
    // saved_ns 0: it was in vain.
    void note(int64_t took_ns, int64_t saved_ns, int64_t limit_ns) noexcept {
        int64_t balance_ns = _balance_ns.load(std::memory_order_relaxed) - took_ns;
        if (saved_ns != 0) {
            balance_ns = std::min(balance_ns + saved_ns, limit_ns * failures_kept);
            _pause.store(_pause.load(std::memory_order_relaxed) / 2, std::memory_order_relaxed);
        }
        _balance_ns.store(balance_ns, std::memory_order_relaxed);
        if (balance_ns < 0) {
            stay_away(pause_first, limit_ns);
        }
    }
    void stay_away(uint32_t waits_at_least, int64_t limit_ns) noexcept {
        const uint32_t longer = _pause.load(std::memory_order_relaxed) * 2;
        const uint32_t pause = std::clamp(longer, waits_at_least, pause_longest);
        _pause.store(pause, std::memory_order_relaxed);
        _skip.store(pause, std::memory_order_relaxed);
        _balance_ns.store(failures_allowed * limit_ns, std::memory_order_relaxed);
    }
};

// What one user of a ring has learned about looking at it, for one purpose. It lives as long as the connection, in
// memory that only this side writes.
class patience {
    spin_account _account;
    uint64_t _sent = 0;  // bytes, at the last look; under the side's lock

public:
    bool pays(int64_t limit_ns) noexcept { return limit_ns != 0 && _account.pays(); }
    // Who has sent since the last look waits for an answer, and wants it at once. `sent`: bytes ever sent.
    bool awaits_answer(uint64_t sent) noexcept { return std::exchange(_sent, sent) != sent; }

    // Looks instead of a sleep. A success is worth the whole budget, as it saves both sides their system calls.
    template <typename Over>
    bool look(pace p, int64_t limit_ns, Over&& over) noexcept {
        const look_result r = look_until(p, limit_ns, over);
        _account.note(std::min(r.took_ns, limit_ns), r.found ? limit_ns : 0, limit_ns);
        return r.found;
    }
    // Looks before a return that could be made at once, so that more comes with it. It pays only if `enough` came: else
    // the caller has waited for nothing, which is charged beside the time.
    template <typename Over, typename Enough>
    void gather(int64_t limit_ns, Over&& over, Enough&& enough) noexcept {
        constexpr int64_t delay_costs = 4;
        look_until(gathering, limit_ns, over);
        const bool paid = enough();
        _account.note(paid ? 0 : delay_costs * limit_ns, paid ? limit_ns : 0, limit_ns);
    }
};

}  // namespace vmsgr::shm
