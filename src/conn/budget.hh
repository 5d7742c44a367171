// Limits that all shards share: a count with a ceiling, and the lease that gives its share back.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <utility>

#include "shm/layout.hh"

namespace vmsgr::net {

// Kept free for what programs have asked for before they could see that it was the last.
constexpr uint64_t margin_of(uint64_t limit) noexcept { return std::min<uint64_t>(limit / 8, 512); }

class usage {
    std::atomic<uint64_t> _used{0};
    std::atomic<uint64_t> _limit;
    shm::load* _shown = nullptr;

public:
    explicit usage(uint64_t limit) noexcept : _limit(limit) {}
    uint64_t used() const noexcept { return _used.load(std::memory_order_relaxed); }
    uint64_t limit() const noexcept { return _limit.load(std::memory_order_relaxed); }
    // Whoever holds more keeps it.
    void set_limit(uint64_t limit) noexcept {
        _limit.store(limit, std::memory_order_relaxed);
        if (_shown != nullptr) {
            std::atomic_ref(_shown->enough).store(limit - margin_of(limit), std::memory_order_relaxed);
        }
    }

    // Before anything is taken. `where` lies in shared memory and outlives this.
    void show_in(shm::load& where) noexcept {
        where.enough = limit() - margin_of(limit());
        _shown = &where;
    }

    bool take(uint64_t n = 1) noexcept {
        if (_used.fetch_add(n, std::memory_order_relaxed) + n <= limit()) {
            if (_shown != nullptr) {
                _shown->used.fetch_add(n, std::memory_order_relaxed);
            }
            return true;
        }
        _used.fetch_sub(n, std::memory_order_relaxed);
        return false;
    }
    void give(uint64_t n = 1) noexcept {
        _used.fetch_sub(n, std::memory_order_relaxed);
        if (_shown != nullptr) {
            _shown->used.fetch_sub(n, std::memory_order_relaxed);
        }
    }
};

// Holds n of a usage, which must outlive it.
class lease {
    usage* _of = nullptr;
    uint64_t _n = 0;
    lease(usage* of, uint64_t n) noexcept : _of(of), _n(n) {}

public:
    lease() noexcept = default;
    lease(lease&& o) noexcept : _of(std::exchange(o._of, nullptr)), _n(o._n) {}
    lease& operator=(lease&& o) noexcept {
        std::swap(_of, o._of);
        std::swap(_n, o._n);
        return *this;
    }
    ~lease() {
        if (_of != nullptr) {
            _of->give(_n);
        }
    }
    static std::optional<lease> take(usage& of, uint64_t n = 1) noexcept {
        return of.take(n) ? std::optional(lease(&of, n)) : std::nullopt;
    }
};

// Descriptors that each thing keeps open.
inline constexpr unsigned fds_per_connection = 2;  // the socket, our end of the doorbell
inline constexpr unsigned fds_per_listener = 1;    // the socket; lifelines are counted by themselves
inline constexpr unsigned fds_per_session = 1;
inline constexpr unsigned fds_reserve = 128;       // Seastar's own, messages under way, documents

// One for the daemon. What it shows counts in outlives it.
struct budget {
    usage sessions;
    usage connections;
    usage listeners;
    usage fds;
};

}  // namespace vmsgr::net
