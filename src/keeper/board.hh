// What a worker tells its keeper without a call, in memory that both map. A worker that went mad may write anything
// here: the keeper takes each word as a number, and none of them leads it to more than the end of that worker.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "shm/stats.hh"

namespace vmsgr::keeper {

struct alignas(64) heart {
    std::atomic<uint64_t> beats{0};   // of the shard itself; it moves at least every interval of `watchdog_ms`
    std::atomic<uint32_t> thread{0};  // of the kernel
};

// Zero at the start of each worker, but for what is kept. Its shards write; the keeper reads.
struct board {
    std::atomic<uint32_t> watched{0};        // its hearts beat; 0 again before it stops
    std::atomic<uint32_t> stop_limit_ms{0};  // how long its stop may take
    std::atomic<uint64_t> sessions{0};       // numbers given to sessions; kept
    std::atomic<uint64_t> reloads{0};  // kept; so often a worker has read the configuration again, with success
    std::atomic<uint32_t> drains_since_s{0};  // kept, over an upgrade too; Unix time of an order to drain; 0: none
    std::array<heart, shm::stats_shards_max> shard;
};

}  // namespace vmsgr::keeper
