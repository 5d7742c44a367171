#include "daemon/status.hh"

#include <unistd.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include <seastar/core/coroutine.hh>
#include <seastar/core/smp.hh>
#include <seastar/coroutine/maybe_yield.hh>

#include "conf/peer_rights.hh"
#include "daemon/status_rows.hh"
#include "proto/control.hh"

namespace vmsgr::daemon {

using json = nlohmann::ordered_json;

namespace {

// Connections fetched from a shard in one go: a short task there, a short message between.
constexpr size_t rows_at_once = 64;

// Puts the document together row by row, and passes it on: all of it at once would be one huge value, and one huge call
// to write it out.
class text {
    static constexpr size_t enough = 4096;
    attach::document_writer& _to;
    std::string _out = "{";
    bool _first = true;

public:
    explicit text(attach::document_writer& to) : _to(to) {}
    void open(const char* list) {
        comma();
        _out += '"' + std::string(list) + "\":[";
        _first = true;
    }
    void close() {
        _out += ']';
        _first = false;
    }
    void add(const json& value) {
        comma();
        _out += value.dump(-1, ' ', true, json::error_handler_t::replace);
    }
    void add(const char* key, const json& value) {
        comma();
        _out += '"' + std::string(key) + "\":";
        _first = true;
        add(value);
    }
    // One that f(text) writes.
    template <typename F>
    void add_written(F&& f) {
        comma();
        f(_out);
    }
    // After each few rows; others get their turn. Throws attach::reader_gone.
    seastar::future<> pass_on() {
        if (_out.size() >= enough) {
            co_await _to.write(_out);
            _out.clear();
        }
        co_await seastar::coroutine::maybe_yield();
    }
    seastar::future<> finish() {
        _out += '}';
        return _to.write(_out);
    }

private:
    void comma() {
        if (!std::exchange(_first, false)) {
            _out += ',';
        }
    }
};

template <typename Counters, size_t N>
void add_counters(json& out, const Counters& from, const base::counter<Counters> (&table)[N]) {
    for (auto& c : table) {
        out[std::string(c.name)] = uint64_t(from.*c.member);
    }
}

double round_ms(double s) { return std::round(s * 1000) / 1000; }

json row(const local::listener_info& l) {
    return {{"id", l.id},
            {"session", l.session},
            {"pid", l.pid},
            {"fd", l.fd},
            {"address", base::to_string(l.address)},
            {"shards", l.shards},
            {"accepted", l.accepted},
            {"uid", l.uid}};
}

json row(const trunks::session_info& t) {
    json dropped = json::object();
    for (size_t i = 0; i < trunk::packet_fault_kinds; ++i) {
        if (t.count.faults[i] != 0) {
            dropped[std::string(trunk::to_text(trunk::packet_fault(i)))] = t.count.faults[i];
        }
    }
    json refused = json::object();
    for (size_t i = 0; i < trunk::refusal_kinds; ++i) {
        if (t.refused.by_reason[i] != 0) {
            refused[std::string(to_text(trunk::refusal(i)))] = t.refused.by_reason[i];
        }
    }
    json out{{"name", t.name},
             {"outgoing", t.outgoing},
             {"learnt", t.learnt},
             {"encrypted", t.secured},
             {"peer", t.identity.empty() ? json() : json(t.identity)},
             {"address", base::to_string(t.address)},
             {"state", t.state},
             {"shard", t.shard},
             {"lane", t.lane},
             {"packet_bytes", t.packet_bytes},
             {"channels", t.channels},
             {"rtt_us", t.rtt_us},
             {"in_flight_bytes", t.in_flight_bytes}};
    if (t.of_peer_max != 0) {
        out["connections_of_peer"] = t.of_peer;
        out["connections_of_peer_max"] = t.of_peer_max;
    }
    add_counters(out, t.count, trunk::engine_counter_table);
    out["dropped_by_reason"] = std::move(dropped);
    out["refused_by_reason"] = std::move(refused);
    return out;
}

// Null where the program carries what its routes name.
json left_to_kernel(proto::plain_cause why) {
    return why == proto::plain_cause::none ? json()
                                           : json{{"cause", proto::to_word(why)}, {"why", proto::to_text(why)}};
}

json row(const attach::session_info& s) {
    return {{"id", s.id},
            {"pid", s.pid},
            {"uid", s.uid},
            {"program", s.program},
            {"connections", s.connections},
            {"connects_routed", s.connects_routed},
            {"listens_routed", s.listens_routed},
            {"fell_back", s.fell_back},
            {"faults", s.faults},
            {"left_to_kernel", left_to_kernel(s.left_to_kernel)}};
}

json totals(const status_sources& s, const conn::counters& c, const attach::control_server::local_totals& local,
            size_t sessions) {
    json out{{"sessions_open", sessions},
             {"connections_open", s.budget.connections.used()},
             {"bytes_direct", c.bytes_in.read() + c.bytes_out.read() - c.bytes_trunk.read()},
             {"bytes_local", local.bytes},
             {"locals_opened", local.opened},
             {"diallers_turned_away", local.turned_away}};
    add_counters(out, c, conn::counter_table);
    out["faults"] = c.faults_total();
    return out;
}

json faults(const conn::counters& c) {
    json out = json::object();
    for (size_t i = 0; i < conn::fault_kinds; ++i) {
        out[std::string(conn::to_text(conn::fault(i)))] = c.faults[i].read();
    }
    return out;
}

json to_json(const conn::amounts& a) {
    return {{"sessions", a.sessions},
            {"connections", a.connections},
            {"listeners", a.listeners},
            {"descriptors", a.fds},
            {"memory", a.memory}};
}

json row(const conn::user& u) {
    return {{"uid", u.uid},
            {"sessions", u.of.sessions.used()},
            {"connections", u.of.connections.used()},
            {"listeners", u.of.listeners.used()},
            {"descriptors", u.of.fds.used()},
            {"memory", u.of.memory.used()},
            {"closing", u.closing.waiting.load(std::memory_order_relaxed)},
            {"in_flight", u.of.in_flight.used()}};
}

json limits(const status_sources& s) {
    auto& l = s.config.limits;
    auto& b = s.budget;
    return {{"sessions", b.sessions.limit()},
            {"connections", b.connections.limit()},
            {"connections_per_session", l.connections_per_session},
            {"listeners", b.listeners.limit()},
            {"listeners_used", b.listeners.used()},
            {"memory", b.memory.limit()},
            {"memory_used", b.memory.used()},
            {"deposits", b.deposits.limit()},
            {"deposits_used", b.deposits.used()},
            {"closing", s.closer.waiting()},
            {"in_flight", b.in_flight.limit()},
            {"in_flight_used", b.in_flight.used()},
            {"per_user", to_json(s.users.limits())},
            {"ring_bytes", l.ring_bytes},
            {"orphan_ms", l.orphan_ms},
            {"flush_ms", l.flush_ms},
            {"trunk_replay_bytes", s.config.trunks.replay_bytes},
            {"trunk_memory_bytes", s.config.trunks.memory_bytes},
            {"trunk_outage_ms", s.config.trunks.outage_ms},
            {"trunk_channels", s.config.trunks.channels},
            {"trunk_sessions", s.config.trunks.sessions},
            {"trunk_connections_per_peer", s.config.trunks.connections_per_peer},
            {"trunk_probe_peers", s.config.trunks.probe.peers},
            {"descriptors", s.budget.fds.limit()},
            {"descriptors_used", s.budget.fds.used()}};
}

// What the rows that are shown add up to.
struct shown {
    uint64_t connections = 0, sessions = 0, direct = 0, local = 0, trunk = 0;
    uint64_t sent_locally = 0;  // each end has sent what the other has received

