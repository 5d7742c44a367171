// How far a transfer has come, on a terminal: one line on stderr, made anew a few times a second. Nothing where
// stderr is no terminal. Single thread.
#pragma once

#include <cstdint>

namespace vmsgr::cli {

class progress {
    static constexpr int64_t period_ms = 100;
    bool _shown;
    uint64_t _all;  // 0: not known
    int64_t _began_ms, _next_ms;

public:
    explicit progress(uint64_t all);
    void at(uint64_t done);
    // The last line stays; what it took.
    double end(uint64_t done);

private:
    void print(uint64_t done, double seconds) const;
};

}  // namespace vmsgr::cli
