// Everything that vmsgrd runs, in the order in which it must start and the reverse in which it must stop.
#pragma once

#include <memory>

#include <seastar/core/future.hh>

#include "attach/control_server.hh"
#include "trunks/service.hh"

namespace vmsgr::daemon {

class service {
    const conf::daemon_config& _config;
    attach::control_socket& _socket;
    net::registry _registry;  // outlives the budget, which shows its counts there
    net::budget _budget;
    double _started_s;
    seastar::sharded<net::carrier> _carriers;
    seastar::sharded<trunks::service> _trunks;
    seastar::sharded<net::connector> _connectors;
    seastar::sharded<net::listeners> _listeners;
    std::unique_ptr<attach::control_server> _control;

public:
    // descriptors: how many may be used for programs.
    service(const conf::daemon_config& c, attach::control_socket& socket, uint64_t descriptors);

    // Runs until SIGTERM or SIGINT. Call in a seastar::thread.
    void run();

private:
    seastar::future<std::string> status();
};

}  // namespace vmsgr::daemon
