// Where one fiber waits to be woken by events of its own shard. A wake that comes while nobody waits is kept, so
// that a fiber which calls clear(), looks, finds nothing and waits cannot miss what came in between.
#pragma once

#include <optional>
#include <utility>

#include <seastar/core/future.hh>

namespace vmsgr::ssx {

class wake_point {
    std::optional<seastar::promise<>> _waiter;
    bool _signalled = false;

public:
    // One fiber at a time.
    seastar::future<> wait() {
        if (std::exchange(_signalled, false)) {
            return seastar::make_ready_future<>();
        }
        _waiter.emplace();
        return _waiter->get_future();
    }
    void clear() noexcept { _signalled = false; }
    void wake() noexcept {
        if (!_waiter) {
            _signalled = true;
            return;
        }
        auto waiter = std::move(*_waiter);
        _waiter.reset();
        waiter.set_value();
    }
};

}  // namespace vmsgr::ssx
