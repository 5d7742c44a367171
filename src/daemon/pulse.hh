// Tells the service manager now and then that every shard runs, where it wants to know. Shard 0.
#pragma once

#include <seastar/core/gate.hh>
#include <seastar/core/smp.hh>
#include <seastar/core/timer.hh>

#include "keeper/supervisor.hh"

namespace vmsgr::daemon {

class pulse {
    keeper::supervisor& _to;
    seastar::gate _asked;
    seastar::timer<seastar::lowres_clock> _timer;

    void beat() {
        if (_asked.get_count() != 0) {
            return;  // some shard has not answered the last one
        }
        (void)seastar::with_gate(_asked, [this] {
            return seastar::smp::invoke_on_all([] {}).then([this] { _to.alive(); });
        }).handle_exception([](std::exception_ptr) {});  // out of memory: the next one
    }

public:
    explicit pulse(keeper::supervisor& to) : _to(to), _timer([this] { beat(); }) {
        if (to.watchdog().count() > 0) {
            _timer.arm_periodic(std::chrono::ceil<std::chrono::milliseconds>(to.watchdog() / 3));
        }
    }
    seastar::future<> stop() noexcept {
        _timer.cancel();
        return _asked.close();
    }
};

}  // namespace vmsgr::daemon
