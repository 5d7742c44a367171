// A bounded look at memory before a call sleeps, for a budget of the caller's own (client/spin.hh has the process's).
// Any thread.
#pragma once

#include "client/spin.hh"

namespace vmsgr::client {

// Looks until `over`, or for `us`; whether it was over. gaze::far leaves pauses, so that things gather and the other
// side keeps its cache lines.
template <typename Over>
bool look_for(uint32_t us, gaze how, Over&& over) noexcept {
    constexpr int looks_a_clock = 16;
    const int pauses = how == gaze::far ? 16 : 1;
    int64_t end = 0;
    for (;;) {
        for (int i = 0; i < looks_a_clock; ++i) {
            if (over()) {
                return true;
            }
            for (int p = pauses; p != 0; --p) {
                __builtin_ia32_pause();
            }
        }
        int64_t now = now_ns();
        if (end == 0) {
            end = now + int64_t(us) * 1000;
        } else if (now >= end) {
            return over();
        }
    }
}

// What is left of a time limit for poll(); -1: no limit.
class time_limit {
    int64_t _end_ms;

public:
    explicit time_limit(int timeout_ms) noexcept : _end_ms(timeout_ms < 0 ? -1 : now_ns() / 1'000'000 + timeout_ms) {}
    int left_ms() const noexcept {
        if (_end_ms < 0) {
            return -1;
        }
        int64_t left = _end_ms - now_ns() / 1'000'000;
        return left > 0 ? int(left) : 0;
    }
};

}  // namespace vmsgr::client
