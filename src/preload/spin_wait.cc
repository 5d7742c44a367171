#include "preload/spin_wait.hh"

#include <algorithm>
#include <atomic>

namespace vmsgr::preload {

namespace {

std::atomic<bool> asked{false};

// What a sleep and a wake-up cost the sleeper in processor time: measured 5 us where the other processor is busy, 20 us
// where it has to be woken from idling too.
constexpr int64_t sleep_costs_ns = 8'000;
constexpr uint32_t pause_without_processor = 256;
constexpr uint32_t affinity_every = 1024;  // spins

struct thread_spins {
    shm::spin_account account;
    uint32_t until_affinity;
};
// Never through __tls_get_addr, which may allocate.
__attribute__((tls_model("initial-exec"))) constinit thread_local thread_spins mine{};

}  // namespace

void spin_as_asked() noexcept { asked.store(true, std::memory_order_relaxed); }

int64_t spin_budget_ns(int64_t at_most_ns) noexcept {
    thread_spins& t = mine;
    const int64_t limit_ns = shm::spin_limit_ns();
    if (limit_ns == 0 || !t.account.pays()) {
        return 0;
    }
    if (t.until_affinity-- == 0) {
        t.until_affinity = affinity_every;
        if (shm::has_one_processor()) {
            t.until_affinity = 0;
            t.account.stay_away(shm::spin_account::pause_longest, limit_ns);
            return 0;
        }
    }
    return at_most_ns >= 0 ? std::min(limit_ns, at_most_ns) : limit_ns;
}

void note_spin(const shm::look_result& r) noexcept {
    thread_spins& t = mine;
    const int64_t limit_ns = shm::spin_limit_ns();
    if (r.lost_processor) {
        t.account.stay_away(pause_without_processor, limit_ns);
        return;
    }
    const bool whole_budget = asked.load(std::memory_order_relaxed);
    const int64_t saved_ns = whole_budget ? std::max(limit_ns, sleep_costs_ns) : sleep_costs_ns;
    // Its own time only: a look may have been interrupted.
    t.account.note(std::min(r.took_ns, limit_ns), r.found ? saved_ns : 0, limit_ns);
}

}  // namespace vmsgr::preload
