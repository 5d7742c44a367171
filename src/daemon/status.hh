// The status document that `vmsgr status --json` prints: one JSON object, described in vmsgr(1).
#pragma once

#include <string>

#include <seastar/core/future.hh>

#include "attach/control_server.hh"
#include "trunks/service.hh"

namespace vmsgr::daemon {


struct status_sources {
    const conf::daemon_config& config;
    const net::budget& budget;
    seastar::sharded<net::carrier>& carriers;
    seastar::sharded<net::listeners>& listeners;
    seastar::sharded<trunks::service>& trunks;
    const attach::control_server& control;
    double started_s;
};

seastar::future<std::string> status_document(status_sources s);

}  // namespace vmsgr::daemon
