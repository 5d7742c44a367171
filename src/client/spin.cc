#include "client/spin.hh"

#include <sched.h>
#include <time.h>

#include <algorithm>

#include "proto/spin.hh"

namespace vmsgr::client {

void set_spin_limit(uint32_t us) noexcept {
    cpu_set_t mine;
    bool alone = ::sched_getaffinity(0, sizeof mine, &mine) == 0 && CPU_COUNT(&mine) < 2;
    spin_limit.store(alone ? 0 : std::min(us, proto::spin_us_max) * 1000, std::memory_order_relaxed);
}

int64_t now_ns() noexcept {
    timespec t;
    ::clock_gettime(CLOCK_MONOTONIC, &t);
    return int64_t(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

}  // namespace vmsgr::client
