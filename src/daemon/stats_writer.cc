#include "daemon/stats_writer.hh"

#include <algorithm>

#include <seastar/core/coroutine.hh>
#include <seastar/core/smp.hh>
#include <seastar/coroutine/maybe_yield.hh>

namespace vmsgr::daemon {

namespace {

constexpr auto interval = std::chrono::seconds(1);

uint64_t sum(const auto& counts) {
    uint64_t n = 0;
    for (auto one : counts) {
        n += one;
    }
    return n;
}

shm::stats_trunk row(const trunks::session_info& t) {
    shm::stats_trunk out;
    out.name = shm::to_stats_name(t.name);
    out.address = t.address;
    out.used = 1;
    out.outgoing = t.outgoing;
    out.learnt = t.learnt;
    out.secured = t.secured;
    out.lane = t.lane;
    const std::string_view state = t.state;
    std::copy_n(state.begin(), std::min(state.size(), out.state.size() - 1), out.state.begin());
    out.channels = t.channels;
    out.rtt_us = t.rtt_us;
    out.in_flight_bytes = t.in_flight_bytes;
    out.dropped = sum(t.count.faults);
    out.refused = sum(t.refused.by_reason);
    for (size_t i = 0; i < std::size(trunk::engine_counter_table); ++i) {
        out.counters[i] = t.count.*trunk::engine_counter_table[i].member;
    }
    out.rtt = t.round_trips;
    return out;
}

}  // namespace

stats_writer::stats_writer(shm::stats_page& page, seastar::sharded<trunks::service>& trunks, stats_sources from)
    : _page(page), _own(page.of(seastar::this_shard_id())), _trunks(trunks), _from(from), _timer([this] { tick(); }) {}

seastar::future<> stats_writer::start() {
    tick();
    _timer.arm_periodic(interval);
    return seastar::make_ready_future<>();
}

seastar::future<> stats_writer::stop() {
    _timer.cancel();
    return _adding_up.close();
}

void stats_writer::tick() noexcept {
    _own.tick_us.set(shm::stats_now_us());
    try {
        write_trunks();
    } catch (const std::bad_alloc&) {
        return;  // the next one
    }
    if (seastar::this_shard_id() != 0 || _adding_up.get_count() != 0) {
        return;
    }
    (void)seastar::try_with_gate(_adding_up, [this] { return write_facts(); }).handle_exception([](std::exception_ptr) {
    });  // out of memory: the next one
}

void stats_writer::write_trunks() {
    const auto list = _trunks.local().list();
    const size_t shown = std::min(list.size(), _own.trunk.size());
    for (size_t i = 0; i < shown; ++i) {
        _own.trunk[i].write(row(list[i]));
    }
    for (size_t i = shown; i < _trunks_shown; ++i) {
        _own.trunk[i].write({});
    }
    _trunks_shown = shown;
}

seastar::future<> stats_writer::write_facts() {
    auto local = _from.control.count_locals();
    std::unordered_map<uint64_t, attach::control_server::open_locals> open;
    for (attach::control_server::local_cursor from; from.session != ~uint64_t{0};) {
        for (auto& c : _from.control.list_locals(from)) {
            local.bytes += c.bytes_out;  // each end has sent what the other has received
            auto& own = open[c.session];
            ++own.connections;
            own.bytes_out += c.bytes_out;
        }
        co_await seastar::coroutine::maybe_yield();
    }
    _from.control.show_locals(open);
    // A connection that ends meanwhile is counted late; programs may say anything.
    _local_bytes = std::max(_local_bytes, local.bytes);
    auto& b = _from.budget;
    facts f{};
    at(f, fact::sessions) = b.sessions.used();
    at(f, fact::sessions_limit) = b.sessions.limit();
    at(f, fact::connections) = b.connections.used();
    at(f, fact::connections_limit) = b.connections.limit();
    at(f, fact::listeners) = b.listeners.used();
    at(f, fact::listeners_limit) = b.listeners.limit();
    at(f, fact::memory) = b.memory.used();
    at(f, fact::memory_limit) = b.memory.limit();
    at(f, fact::descriptors) = b.fds.used();
    at(f, fact::descriptors_limit) = b.fds.limit();
    at(f, fact::in_flight) = b.in_flight.used();
    at(f, fact::in_flight_limit) = b.in_flight.limit();
    at(f, fact::local_bytes) = _local_bytes;
    at(f, fact::local_connections) = local.opened;
    at(f, fact::diallers_turned_away) = local.turned_away;
    at(f, fact::closing) = _from.closer.waiting();
    at(f, fact::reloads) = _from.reloaded.count;
    at(f, fact::reload_failed) = !_from.reloaded.error.empty();
    _page.facts.write(f);
}

}  // namespace vmsgr::daemon
