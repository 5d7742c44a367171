#include "daemon/service.hh"

#include <functional>
#include <span>
#include <thread>

#include <seastar/core/coroutine.hh>
#include <seastar/core/sleep.hh>
#include <seastar/core/smp.hh>
#include <seastar/core/thread.hh>
#include <seastar/util/defer.hh>

#include "daemon/inheritance.hh"
#include "daemon/pulse.hh"
#include "daemon/reactor_options.hh"
#include "keeper/upgrade.hh"
#include "proto/control.hh"
#include "trunk/node_id.hh"

namespace vmsgr::daemon {

namespace {

seastar::logger log("vmsgrd");

conn::carrier_settings settings_of(const conf::daemon_config& c) {
    using namespace std::chrono;
    conn::carrier_settings s;
    s.ring_bytes = c.limits.ring_bytes;
    s.orphan_limit = milliseconds(c.limits.orphan_ms);
    s.flush_limit = milliseconds(c.limits.flush_ms);
    s.poll_window = c.polling == conf::poll_mode::busy ? microseconds(10000) : microseconds(100);
    return s;
}

// For what is under way when another version takes over, and between two looks at it.
constexpr auto hand_over_limit = std::chrono::milliseconds(50);
constexpr auto rest_limit = std::chrono::milliseconds(20);
constexpr auto hand_over_pause = std::chrono::milliseconds(1);

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

void log_lowered(const fitted_limits& limits) {
    for (auto& text : limits.lowered) {
        log.info("{}", text);
    }
}

}  // namespace

// What is in rings, then what the kernel has of them, then trunks.
std::chrono::milliseconds stop_limit(const conf::daemon_config& c) noexcept {
    return 2 * std::chrono::milliseconds(c.limits.flush_ms) + std::chrono::seconds(5);
}

service::service(const conf::daemon_config& c, std::string path, attach::control_socket& socket, const machine& m,
                 const fitted_limits& limits, keeper::seat& at, local::registry& listeners, shm::stats_page& page)
    : _config(c),
      _path(std::move(path)),
      _machine(m),
      _manager(std::move(at.manager)),
      _board(at.shown),
      _seat(at),
      _socket(socket),
      _page(page),
      _registry(listeners),
      _budget(limits.all),
      _users(limits.each_user),
      _closer(limits.closing),
      _started_s(conn::unix_time_s()) {
    log_lowered(limits);
    _page.shards = c.shards;
    _page.started_s = _started_s;
    publish_access(_page, c.access);
    _budget.fds.show_in(_registry.descriptors());
    _budget.connections.show_in(_registry.connections());
}

seastar::future<> service::status(attach::viewer who, bool brief, attach::document_writer& to) {
    return write_status({who, brief, _config, _budget, _users, _closer, _carriers, _listeners, _trunks, *_control,
                         _started_s, _page.worker.restarts, _reloaded, _board.drains_since_s},
                        to);
}

// Nothing new is carried, and what is becomes the kernel's (conn/vm_conn_back.cc), so that the daemon can be stopped.
// The next worker goes on with it.
seastar::future<> service::drain(bool on) {
    if (on == drains()) {
        co_return;
    }
    _board.drains_since_s = on ? uint32_t(conn::unix_time_s()) : 0;
    log.info("{}", on ? "connections and listeners go back to the kernel (vmsgr drain)" : "the drain is cancelled");
    co_await drain_or_not();
}

// Each shard as it is to be when it hears of it: a cancel may be faster than the order.
seastar::future<> service::drain_or_not() {
    _budget.connections.close(drains());
    co_await _trunks.invoke_on_all([this](trunks::service& t) { t.refuse_all(drains()); });
    co_await _listeners.invoke_on_all([this](local::listeners& l) {
        if (drains()) {
            l.give_back();
        }
    });
    co_await _carriers.invoke_on_all([this](conn::carrier& c) { c.drain(drains()); });
}

void service::tell_ready() {
    const std::string status = std::to_string(seastar::smp::count) + " shards, " +
                               std::to_string(_config.routes.count) + " routes" +
                               (_reloaded.error.empty() ? "" : "; SIGHUP changed nothing: " + _reloaded.error);
    if (!_manager.ready(status)) {
        log.warn("the service manager does not take READY=1; see systemctl status");
    }
}

// A file that cannot be read, or that holds a mistake, changes nothing.
seastar::future<> service::reload(loaded fresh, signals& from) {
    auto one_at_a_time = co_await seastar::get_units(_reloads, 1);
    _manager.reloading();
    try {
        if (!*fresh) {
            throw std::runtime_error((*fresh).error().text);
        }
        co_await change_to(std::move(**fresh));
        from.set_limit(stop_limit(_config));
        _board.stop_limit_ms.store(uint32_t(stop_limit(_config).count()), std::memory_order_relaxed);
        ++_reloaded.count;
        _board.reloads.store(_reloaded.count, std::memory_order_relaxed);
        _reloaded.error.clear();
        log.info("SIGHUP: {} was read again: {} routes, {} peers", _path, _config.routes.count,
                 _config.trunks.peers.size());
    } catch (const std::exception& e) {
        _reloaded.error = e.what();
        log.error("SIGHUP: nothing has changed: {}", e.what());
    }
    tell_ready();
}

// In the page of counters.
seastar::future<> service::name_routes() {
    return _carriers.invoke_on_all([this](conn::carrier& c) {
        for (const auto& r : std::span(_config.routes.routes).first(_config.routes.count)) {
            c.shown().name_route(r.name_text());
        }
    });
}

// Throws as long as nothing has changed.
seastar::future<> service::change_to(conf::daemon_config fresh) {
    const auto fixed = conf::keep_fixed(_config, fresh);
    const auto limits = fit_limits(fresh, _machine);
    if (!limits) {
        throw std::runtime_error(limits.error().text);
    }
    co_await _trunks.invoke_on_all([&fresh](trunks::service& t) { return t.prepare(fresh.trunks); });
    if (fresh.access != _config.access) {
        if (auto r = _socket.change_access(fresh.access); !r) {
            (void)_socket.change_access(_config.access);  // as far as it got
            throw std::runtime_error(r.error().text);
        }
    }
    for (auto& key : fixed) {
        log.warn("SIGHUP: {}: changes at the next start alone", key);
    }
    _config = fresh;
    publish_access(_page, _config.access);
    co_await name_routes();
    _budget.set_limits(limits->all);
    _users.set_limits(limits->each_user);
    log_lowered(*limits);
    set_log_levels(_config);
    co_await _carriers.invoke_on_all(
        [orphan = fresh.limits.orphan_ms, flush = fresh.limits.flush_ms](conn::carrier& c) {
            c.set_limits(std::chrono::milliseconds(orphan), std::chrono::milliseconds(flush));
        });
    co_await _trunks.invoke_on_all([&fresh](trunks::service& t) { t.change(fresh.trunks); });
}

service::loaded service::read_again() const {
    return std::make_shared<base::result<conf::daemon_config>>(
        _path.empty() ? base::fail(ENOENT, "vmsgrd was started without --config") : conf::load_daemon_config(_path));
}

conn::carrier_settings service::settings_of_carriers() const {
    auto s = settings_of(_config);
    s.custody = _seat.custody.get();
    return s;
}

void service::start_hearts() {
    _board.stop_limit_ms.store(uint32_t(stop_limit(_config).count()), std::memory_order_relaxed);
    _hearts.start(std::ref(_board), std::chrono::milliseconds(_config.watchdog_ms)).get();
    _board.watched.store(1, std::memory_order_relaxed);
}

// A worker that follows another starts with what the file said when vmsgrd did; if it was read again since, it is now.
void service::be_ready(signals& from) {
    if (const uint64_t reloads = _board.reloads; reloads != 0) {
        _reloaded.count = reloads - 1;
        reload(read_again(), from).get();
    } else {
        tell_ready();
    }
}

// The thread of signals reads the file, as it may block; what it finds goes to shard 0.
void service::listen_to(signals& from, seastar::alien::instance& reactors, std::shared_ptr<stop_request> stop) {
    signals::receivers to;
    to.stop = [&reactors, stop] { seastar::alien::run_on(reactors, 0, [stop]() noexcept { stop->ask(); }); };
    to.reload = [this, &from, &reactors] {
        loaded fresh = read_again();
        seastar::alien::run_on(reactors, 0, [this, &from, fresh = std::move(fresh)]() noexcept {
            (void)seastar::try_with_gate(_reloading, [this, &from, fresh] {
                return reload(fresh, from);
            }).handle_exception([](std::exception_ptr) {});  // it stops
        });
    };
    to.hand_over = [this, &reactors] {
        seastar::alien::run_on(reactors, 0, [this]() noexcept {
            (void)seastar::try_with_gate(_reloading, [this] {
                return hand_over();
            }).handle_exception([](std::exception_ptr) {});  // the keeper waits no longer than it has to
        });
    };
    from.begin(std::move(to));
}

// What the thread has said before it was told to be silent is done when this is: nothing of it comes later.
void service::listen_no_more(signals& from, seastar::alien::instance& reactors) noexcept {
    from.end();
    seastar::promise<> said;
    seastar::alien::run_on(reactors, 0, [&said]() noexcept { said.set_value(); });
    said.get_future().get();
    _reloading.close().get();
}

// The version that runs is told so, and hands over. The thread waits for what comes, as a reactor may not.
void service::stand_by(seastar::alien::instance& reactors) {
    _manager.stands_by();
    seastar::promise<> done;
    base::result<std::vector<keeper::kept>> got;
    std::thread inbox([&] {
        got = keeper::receive_all(_seat.custody.get(), _seat.ledger.size());
        seastar::alien::run_on(reactors, 0, [&done]() noexcept { done.set_value(); });
    });
    done.get_future().get();
    inbox.join();
    if (!got) {
        throw std::runtime_error(got.error().text);
    }
    _given = std::move(*got);
}

std::unique_ptr<inheritance> service::take_over() {
    const std::span<const keeper::kept> held = _seat.stands_by ? std::span<const keeper::kept>(_given) : _seat.held;
    _carriers.invoke_on_all([this, held](conn::carrier& c) { c.start_keeping(_seat.ledger, held); }).get();
    auto left = std::make_unique<inheritance>(_seat, held, _config, _budget, _users, _carriers);
    left->connections(_trunks).get();
    return left;
}

seastar::future<unsigned> service::young_left() {
    auto left = [](conn::carrier& c) { return c.hand_over_all(); };
    const unsigned connections = co_await _carriers.map_reduce0(left, 0U, std::plus<>());
    auto brought = [](local::listeners& l) { return l.under_way(); };
    co_return connections + co_await _listeners.map_reduce0(brought, 0U, std::plus<>()) + _control->under_way();
}

seastar::future<size_t> service::moving_over_trunks() {
    auto opening = [](trunks::service& t) { return t.under_way(); };
    auto at_work = [](conn::carrier& c) { return size_t(c.hand_over_all() + c.rest()); };
    const size_t opens = co_await _trunks.map_reduce0(opening, size_t(0), std::plus<>());
    co_return opens + co_await _carriers.map_reduce0(at_work, size_t(0), std::plus<>());
}

seastar::future<> service::hand_over_trunks() {
    if (!_config.trunks.wanted()) {
        co_return;
    }
    const auto until = std::chrono::steady_clock::now() + rest_limit;
    co_await _trunks.invoke_on_all(&trunks::service::freeze);
    while (co_await moving_over_trunks() != 0 && std::chrono::steady_clock::now() < until) {
        co_await seastar::sleep(hand_over_pause);
    }
    co_await _trunks.invoke_on_all(&trunks::service::hand_over);
}

// Nothing is begun any more, and what has begun gets a moment to be done. Bytes move until the keeper ends this worker.
seastar::future<> service::hand_over() {
    const auto until = std::chrono::steady_clock::now() + hand_over_limit;
    _control->rest();
    co_await _listeners.invoke_on_all(&local::listeners::rest);
    unsigned left = 0;
    while ((left = co_await young_left()) != 0 && std::chrono::steady_clock::now() < until) {
        co_await seastar::sleep(hand_over_pause);
    }
    co_await hand_over_trunks();
    log.info("another vmsgrd takes over; {} connections or requests were not ready for it", left);
    _manager.has_handed_over();
}

void service::start_trunks() {
    _trunks.invoke_on_all(&trunks::service::start).get();
    _trunks.invoke_on_all(&trunks::service::begin).get();
}

void service::serve_programs(std::unique_ptr<inheritance> left) {
    _control = std::make_unique<attach::control_server>(
        attach::control_deps{
            _config, _budget, _users, _carriers, _connectors, _listeners, _registry, _page, _board.sessions,
            _board.drains_since_s,
            [this](attach::viewer who, bool brief, attach::document_writer& to) { return status(who, brief, to); },
            [this](bool on) { return drain(on); }},
        _socket);
    left->sessions(*_control).get();
    left.reset();
    _control->start();
}

void service::run(signals& from, seastar::alien::instance& reactors) {
    auto stop = std::make_shared<stop_request>();

    // deferred_stop's way, by hand: a sharded service whose start failed is stopped as well.
    auto stop_trunks = seastar::defer([this]() noexcept { _trunks.stop().get(); });
    _trunks
        .start(std::cref(_config.trunks), node_of(_config), std::ref(_budget), std::ref(_carriers),
               std::ref(_listeners), std::ref(_registry))
        .get();

    auto stop_carriers = seastar::defer([this]() noexcept { _carriers.stop().get(); });
    _carriers.start(settings_of_carriers(), std::ref(_closer), std::ref(_page)).get();
    _carriers.invoke_on_all(&conn::carrier::start).get();
    name_routes().get();

    auto stop_connectors = seastar::defer([this]() noexcept { _connectors.stop().get(); });
    _connectors.start(std::ref(_budget), std::ref(_carriers), std::ref(_trunks)).get();

    auto stop_listeners = seastar::defer([this]() noexcept { _listeners.stop().get(); });
    _listeners.start(std::ref(_carriers), std::ref(_budget), std::ref(_registry), _socket.doors()).get();
    if (_seat.stands_by) {
        stand_by(reactors);
    }
    auto left = take_over();
    left->listeners(_listeners, _registry, _socket.doors()).get();
    if (drains()) {
        drain_or_not().get();
    }

    auto stop_opening = seastar::defer([this]() noexcept { _trunks.invoke_on_all(&trunks::service::quiesce).get(); });
    start_trunks();

    auto stop_control = seastar::defer([this]() noexcept {
        if (_control) {
            _control->stop().get();
        }
        _socket.close();
    });
    serve_programs(std::move(left));

    auto stop_stats = seastar::defer([this]() noexcept { _stats.stop().get(); });
    _stats.start(std::ref(_page), std::ref(_trunks), stats_sources{_budget, _closer, *_control, _reloaded}).get();
    _stats.invoke_on_all(&stats_writer::start).get();

    listen_to(from, reactors, stop);
    auto deaf = seastar::defer([&]() noexcept { listen_no_more(from, reactors); });

    auto stop_hearts = seastar::defer([this]() noexcept { _hearts.stop().get(); });
    start_hearts();
    log.info("vmsgrd {} ready: socket {}, {} shards, {} routes{}", proto::version_text, _socket.path(),
             seastar::smp::count, _config.routes.count, _seat.first ? "" : ", after another worker");
    pulse beats(_manager);
    auto stop_beats = seastar::defer([&]() noexcept { beats.stop().get(); });
    be_ready(from);
    stop->asked.get_future().get();
    _board.watched.store(0, std::memory_order_relaxed);
    _manager.stopping();
    log.info("vmsgrd stops: {} connections are flushed, for {} ms at most", _budget.connections.used(),
             _config.limits.flush_ms);
}

}  // namespace vmsgr::daemon
