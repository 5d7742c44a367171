#include "daemon/service.hh"

#include <signal.h>

#include <seastar/core/signal.hh>
#include <seastar/core/smp.hh>
#include <seastar/core/thread.hh>
#include <seastar/util/defer.hh>

#include "daemon/status.hh"
#include "proto/control.hh"
#include "trunk/node_id.hh"

namespace vmsgr::daemon {

namespace {

seastar::logger log("vmsgrd");

net::carrier_settings settings_of(const conf::daemon_config& c) {
    using namespace std::chrono;
    net::carrier_settings s;
    s.ring_bytes = c.limits.ring_bytes;
    s.orphan_limit = milliseconds(c.limits.orphan_ms);
    s.flush_limit = milliseconds(c.limits.flush_ms);
    s.poll_window = c.polling == conf::poll_mode::busy ? microseconds(10000) : microseconds(100);
    return s;
}

// Beside the control socket, which belongs to one daemon; where there are no trunks nobody asks for it.
uint64_t node_of(const conf::daemon_config& c) {
    if (!c.trunks.wanted()) {
        return 0;
    }
    auto node = trunk::load_node_id(c.socket + ".node");
    if (!node.not_kept.empty()) {
        log.warn("{}; peers take this daemon for another one after its next start", node.not_kept);
    }
    return node.id;
}

}  // namespace

service::service(const conf::daemon_config& c, attach::control_socket& socket, uint64_t descriptors)
    : _config(c),
      _socket(socket),
      _registry(c.networks == conf::namespaces::shared),
      _budget{net::usage(c.limits.sessions), net::usage(c.limits.connections), net::usage(c.limits.listeners),
              net::usage(descriptors)},
      _started_s(net::unix_time_s()) {
    _budget.fds.show_in(_registry.descriptors());
    _budget.connections.show_in(_registry.connections());
}

seastar::future<std::string> service::status() {
    return status_document({_config, _budget, _carriers, _listeners, _trunks, *_control, _started_s});
}

void service::run() {
    seastar::promise<> asked_to_stop;
    bool asked = false;
    auto ask = [&] {
        if (!std::exchange(asked, true)) {
            asked_to_stop.set_value();
        }
    };
    seastar::handle_signal(SIGTERM, ask);
    seastar::handle_signal(SIGINT, ask);

    // deferred_stop's way, by hand: a sharded service whose start failed is stopped as well.
    auto stop_trunks = seastar::defer([this]() noexcept { _trunks.stop().get(); });
    _trunks.start(std::cref(_config.trunks), node_of(_config), std::ref(_budget), std::ref(_carriers),
                  std::ref(_listeners), std::ref(_registry)).get();

    auto stop_carriers = seastar::defer([this]() noexcept { _carriers.stop().get(); });
    _carriers.start(settings_of(_config)).get();
    _carriers.invoke_on_all(&net::carrier::start).get();

    auto stop_connectors = seastar::defer([this]() noexcept { _connectors.stop().get(); });
    _connectors.start(std::ref(_carriers), std::ref(_trunks)).get();

    auto stop_listeners = seastar::defer([this]() noexcept { _listeners.stop().get(); });
    _listeners.start(std::ref(_carriers), std::ref(_budget), std::ref(_registry), _socket.doors()).get();

    auto stop_opening = seastar::defer([this]() noexcept { _trunks.invoke_on_all(&trunks::service::quiesce).get(); });
    _trunks.invoke_on_all(&trunks::service::start).get();

    auto stop_control = seastar::defer([this]() noexcept {
        if (_control) {
            _control->stop().get();
        }
        _socket.close();
    });
    _control = std::make_unique<attach::control_server>(
        attach::control_deps{_config, _budget, _carriers, _connectors, _listeners, _registry,
                             [this] { return status(); }},
        _socket);
    _control->start();

    log.info("vmsgrd {} ready: socket {}, {} shards, {} routes", proto::version_text, _socket.path(),
             seastar::smp::count, _config.routes.count);
    asked_to_stop.get_future().get();
    log.info("vmsgrd stops: {} connections are flushed, for {} ms at most", _budget.connections.used(),
             _config.limits.flush_ms);
}

}  // namespace vmsgr::daemon