    void add(conn::conn_path path, uint64_t bytes) noexcept {
        ++connections;
        (path == conn::conn_path::local ? local : path == conn::conn_path::trunk ? trunk : direct) += bytes;
    }
};

// A shard's connections, piece by piece.
seastar::future<> add_rows(text& out, shown& sum, const status_sources& s, unsigned shard) {
    for (uint64_t last = 0;;) {
        auto rows = co_await s.carriers.invoke_on(shard,
                                                  [last](conn::carrier& c) { return c.list(last, rows_at_once); });
        for (auto& c : rows) {
            if (s.viewer.sees(c.uid)) {
                if (!s.brief) {
                    out.add_written([&](std::string& to) { add_row(to, c, s.drains_since_s != 0); });
                }
                sum.add(c.path, c.bytes_in + c.bytes_out);
            }
            co_await out.pass_on();
        }
        if (rows.size() + 1 < rows_at_once) {
            co_return;
        }
        last = rows.back().id;
    }
}

seastar::future<> add_connections(text& out, shown& sum, const status_sources& s) {
    out.open("connections");
    for (unsigned shard = 0; shard < seastar::smp::count; ++shard) {
        co_await add_rows(out, sum, s, shard);
    }
    for (attach::control_server::local_cursor at; at.session != ~uint64_t{0};) {
        for (auto& c : s.control.list_locals(at)) {
            if (s.viewer.sees(c.uid)) {
                if (!s.brief) {
                    out.add_written([&](std::string& to) { add_row(to, c); });
                }
                sum.add(conn::conn_path::local, c.bytes_in + c.bytes_out);
                sum.sent_locally += c.bytes_out;
            }
            co_await out.pass_on();
        }
        co_await seastar::coroutine::maybe_yield();
    }
    out.close();
}

seastar::future<> add_listeners(text& out, const status_sources& s) {
    out.open("listeners");
    for (unsigned shard = 0; shard < seastar::smp::count; ++shard) {
        for (auto& l : co_await s.listeners.invoke_on(shard, [](local::listeners& x) { return x.list(); })) {
            if (s.viewer.sees(l.uid)) {
                out.add(row(l));
            }
            co_await out.pass_on();
        }
    }
    out.close();
}

// Peers are nobody's own.
seastar::future<> add_trunks(text& out, const status_sources& s) {
    out.open("trunks");
    for (unsigned shard = 0; shard < seastar::smp::count && s.viewer.sees_all; ++shard) {
        for (auto& t : co_await s.trunks.invoke_on(shard, [](trunks::service& x) { return x.list(); })) {
            out.add(row(t));
            co_await out.pass_on();
        }
    }
    out.close();
}

seastar::future<> add_sessions(text& out, shown& sum, const status_sources& s) {
    out.open("sessions");
    for (uint64_t last = 0;;) {
        const auto rows = s.control.list(last, rows_at_once);
        for (auto& p : rows) {
            if (s.viewer.sees(p.uid)) {
                out.add(row(p));
                ++sum.sessions;
            }
            co_await out.pass_on();
        }
        if (rows.size() < rows_at_once) {
            break;
        }
        last = rows.back().id;
    }
    out.close();
}

// The shares of users in what all have together.
void add_users(text& out, const status_sources& s) {
    out.open("users");
    for (auto& u : s.users.list()) {
        if (s.viewer.sees(u->uid)) {
            out.add(row(*u));
        }
    }
    out.close();
}

seastar::future<> add_limits(text& out, const status_sources& s) {
    uint64_t relay_bytes = 0, relay_bytes_used = 0;
    for (unsigned shard = 0; shard < seastar::smp::count; ++shard) {
        const auto [most, used] = co_await s.trunks.invoke_on(
            shard, [](trunks::service& t) { return std::pair(t.relay_bytes().limit(), t.relay_bytes().used()); });
        relay_bytes += most;
        relay_bytes_used += used;
    }
    json all = limits(s);
    all["trunk_relay_bytes"] = relay_bytes;
    all["trunk_relay_bytes_used"] = relay_bytes_used;
    out.add("limits", all);
}

json own_totals(const shown& own) {
    return {{"sessions_open", own.sessions},
            {"connections_open", own.connections},
            {"bytes_direct", own.direct},
            {"bytes_local", own.local},
            {"bytes_trunk", own.trunk}};
}

}  // namespace

seastar::future<> write_status(status_sources s, attach::document_writer& to) {
    text out(to);
    shown own;
    co_await add_connections(out, own, s);
    co_await add_listeners(out, s);
    co_await add_trunks(out, s);
    co_await add_sessions(out, own, s);
    add_users(out, s);
    out.add("daemon", {{"pid", ::getppid()},  // the keeper
                       {"worker_pid", ::getpid()},
                       {"worker_restarts", s.worker_restarts},
                       {"version", proto::version_text},
                       {"uptime_s", round_ms(conn::unix_time_s() - s.started_s)},
                       {"shards", seastar::smp::count},
                       {"poll_mode", conf::to_text(s.config.polling)},
                       {"reloads", s.reloaded.count},
                       {"reload_error", s.reloaded.error.empty() ? json() : json(s.reloaded.error)}});
    const bool drains = s.drains_since_s != 0;
    const size_t relays = co_await s.trunks.map_reduce0([](auto& t) { return t.relays(); }, size_t(0), std::plus<>());
    out.add("drain", {{"on", drains},
                      {"since_s", drains ? json(s.drains_since_s) : json()},
                      {"connections_left", drains ? json(s.budget.connections.used()) : json()},
                      {"relays_left", drains ? json(relays) : json()},
                      {"listeners_left", drains ? json(s.budget.listeners.used()) : json()}});
    auto& trunk = s.config.trunks;
    out.add("trunk", {{"wanted", trunk.wanted()},
                      {"encrypted", trunk.tls.on()},
                      {"trusts", trunk.wanted() ? json(conf::trusts(trunk)) : json()}});
    out.add("shown", {{"all", s.viewer.sees_all},
                      {"uid", s.viewer.uid},
                      {"observers", s.config.access.observers.empty() ? json() : json(s.config.access.observers)}});
    if (s.viewer.sees_all) {
        conn::counters sum;
        for (unsigned shard = 0; shard < seastar::smp::count; ++shard) {
            base::add(sum, co_await s.carriers.invoke_on(shard, [](conn::carrier& c) { return c.count(); }),
                      conn::counter_table);
        }
        auto local = s.control.count_locals();
        local.bytes += own.sent_locally;
        out.add("totals", totals(s, sum, local, own.sessions));
        out.add("faults_by_reason", faults(sum));
    } else {
        out.add("totals", own_totals(own));
    }
    co_await add_limits(out, s);
    co_await out.finish();
}

}  // namespace vmsgr::daemon
