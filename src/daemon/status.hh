// The status document that `vmsgr status --json` prints: one JSON object, described in vmsgr(1). Who does not see
// everything sees the connections, listeners and sessions of their own user, what these add up to, and the limits.
#pragma once

#include <string>

#include <seastar/core/future.hh>

#include "attach/control_server.hh"
#include "trunks/service.hh"

namespace vmsgr::daemon {

// What has come of SIGHUP.
struct reload_state {
    uint64_t count = 0;  // good ones
    std::string error;   // of the last one; empty: it was good, or there was none
};

struct status_sources {
    attach::viewer viewer;  // is shown what belongs to them, or to all
    bool brief;             // no list of connections, only what they add up to
    const conf::daemon_config& config;
    const conn::budget& budget;
    const conn::users& users;
    const ssx::closer& closer;
    seastar::sharded<conn::carrier>& carriers;
    seastar::sharded<local::listeners>& listeners;
    seastar::sharded<trunks::service>& trunks;
    const attach::control_server& control;
    double started_s;
    uint64_t worker_restarts;
    const reload_state& reloaded;
    uint32_t drains_since_s;  // 0: it does not
};

seastar::future<> write_status(status_sources s, attach::document_writer& to);

}  // namespace vmsgr::daemon
