// Writes into the page of counters, about once a second, what is not written where it happens: that the shard runs, its
// trunks, and on shard 0 what is of all. sharded<>; on shard 0 it starts after, and stops before, what it looks at.
#pragma once

#include <seastar/core/gate.hh>
#include <seastar/core/timer.hh>

#include "attach/control_server.hh"
#include "daemon/stats.hh"
#include "daemon/status.hh"
#include "trunks/service.hh"

namespace vmsgr::daemon {

// What shard 0 looks at.
struct stats_sources {
    const conn::budget& budget;
    const ssx::closer& closer;
    attach::control_server& control;
    const reload_state& reloaded;
};

class stats_writer {
    shm::stats_page& _page;
    shm::stats_shard& _own;
    seastar::sharded<trunks::service>& _trunks;
    const stats_sources _from;
    seastar::timer<seastar::lowres_clock> _timer;
    seastar::gate _adding_up;
    uint64_t _local_bytes = 0;
    size_t _trunks_shown = 0;

public:
    stats_writer(shm::stats_page& page, seastar::sharded<trunks::service>& trunks, stats_sources from);
    seastar::future<> start();
    seastar::future<> stop();

private:
    void tick() noexcept;
    void write_trunks();
    seastar::future<> write_facts();
};

}  // namespace vmsgr::daemon
