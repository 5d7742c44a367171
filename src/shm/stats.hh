// The daemon's page of counters: what it has done and carries, written where it happens by the shard that owns it, and
// read by a process that maps the page for reading (daemon/stats_server.hh). So it can be read while every shard is
// stopped.
//
// One writer a field: the shard of a block, shard 0 for what is of all. A number is a base::tally; what has several
// parts that belong together is `published`. Tables are bounded; what finds no row is counted there, and not shown.
#pragma once

#include <string.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <cstdint>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/address.hh"
#include "base/histogram.hh"
#include "base/clock.hh"
#include "base/tally.hh"

namespace vmsgr::shm {

// A plain value that is read whole or not at all: a seqlock. One writer; readers anywhere, who do not hold it up.
template <typename T>
class published {
    static_assert(std::is_trivially_copyable_v<T>);
    static constexpr size_t words = (sizeof(T) + 7) / 8;
    static constexpr int tries_max = 64;
    std::atomic<uint64_t> _version{0};  // odd: it is being written; 0: never was
    std::array<std::atomic<uint64_t>, words> _words{};

public:
    void write(const T& value) noexcept {
        uint64_t from[words]{};
        std::memcpy(from, &value, sizeof(T));
        const uint64_t v = _version.load(std::memory_order_relaxed);
        _version.store(v + 1, std::memory_order_relaxed);
        for (size_t i = 0; i < words; ++i) {
            _words[i].store(from[i], std::memory_order_release);  // who reads it sees the odd version, or a later one
        }
        _version.store(v + 2, std::memory_order_release);
    }
    // Nothing where it was never written, or where its writer is stopped in the middle of it.
    std::optional<T> read() const noexcept {
        for (int i = 0; i < tries_max; ++i) {
            const uint64_t before = _version.load(std::memory_order_acquire);
            uint64_t to[words];
            for (size_t w = 0; w < words; ++w) {
                to[w] = _words[w].load(std::memory_order_acquire);  // pairs with write()
            }
            if (before == 0) {
                return std::nullopt;
            }
            if (before % 2 == 0 && _version.load(std::memory_order_relaxed) == before) {
                T value;
                std::memcpy(&value, to, sizeof(T));
                return value;
            }
        }
        return std::nullopt;
    }
};

inline constexpr size_t stats_name_bytes = 64;
using stats_name = std::array<char, stats_name_bytes>;  // cut, and ended by a NUL
inline stats_name to_stats_name(std::string_view text) noexcept {
    stats_name out{};
    std::memcpy(out.data(), text.data(), std::min(text.size(), out.size() - 1));
    return out;
}

template <size_t n>
std::string text_of(const std::array<char, n>& text) {
    return {text.data(), strnlen(text.data(), n)};
}

// Whoever reads it takes text, numbers and enumerations as they come: only the daemon writes here.
struct stats_connection {
    uint64_t id = 0;  // 0: the row is free
    uint64_t session = 0;
    double opened_s = 0;  // Unix time
    int32_t pid = 0;
    int32_t fd = -1;
    uint32_t uid = 0;
    uint16_t route = 0;  // in the shard's routes
    uint8_t server = 0;
    uint8_t path = 0;  // conn::conn_path
    base::address local, peer;
};

struct alignas(64) stats_connection_row {
    published<stats_connection> about;
    alignas(64) base::tally state;  // conn::conn_state
    base::tally bytes_in, bytes_out;
    // Since when nothing has moved, on CLOCK_MONOTONIC in microseconds; 0: it moves, or has nothing to move.
    base::tally program_stalls_since_us;  // the program does not read
    base::tally far_stalls_since_us;  // the network does not take
};

struct stats_route_row {
    published<stats_name> name;
    base::tally connections, bytes_in, bytes_out;
    base::histogram connecting;  // of programs' connects, until the network has answered
    base::histogram program_stalls;  // a program did not read, and its ring was full
    base::histogram far_stalls;  // the network did not take what a program had sent
};

struct stats_session {
    uint64_t id = 0;  // 0: the row is free
    int32_t pid = 0;
    uint32_t uid = 0;
    stats_name program{};
};

struct stats_session_row {
    published<stats_session> about;
    // Of its connections to programs of this host, as it says, about once a second.
    base::tally local_connections, local_bytes_out;
};

inline constexpr size_t stats_trunk_counters = 16;
struct stats_trunk {
    stats_name name{};
    base::address address;
    uint8_t used = 0, outgoing = 0, learnt = 0, secured = 0;
    uint16_t lane = 0;
    std::array<char, 10> state{};
    uint64_t channels = 0, rtt_us = 0, in_flight_bytes = 0, dropped = 0, refused = 0;
    std::array<uint64_t, stats_trunk_counters> counters{};  // trunk::engine_counter_table's
    base::histogram_image rtt;
};

inline constexpr size_t stats_counters = 40;  // conn::counters
inline constexpr size_t stats_connections = 4096;
inline constexpr size_t stats_routes = 65;  // the last: of all that have no row
inline constexpr size_t stats_trunks = 128;
inline constexpr size_t stats_sessions = 1024;
inline constexpr size_t stats_shards_max = 256;
inline constexpr size_t stats_facts = 32;

struct alignas(64) stats_shard {
    base::tally thread;  // of the kernel; 0: not started
    base::tally tick_us;  // CLOCK_MONOTONIC; anew about once a second while it runs
    alignas(64) std::array<uint64_t, stats_counters> counters;  // a conn::counters
    base::tally routes;  // how many are there
    std::array<stats_route_row, stats_routes> route;
    std::array<published<stats_trunk>, stats_trunks> trunk;
    base::tally connections_used;  // rows from here on were never used
    base::tally connections_hidden;
    std::array<stats_connection_row, stats_connections> connection;
};

struct stats_access {
    uint32_t observers_gid = 0;
    uint32_t has_observers = 0;
    uint16_t uids = 0, gids = 0;
    std::array<uint32_t, 256> uid{}, gid{};
};

// Written by the keeper, which is there before the first worker and after it.
struct stats_worker {
    base::tally pid;  // 0: none runs
    base::tally restarts;
};

struct alignas(64) stats_page {
    uint64_t shards = 0;
    double started_s = 0;
    stats_worker worker;
    published<stats_access> access;
    published<std::array<uint64_t, stats_facts>> facts;  // daemon/stats.hh says which
    base::tally sessions_used;  // rows from here on were never used
    std::array<stats_session_row, stats_sessions> session;
    // The blocks of the shards follow.
    // What a worker that has ended has shown of its own. While no other writes.
    void forget() noexcept {
        sessions_used.set(0);
        for (auto& s : session) {
            new (&s) stats_session_row();
        }
        for (size_t i = 0; i < shards; ++i) {
            new (&of(i)) stats_shard();
        }
    }
    static size_t bytes(size_t shards) noexcept { return sizeof(stats_page) + shards * sizeof(stats_shard); }
    stats_shard& of(size_t shard) noexcept { return reinterpret_cast<stats_shard*>(this + 1)[shard]; }
    const stats_shard& of(size_t shard) const noexcept { return reinterpret_cast<const stats_shard*>(this + 1)[shard]; }
};

// The page's time: CLOCK_MONOTONIC.
inline uint64_t stats_now_us() noexcept { return uint64_t(base::now_ns()) / 1000; }

}  // namespace vmsgr::shm
