#include "daemon/status.hh"

#include <unistd.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include <seastar/core/coroutine.hh>
#include <seastar/core/smp.hh>
#include <seastar/coroutine/maybe_yield.hh>

#include "proto/control.hh"

namespace vmsgr::daemon {

using json = nlohmann::ordered_json;

namespace {

// Rows per shard in one document; totals count them all.
constexpr size_t rows_max = 20000;

const char* to_text(net::conn_state s) {
    switch (s) {
    case net::conn_state::connecting: return "connecting";
    case net::conn_state::established: return "established";
    case net::conn_state::closing: return "closing";
    }
    return "?";
}

double round_ms(double s) { return std::round(s * 1000) / 1000; }

json row(const net::conn_info& c) {
    return {{"id", c.id},
            {"session", c.session},
            {"pid", c.pid},
            {"fd", c.fd},
            {"role", c.role == net::conn_role::client ? "client" : "server"},
            {"local", base::to_string(c.local)},
            {"peer", base::to_string(c.peer)},
            {"path", "direct"},
            {"route", c.route},
            {"shard", c.shard},
            {"state", to_text(c.state)},
            {"bytes_in", c.bytes_in},
            {"bytes_out", c.bytes_out},
            {"opened_s", round_ms(c.opened_s)}};
}

json row(const net::listener_info& l) {
    return {{"session", l.session},
            {"pid", l.pid},
            {"address", base::to_string(l.address)},
            {"shards", l.shards},
            {"accepted", l.accepted}};
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
            {"faults", s.faults}};
}

json totals(const status_sources& s, const net::counters& c, size_t sessions) {
    return {{"sessions_open", sessions},
            {"connections_open", s.budget.connections.used()},
            {"connections_total", c.connections_total},
            {"bytes_direct", c.bytes_in + c.bytes_out},
            {"bytes_local", 0},
            {"bytes_trunk", 0},
            {"bytes_in", c.bytes_in},
            {"bytes_out", c.bytes_out},
            {"connects_failed", c.connects_failed},
            {"refused", c.refused},
            {"resets_sent", c.resets_sent},
            {"accept_pauses", c.accept_pauses},
            {"orphans", c.orphans},
            {"orphans_given_up", c.orphans_given_up},
            {"faults", c.faults_total()}};
}

json faults(const net::counters& c) {
    json out = json::object();
    for (size_t i = 0; i < net::fault_kinds; ++i) {
        out[std::string(net::to_text(net::fault(i)))] = c.faults[i];
    }
    return out;
}

json limits(const status_sources& s) {
    auto& l = s.config.limits;
    return {{"sessions", l.sessions},
            {"connections", l.connections},
            {"connections_per_session", l.connections_per_session},
            {"listeners", l.listeners},
            {"ring_bytes", l.ring_bytes},
            {"orphan_ms", l.orphan_ms},
            {"flush_ms", l.flush_ms},
            {"descriptors", s.budget.fds.limit()},
            {"descriptors_used", s.budget.fds.used()}};
}

}  // namespace

double unix_time_s() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

seastar::future<std::string> status_document(status_sources s) {
    json connections = json::array(), listeners = json::array(), sessions = json::array();
    net::counters sum;
    // One shard after the other, so that no more than one shard's rows are under way.
    for (unsigned shard = 0; shard < seastar::smp::count; ++shard) {
        sum += co_await s.carriers.invoke_on(shard, [](net::carrier& c) { return c.count(); });
        auto rows = co_await s.carriers.invoke_on(shard, [](net::carrier& c) { return c.list(rows_max); });
        for (auto& c : rows) {
            connections.push_back(row(c));
            co_await seastar::coroutine::maybe_yield();
        }
        for (auto& l : co_await s.listeners.invoke_on(shard, [](net::listener& x) { return x.list(rows_max); })) {
            listeners.push_back(row(l));
        }
    }
    for (auto& p : s.control.list()) {
        sessions.push_back(row(p));
    }
    size_t open = sessions.size();
    json doc;
    doc["daemon"] = {{"pid", ::getpid()},
                     {"version", proto::version_text},
                     {"uptime_s", round_ms(unix_time_s() - s.started_s)},
                     {"shards", seastar::smp::count},
                     {"poll_mode", conf::to_text(s.config.polling)}};
    doc["sessions"] = std::move(sessions);
    doc["connections"] = std::move(connections);
    doc["listeners"] = std::move(listeners);
    doc["totals"] = totals(s, sum, open);
    doc["faults_by_reason"] = faults(sum);
    doc["limits"] = limits(s);
    co_return doc.dump(-1, ' ', true, json::error_handler_t::replace);
}

}  // namespace vmsgr::daemon
