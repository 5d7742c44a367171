#include "preload/spin_wait.hh"

#include <algorithm>
#include <atomic>

namespace vmsgr::preload {

namespace {

std::atomic<bool> asked{false};

// What a sleep and a wake-up cost the sleeper in processor time: measured 5 us where the other processor is busy, 20 us
// where it has to be woken from idling too.
constexpr int64_t sleep_costs_ns = 8'000;
// A good account lasts for so many failures in a row.
constexpr int64_t failures_kept = 8;
// So many a trial lasts for: in a ping-pong both ends must try at the same time.
constexpr int64_t failures_allowed = 4;
constexpr uint32_t pause_first = 8;
constexpr uint32_t pause_longest = 4096;
constexpr uint32_t pause_without_processor = 256;
// A look and the way back take well below a microsecond: whoever missed so much was not running.
constexpr int64_t not_running_ns = 50'000;
constexpr uint32_t affinity_every = 1024;  // spins

struct account {
    int64_t balance_ns;
    uint32_t pause;      // waits that the next failure keeps away
    uint32_t skip;       // waits that sleep at once from now on
    uint32_t until_affinity;
};
// Never through __tls_get_addr, which may allocate.
__attribute__((tls_model("initial-exec"))) constinit thread_local account mine{};

void stay_away(account& a, uint32_t at_least) noexcept {
    a.pause = std::clamp(a.pause * 2, at_least, pause_longest);
    a.skip = a.pause;
    a.balance_ns = failures_allowed * client::spin_limit_ns();
}

}  // namespace

void spin_as_asked() noexcept { asked.store(true, std::memory_order_relaxed); }

void spin_wait::begin(int64_t at_most_ns) noexcept {
    account& a = mine;
    if (a.skip != 0) {
        --a.skip;
        return;
    }
    if (a.until_affinity-- == 0) {
        a.until_affinity = affinity_every;
        if (client::has_one_processor()) {
            a.until_affinity = 0;
            a.skip = pause_longest;
            return;
        }
    }
    int64_t ns = client::spin_limit_ns();
    if (at_most_ns >= 0) {
        ns = std::min(ns, at_most_ns);
    }
    _began_ns = _seen_ns = client::now_ns();
    _until_ns = _began_ns + ns;
}

bool spin_wait::more() noexcept {
    __builtin_ia32_pause();
    int64_t now = client::now_ns();
    if (now - _seen_ns > not_running_ns) {
        _lost_processor = true;
    }
    _seen_ns = now;
    return now < _until_ns;
}

void spin_wait::end() noexcept {
    account& a = mine;
    int64_t limit = client::spin_limit_ns();
    if (_lost_processor) {
        stay_away(a, pause_without_processor);
        return;
    }
    // Its own time only: a look may have been interrupted.
    a.balance_ns -= std::min(spent_ns(), limit);
    if (_won) {
        int64_t saved = asked.load(std::memory_order_relaxed) ? std::max(limit, sleep_costs_ns) : sleep_costs_ns;
        a.balance_ns = std::min(a.balance_ns + saved, limit * failures_kept);
        a.pause /= 2;
    }
    if (a.balance_ns < 0) {
        stay_away(a, pause_first);
    }
}

}  // namespace vmsgr::preload
