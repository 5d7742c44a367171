#include "client/kept.hh"

#include <sched.h>

#include <algorithm>

namespace vmsgr::client {

namespace {

// Never destroyed: other threads may go on while the process exits.
union everlasting {
    kept_conduits value;
    constexpr everlasting() : value() {}
    ~everlasting() {}
};
constinit everlasting all;
constexpr int tries_before_fork = 1000;

bool ready(const kept_conduit& c) noexcept {
    const auto& h = c.memory.header();
    constexpr uint32_t over = shm::end_left | shm::end_done;
    const uint32_t there = h.end[1].flags.load(std::memory_order_acquire);
    return (there & over) == over && (there & shm::end_shared) == 0 &&
           h.forgotten.load(std::memory_order_relaxed) == 0;
}

// The daemon forgets it with its next look.
void let_go(kept_conduit& c) noexcept {
    if (c.listener != 0) {
        c.memory.header().end[0].flags.fetch_and(~uint32_t(shm::end_kept), std::memory_order_release);
    }
    c = {};
}

}  // namespace

kept_conduits& kept() noexcept { return all.value; }

class kept_conduits::locked {
    kept_conduits& _of;
    const bool _mine;

public:
    explicit locked(kept_conduits& of) noexcept
        : _of(of), _mine(!of._busy.test_and_set(std::memory_order_acquire)) {}
    ~locked() {
        if (_mine) {
            _of._busy.clear(std::memory_order_release);
        }
    }
    explicit operator bool() const noexcept { return _mine; }
};

std::optional<kept_conduit> kept_conduits::take_for(uint64_t listener, uint64_t session) noexcept {
    locked l(*this);
    if (!l) {
        return std::nullopt;
    }
    for (auto& c : _all) {
        if (c.listener == listener && c.session == session && c.memory.map && ready(c)) {
            return std::exchange(c, {});
        }
    }
    return std::nullopt;
}

std::optional<kept_conduit> kept_conduits::take(uint64_t key) noexcept {
    locked l(*this);
    if (!l) {
        return std::nullopt;
    }
    for (auto& c : _all) {
        if (c.key == key && c.listener == 0 && c.memory.map) {
            return std::exchange(c, {});
        }
    }
    return std::nullopt;
}

// Half of the places are for each kind of end, so that neither drives the other out.
void kept_conduits::keep(kept_conduit c) noexcept {
    locked l(*this);
    if (!l) {
        let_go(c);
        return;
    }
    auto first = _all.begin() + (c.listener == 0 ? shm::kept_conduits_max : 0);
    auto place = std::min_element(first, first + shm::kept_conduits_max,
                                  [](auto& a, auto& b) { return a.since < b.since; });
    if (place->memory.map) {
        let_go(*place);
    }
    c.since = ++_count;
    *place = std::move(c);
}

void kept_conduits::lock_for_fork() noexcept {
    for (int i = 0; i < tries_before_fork && !_held_for_fork; ++i) {
        _held_for_fork = !_busy.test_and_set(std::memory_order_acquire);
        if (!_held_for_fork) {
            ::sched_yield();
        }
    }
}

// Not held: some thread was in the middle of it, or forked there in a signal handler. In the child that thread is gone,
// and what it left is not touched again.
void kept_conduits::unlock_after_fork(bool in_child) noexcept {
    if (!std::exchange(_held_for_fork, false)) {
        return;
    }
    for (auto& c : _all) {
        if (in_child) {
            c = {};  // unmapped here; the parent keeps it
        }
    }
    _busy.clear(std::memory_order_release);
}

}  // namespace vmsgr::client
