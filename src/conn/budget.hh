// Limits that all shards share: a count with a ceiling, and the lease that gives its share back.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <utility>

#include "shm/layout.hh"

namespace vmsgr::conn {

// Kept free for what programs have asked for before they could see that it was the last.
constexpr uint64_t margin_of(uint64_t limit) noexcept { return std::min<uint64_t>(limit / 8, 512); }

class usage {
    std::atomic<uint64_t> _used{0};
    std::atomic<uint64_t> _limit;
    shm::load* _shown = nullptr;
    std::atomic<bool> _closed{false};

public:
    explicit usage(uint64_t limit) noexcept : _limit(limit) {}
    uint64_t used() const noexcept { return _used.load(std::memory_order_relaxed); }
    uint64_t limit() const noexcept { return _limit.load(std::memory_order_relaxed); }
    // Whoever holds more keeps it.
    void set_limit(uint64_t limit) noexcept {
        _limit.store(limit, std::memory_order_relaxed);
        if (_shown != nullptr) {
            show_enough(enough());
        }
    }

    // What may still be taken by those who ask first.
    uint64_t room() const noexcept {
        const uint64_t most = limit() - margin_of(limit()), now = used();
        return now < most ? most - now : 0;
    }

    // What is shown from now on is that there is no room, whatever there is; or again what there is.
    void close(bool on) noexcept {
        _closed.store(on, std::memory_order_relaxed);
        if (_shown != nullptr) {
            show_enough(enough());
        }
    }

    // Before anything is taken. `where` lies in shared memory and outlives this. It counts from one, as 0 is enough of
    // nothing that is known.
    void show_in(shm::load& where) noexcept {
        where.used.store(1, std::memory_order_relaxed);
        where.enough = enough();
        _shown = &where;
    }
    // There is less room than the limit says: another limit is nearer. True: for nothing more; whoever is shown that
    // asks no more, so it is to be shown again when there may be room.
    bool show_room(uint64_t room) noexcept {
        if (_shown != nullptr) {
            show_enough(std::min(1 + used() + room, enough()));
        }
        return room == 0;
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

private:
    // As it is shown: what is used counts from one there.
    uint64_t enough() const noexcept { return 1 + limit() - margin_of(limit()); }
    void show_enough(uint64_t n) noexcept {
        constexpr uint64_t for_nothing = 1;
        std::atomic_ref(_shown->enough)
            .store(_closed.load(std::memory_order_relaxed) ? for_nothing : n, std::memory_order_relaxed);
    }
};

// Holds n of a usage, or of two: of what all may use and of what one may. They outlive it.
class lease {
    usage* _of = nullptr;
    usage* _also = nullptr;
    uint64_t _n = 0;
    lease(usage* of, usage* also, uint64_t n) noexcept : _of(of), _also(also), _n(n) {}

public:
    lease() noexcept = default;
    lease(lease&& o) noexcept : _of(std::exchange(o._of, nullptr)), _also(o._also), _n(o._n) {}
    lease& operator=(lease&& o) noexcept {
        std::swap(_of, o._of);
        std::swap(_also, o._also);
        std::swap(_n, o._n);
        return *this;
    }
    ~lease() {
        if (_of != nullptr) {
            _of->give(_n);
            if (_also != nullptr) {
                _also->give(_n);
            }
        }
    }
    static std::optional<lease> take(usage& of, uint64_t n = 1) noexcept {
        return of.take(n) ? std::optional(lease(&of, nullptr, n)) : std::nullopt;
    }
    // Of both or of neither.
    static std::optional<lease> take(usage& of, usage& also, uint64_t n = 1) noexcept {
        if (!also.take(n)) {
            return std::nullopt;
        }
        if (!of.take(n)) {
            also.give(n);
            return std::nullopt;
        }
        return lease(&of, &also, n);
    }
};

// Descriptors that each thing keeps open.
inline constexpr unsigned fds_per_connection = 2;  // the socket, our end of the doorbell
inline constexpr unsigned fds_per_listener = 1;  // the socket; lifelines are counted by themselves
inline constexpr unsigned fds_per_session = 1;

// How much there is of each thing.
struct amounts {
    uint64_t sessions = 0;
    uint64_t connections = 0;
    uint64_t listeners = 0;
    uint64_t fds = 0;
    uint64_t memory = 0;  // bytes of rings
    uint64_t maps = 0;  // memory mappings
    uint64_t in_flight = 0;  // descriptors that were sent, and are not received yet
    uint64_t passing = 0;  // connections beyond the limits, on their way to be the kernel's
};

struct budget {
    usage sessions;
    usage connections;
    usage listeners;
    usage fds;
    usage memory;
    usage maps;
    usage in_flight;
    usage passing;
    usage deposits;  // one for each connection or listener that may be inherited

    explicit budget(const amounts& a) noexcept
        : sessions(a.sessions),
          connections(a.connections),
          listeners(a.listeners),
          fds(a.fds),
          memory(a.memory),
          maps(a.maps),
          in_flight(a.in_flight),
          passing(a.passing),
          deposits(a.connections + a.listeners) {}

    // Whoever holds more keeps it.
    void set_limits(const amounts& a) noexcept {
        sessions.set_limit(a.sessions);
        connections.set_limit(a.connections);
        listeners.set_limit(a.listeners);
        fds.set_limit(a.fds);
        memory.set_limit(a.memory);
        maps.set_limit(a.maps);
        in_flight.set_limit(a.in_flight);
        passing.set_limit(a.passing);
        deposits.set_limit(a.connections + a.listeners);
    }
};

}  // namespace vmsgr::conn
