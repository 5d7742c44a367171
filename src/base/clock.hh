// The clock by which waits are timed, and the end of a wait. Any thread, also in hooks and signal handlers.
#pragma once

#include <time.h>

#include <cstdint>
#include <limits>

namespace vmsgr::base {

// clock_gettime, or what the preload library found as libc's own: other preloaded libraries stop or shift the clock for
// their program (libfaketime), and our waits would never end. Set once, before there are threads.
inline constinit int (*clock_source)(clockid_t, timespec*) = &::clock_gettime;

inline int64_t now_ns() noexcept {
    timespec t;
    clock_source(CLOCK_MONOTONIC, &t);
    return int64_t(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}
inline int64_t now_ms() noexcept { return now_ns() / 1'000'000; }

class deadline {
    static constexpr int64_t never_ms = std::numeric_limits<int64_t>::max();
    static constexpr int64_t passed_ms = 0;
    int64_t _at_ms;

public:
    // timeout_ms < 0: never. 0 has passed already: nothing waits for it.
    explicit deadline(int64_t timeout_ms) noexcept
        : _at_ms(timeout_ms < 0    ? never_ms
                 : timeout_ms == 0 ? passed_ms
                                   : now_ms() + timeout_ms) {}

    // This one, or so many ms from now.
    deadline sooner(int64_t timeout_ms) const noexcept {
        deadline other(timeout_ms);
        return _at_ms < other._at_ms ? *this : other;
    }
    bool is_never() const noexcept { return _at_ms == never_ms; }
    // For poll(): -1 without an end, 0 once it has passed.
    int left_ms() const noexcept {
        constexpr int64_t longest_ms = std::numeric_limits<int>::max();
        if (is_never()) {
            return -1;
        }
        if (_at_ms == passed_ms) {
            return 0;
        }
        const int64_t left = _at_ms - now_ms();
        return left <= 0 ? 0 : int(left < longest_ms ? left : longest_ms);
    }
};

}  // namespace vmsgr::base
