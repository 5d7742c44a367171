#include "client/spin.hh"

#include <sched.h>
#include <time.h>

#include <algorithm>

namespace vmsgr::client {

namespace {

std::atomic<uint32_t> limit_ns{0};

}  // namespace

void set_spin_limit(uint32_t us) noexcept {
    cpu_set_t mine;
    bool alone = ::sched_getaffinity(0, sizeof mine, &mine) == 0 && CPU_COUNT(&mine) < 2;
    limit_ns.store(alone ? 0 : std::min(us, spin_max_us) * 1000, std::memory_order_relaxed);
}

uint32_t spin_limit_ns() noexcept { return limit_ns.load(std::memory_order_relaxed); }

int64_t now_ns() noexcept {
    timespec t;
    ::clock_gettime(CLOCK_MONOTONIC, &t);
    return int64_t(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

}  // namespace vmsgr::client
