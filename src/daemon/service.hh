// Everything that vmsgrd runs, in the order in which it must start and the reverse in which it must stop.
#pragma once

#include <memory>

#include <seastar/core/alien.hh>
#include <seastar/core/future.hh>
#include <seastar/core/gate.hh>
#include <seastar/core/semaphore.hh>

#include "attach/control_server.hh"
#include "daemon/limits.hh"
#include "daemon/signals.hh"
#include "daemon/stats_writer.hh"
#include "daemon/heart.hh"
#include "daemon/status.hh"
#include "keeper/keeper.hh"
#include "trunks/service.hh"

namespace vmsgr::daemon {

// How long a stop may take.
std::chrono::milliseconds stop_limit(const conf::daemon_config& c) noexcept;

class inheritance;

class service {
    conf::daemon_config _config;
    const std::string _path;  // of its file; empty: none
    const machine _machine;   // as it was at the start
    keeper::supervisor _manager;
    keeper::board& _board;
    const keeper::seat& _seat;
    std::vector<keeper::kept> _given;  // instead of the seat's, where that stands by
    attach::control_socket& _socket;
    shm::stats_page& _page;
    local::registry& _registry;  // the budget shows its counts there
    conn::budget _budget;
    conn::users _users;
    ssx::closer _closer;
    double _started_s;
    seastar::sharded<conn::carrier> _carriers;
    seastar::sharded<trunks::service> _trunks;
    seastar::sharded<attach::connector> _connectors;
    seastar::sharded<local::listeners> _listeners;
    std::unique_ptr<attach::control_server> _control;
    seastar::sharded<stats_writer> _stats;
    seastar::sharded<heart> _hearts;
    seastar::gate _reloading;
    seastar::semaphore _reloads{1};  // one at a time
    reload_state _reloaded;

public:
    // path: of the configuration, for SIGHUP. limits: c's, as far as they fit m. page: of the counters of
    // c.shards shards; seat, registry and page outlive this.
    service(const conf::daemon_config& c, std::string path, attach::control_socket& socket, const machine& m,
            const fitted_limits& limits, keeper::seat& at, local::registry& listeners, shm::stats_page& page);

    // Runs until SIGTERM or SIGINT. Call in a seastar::thread.
    void run(signals& from, seastar::alien::instance& reactors);

private:
    using loaded = std::shared_ptr<base::result<conf::daemon_config>>;
    struct stop_request {
        seastar::promise<> asked;
        bool done = false;
        void ask() noexcept {
            if (!std::exchange(done, true)) {
                asked.set_value();
            }
        }
    };
    void listen_to(signals& from, seastar::alien::instance& reactors, std::shared_ptr<stop_request> stop);
    void listen_no_more(signals& from, seastar::alien::instance& reactors) noexcept;
    void tell_ready();
    conn::carrier_settings settings_of_carriers() const;
    void stand_by(seastar::alien::instance& reactors);
    seastar::future<size_t> moving_over_trunks();
    seastar::future<> hand_over_trunks();
    seastar::future<> hand_over();
    seastar::future<unsigned> young_left();
    std::unique_ptr<inheritance> take_over();
    void start_trunks();
    void serve_programs(std::unique_ptr<inheritance> left);
    void start_hearts();
    void be_ready(signals& from);
    loaded read_again() const;
    seastar::future<> reload(loaded fresh, signals& from);
    seastar::future<> name_routes();
    seastar::future<> change_to(conf::daemon_config fresh);
    seastar::future<> status(attach::viewer who, bool brief, attach::document_writer& to);
    bool drains() const noexcept { return _board.drains_since_s != 0; }
    seastar::future<> drain(bool on);
    seastar::future<> drain_or_not();
};

}  // namespace vmsgr::daemon
