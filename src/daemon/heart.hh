// A shard's beat on the board of the keeper (keeper/board.hh), by which it sees that the shard moves. sharded<heart>.
#pragma once

#include <unistd.h>

#include <seastar/core/lowres_clock.hh>
#include <seastar/core/smp.hh>
#include <seastar/core/timer.hh>

#include "keeper/board.hh"

namespace vmsgr::daemon {

class heart {
    keeper::heart& _shown;
    seastar::timer<seastar::lowres_clock> _timer;

    void beat() noexcept { _shown.beats.fetch_add(1, std::memory_order_relaxed); }

public:
    // limit: within which it has to beat; 0: nobody looks.
    heart(keeper::board& b, std::chrono::milliseconds limit)
        : _shown(b.shard[seastar::this_shard_id()]), _timer([this] { beat(); }) {
        _shown.thread.store(uint32_t(::gettid()), std::memory_order_relaxed);
        if (limit.count() != 0) {
            _timer.arm_periodic(std::max(limit / 4, std::chrono::milliseconds(10)));
        }
    }
    seastar::future<> stop() noexcept {
        _timer.cancel();
        return seastar::make_ready_future<>();
    }
};

}  // namespace vmsgr::daemon
