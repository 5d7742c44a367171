// What the page of counters (shm/stats.hh) says of all shards together, and what whoever reads the page makes of it.
// Seastar-free; single thread.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "attach/access.hh"
#include "base/unique_fd.hh"
#include "shm/stats.hh"

namespace vmsgr::daemon {

// Shard 0 writes them, about once a second.
enum class fact : uint8_t {
    sessions,
    sessions_limit,
    connections,
    connections_limit,
    listeners,
    listeners_limit,
    memory,
    memory_limit,
    descriptors,
    descriptors_limit,
    in_flight,
    in_flight_limit,
    local_bytes,
    local_connections,
    diallers_turned_away,
    closing,
    reloads,
    reload_failed,
    count
};
using facts = std::array<uint64_t, shm::stats_facts>;
static_assert(size_t(fact::count) <= shm::stats_facts);
inline uint64_t& at(facts& f, fact which) noexcept { return f[size_t(which)]; }
inline uint64_t at(const facts& f, fact which) noexcept { return f[size_t(which)]; }

enum class shard_state : uint8_t {
    running,
    stopped,  // its thread is: by a debugger, or SIGSTOP
    silent,   // it has not told the time for shard_silent_us
};
std::string_view to_text(shard_state) noexcept;
inline constexpr uint64_t shard_silent_us = 3'000'000;

struct shard_facts {
    shard_state state = shard_state::running;
    uint64_t silent_us = 0;
    std::optional<uint64_t> cpu_us;  // that its thread has used
};

// The page, as a reader has it.
class stats_reader {
    const shm::stats_page* _page;
    pid_t _pid;

public:
    // pid: of the keeper. The page outlives this.
    stats_reader(const shm::stats_page* page, pid_t pid) noexcept : _page(page), _pid(pid) {}

    const shm::stats_page& page() const noexcept { return *_page; }
    size_t shards() const noexcept { return _page->shards; }
    const shm::stats_shard& shard(size_t i) const noexcept { return _page->of(i); }
    pid_t pid() const noexcept { return _pid; }
    pid_t worker() const noexcept { return pid_t(_page->worker.pid); }  // 0: none runs
    double uptime_s() const noexcept;
    facts read_facts() const noexcept { return _page->facts.read().value_or(facts{}); }
    shard_facts look_at(size_t shard) const noexcept;
    conf::access_config access() const;
};

// What `vmsgr status --json` prints, as far as the page has it; whole: also connections, sessions and trunks, of the
// connections no more than rows_max.
std::string stats_document(const stats_reader& from, const attach::viewer& who, bool whole, size_t rows_max = SIZE_MAX);

void publish_access(shm::stats_page& to, const conf::access_config& a) noexcept;

}  // namespace vmsgr::daemon
