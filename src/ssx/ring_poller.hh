// Polls shared memory for one shard. Only rings on which a fiber waits now, and that were busy a moment ago, are
// in the list; the others are parked: their waits were announced in the rings, and their doorbells wake them.
// So the cost of a turn follows the number of active connections.
//
// Owner: one per shard. All calls on that shard.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <seastar/core/internal/poll.hh>

namespace vmsgr::ssx {

// Someone who waits for words in shared memory to change.
class ring_waiter {
    friend class ring_poller;
    static constexpr uint32_t not_listed = UINT32_MAX;
    uint32_t _position = not_listed;
    std::chrono::steady_clock::time_point _active_at;

public:
    // Looks only. True: wake_ring_waits() would wake somebody.
    virtual bool rings_ready() noexcept = 0;
    virtual void wake_ring_waits() noexcept = 0;
    // Announces the waits in the rings and looks again. False: something came; whoever waited was woken.
    virtual bool park() noexcept = 0;
    virtual ~ring_waiter() = default;
};

class ring_poller {
    class pollfn;
    std::chrono::microseconds _window{100};
    std::vector<ring_waiter*> _active;
    std::optional<seastar::internal::poller> _poller;

public:
    ring_poller() = default;
    ring_poller(const ring_poller&) = delete;
    // Rings without work for `window` are parked.
    void start(std::chrono::microseconds window);
    void stop() noexcept { _poller.reset(); }

    // A fiber begins to wait for a ring: it is polled from now on.
    void activate(ring_waiter& w);
    // Must be called before a waiter ends. Does nothing for one that is parked.
    void forget(ring_waiter& w) noexcept;
    bool polls(const ring_waiter& w) const noexcept { return w._position != ring_waiter::not_listed; }
    size_t active() const noexcept { return _active.size(); }

private:
    bool poll() noexcept;
    bool look() const noexcept;
    bool park_all() noexcept;
};

}  // namespace vmsgr::ssx
