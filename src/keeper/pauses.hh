// When a worker that has ended is followed by the next: at once where it had done some work, later and later where
// workers end as soon as they start, and not at all after several of these in a row. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace vmsgr::keeper {

class pauses {
public:
    static constexpr int64_t quick_ms = 250;  // a life that was ready for less than this did no work
    static constexpr std::array<int64_t, 7> pause_ms{0, 50, 100, 200, 400, 800, 1600};
    // Nobody needs so many, and each costs all connections that are not kept.
    static constexpr unsigned ends_max = 200;
    static constexpr int64_t window_ms = 60'000;

private:
    unsigned _quick = 0;    // in a row
    unsigned _blamed = 0;   // of these
    unsigned _ends = 0;   // in this window
    int64_t _window_from_ms = 0;

public:
    // So many in a row have ended at once, and nobody else has killed them.
    unsigned blamed() const noexcept { return _blamed; }
    // How long to wait for the next one; none: there should be none. ready_ms: when the one that has ended was ready.
    // killed: by somebody else.
    std::optional<int64_t> after_end(int64_t now_ms, std::optional<int64_t> ready_ms, bool killed = false) noexcept {
        if (now_ms - _window_from_ms > window_ms) {
            _window_from_ms = now_ms;
            _ends = 0;
        }
        if (++_ends > ends_max) {
            return std::nullopt;
        }
        if (ready_ms && now_ms - *ready_ms >= quick_ms) {
            _quick = _blamed = 0;
            return 0;
        }
        _blamed += killed ? 0U : 1U;
        return _quick == pause_ms.size() ? std::nullopt : std::optional(pause_ms[_quick++]);
    }
};

}  // namespace vmsgr::keeper
