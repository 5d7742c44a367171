// How long a call looks at a ring before it sleeps in the kernel. A sleep costs both sides a system call, and its
// waking some more; a look costs a processor that others may want. So a budget is spent only where it paid lately: a
// spin that found nothing is followed by doubling numbers of calls that do not spin.
//
// The limit is the process's ($VMSGR_SPIN_US, `vmsgr run --spin-us`); the rest belongs to one stream and is a hint:
// races on it cost time, not correctness.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

namespace vmsgr::client {

// This thread may run on one processor only: whoever it waits for cannot run meanwhile. Keeps errno.
bool has_one_processor() noexcept;
// 0: never. Zero on one processor, whatever is set.
void set_spin_limit(uint32_t us) noexcept;
inline constinit std::atomic<uint32_t> spin_limit{0};  // in ns
inline uint32_t spin_limit_ns() noexcept { return spin_limit.load(std::memory_order_relaxed); }

// An answer is awaited at once. What only flows in is let gather: a reader that takes each small piece as it comes
// makes the writer wait for the cache line of every one.
enum class gaze : uint8_t { close, far };

class spin_history {
    std::atomic<uint32_t> _skip{0};      // calls that do not spin
    std::atomic<uint32_t> _failures{0};  // in a row
    uint64_t _sent = 0;                  // bytes, at the last spin; with the receive lock

public:
    bool pays() noexcept {
        uint32_t skip = _skip.load(std::memory_order_relaxed);
        if (skip != 0) {
            _skip.store(skip - 1, std::memory_order_relaxed);
        }
        return skip == 0;
    }
    // `sent`: bytes that this side has ever sent.
    gaze how(uint64_t sent) noexcept {
        return std::exchange(_sent, sent) != sent ? gaze::close : gaze::far;
    }
    void note(bool found) noexcept {
        constexpr uint32_t doublings_max = 10;
        uint32_t n = found ? 0 : _failures.load(std::memory_order_relaxed) + 1;
        n = n > doublings_max ? doublings_max : n;
        _failures.store(n, std::memory_order_relaxed);
        _skip.store(n == 0 ? 0 : (1u << n) - 1, std::memory_order_relaxed);
    }
};

int64_t now_ns() noexcept;

// Looks until `over` or until the limit has passed; whether it was over.
template <typename Over>
bool spin_until(gaze how, Over&& over) noexcept {
    constexpr int looks_a_clock = 8;
    constexpr int pauses_far = 256;
    const int64_t limit = spin_limit_ns();
    int64_t end = 0;
    for (;;) {
        for (int i = 0; i < looks_a_clock; ++i) {
            for (int p = how == gaze::far ? pauses_far : 0; p != 0; --p) {
                __builtin_ia32_pause();
            }
            if (over()) {
                return true;
            }
            __builtin_ia32_pause();
        }
        int64_t now = now_ns();
        if (end == 0) {
            end = now + limit;
        } else if (now >= end) {
            return over();
        }
    }
}

}  // namespace vmsgr::client
