#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/text.hh"
#include "conn/board.hh"
#include "daemon/stats.hh"
#include "daemon/words.hh"
#include "proto/control.hh"
#include "trunk/mux.hh"

namespace vmsgr::daemon {

using json = nlohmann::ordered_json;

namespace {

static_assert(std::size(trunk::engine_counter_table) <= shm::stats_trunk_counters);

double seconds(uint64_t us) { return std::round(double(us)) / 1e6; }

using shm::text_of;

json stall(uint64_t since_us) {
    const uint64_t now = shm::stats_now_us();
    return since_us == 0 ? json() : json(seconds(now > since_us ? now - since_us : 0));
}

// What the rows that are shown add up to.
struct shown {
    uint64_t connections = 0, sessions = 0, direct = 0, trunk = 0, local = 0;
    uint64_t left_out = 0;  // connections beyond the rows that were asked for
    std::unordered_map<uint64_t, uint64_t> of_session{};
};

json row(const shm::stats_connection& c, const shm::stats_connection_row& r, const std::string& route, size_t shard) {
    const auto state = std::min(r.state.read(), uint64_t(conn::conn_state::closing));
    return {{"id", c.id},
            {"session", c.session},
            {"pid", c.pid},
            {"fd", c.fd},
            {"role", c.server != 0 ? "server" : "client"},
            {"local", base::to_string(c.local)},
            {"peer", base::to_string(c.peer)},
            {"path", to_text(conn::conn_path(c.path))},
            {"route", route},
            {"shard", shard},
            {"state", to_text(conn::conn_state(state))},
            {"bytes_in", r.bytes_in.read()},
            {"bytes_out", r.bytes_out.read()},
            {"opened_s", std::round(c.opened_s * 1000) / 1000},
            {"uid", c.uid},
            {"program_stalls_s", stall(r.program_stalls_since_us)},
            {"network_stalls_s", stall(r.far_stalls_since_us)}};
}

void add_connections(json& out, shown& sum, const stats_reader& from, const attach::viewer& who, size_t rows_max) {
    for (size_t i = 0; i < from.shards(); ++i) {
        const auto& s = from.shard(i);
        const size_t used = std::min<uint64_t>(s.connections_used, s.connection.size());
        for (size_t n = 0; n < used; ++n) {
            const auto& r = s.connection[n];
            const auto c = r.about.read();
            if (!c || c->id == 0 || !who.sees(c->uid)) {
                continue;
            }
            if (out.size() < rows_max) {
                const auto route = s.route[std::min<size_t>(c->route, shm::stats_routes - 1)].name.read();
                out.push_back(row(*c, r, route ? text_of(*route) : "?", i));
            } else {
                ++sum.left_out;
            }
            ++sum.connections;
            ++sum.of_session[c->session];
            (c->path == uint8_t(conn::conn_path::trunk) ? sum.trunk : sum.direct) += r.bytes_in + r.bytes_out;
        }
    }
}

void add_sessions(json& out, shown& sum, const stats_reader& from, const attach::viewer& who) {
    const auto& page = from.page();
    const size_t used = std::min<uint64_t>(page.sessions_used, page.session.size());
    for (size_t n = 0; n < used; ++n) {
        const auto s = page.session[n].about.read();
        if (s && s->id != 0 && who.sees(s->uid)) {
            out.push_back({{"id", s->id},
                           {"pid", s->pid},
                           {"uid", s->uid},
                           {"program", text_of(s->program)},
                           {"connections", sum.of_session[s->id]},
                           {"local_connections", page.session[n].local_connections.read()},
                           {"local_bytes_out", page.session[n].local_bytes_out.read()}});
            ++sum.sessions;
            sum.local += page.session[n].local_bytes_out;
        }
    }
}

// The page has no reasons.
json by_reason(uint64_t n) { return n == 0 ? json::object() : json{{"any reason", n}}; }

json row(const shm::stats_trunk& t, size_t shard) {
    json out{{"name", text_of(t.name)},
             {"outgoing", t.outgoing != 0},
             {"learnt", t.learnt != 0},
             {"encrypted", t.secured != 0},
             {"address", base::to_string(t.address)},
             {"state", text_of(t.state)},
             {"shard", shard},
             {"lane", t.lane},
             {"channels", t.channels},
             {"rtt_us", t.rtt_us},
             {"in_flight_bytes", t.in_flight_bytes},
             {"dropped_by_reason", by_reason(t.dropped)},
             {"refused_by_reason", by_reason(t.refused)}};
    for (size_t i = 0; i < std::size(trunk::engine_counter_table); ++i) {
        out[std::string(trunk::engine_counter_table[i].name)] = t.counters[i];
    }
    return out;
}

void add_trunks(json& out, const stats_reader& from) {
    for (size_t i = 0; i < from.shards(); ++i) {
        for (const auto& place : from.shard(i).trunk) {
            if (const auto t = place.read(); t && t->used != 0) {
                out.push_back(row(*t, i));
            }
        }
    }
}

json shards(const stats_reader& from) {
    json out = json::array();
    for (size_t i = 0; i < from.shards(); ++i) {
        const auto f = from.look_at(i);
        const uint64_t thread = from.shard(i).thread;
        out.push_back({{"shard", i},
                       {"thread", thread},
                       {"state", to_text(f.state)},
                       {"silent_s", seconds(f.silent_us)},
                       {"cpu_s", f.cpu_us ? json(seconds(*f.cpu_us)) : json()}});
    }
    return out;
}

json totals(const stats_reader& from, const facts& f) {
    conn::counters sum;
    for (size_t i = 0; i < from.shards(); ++i) {
        base::add(sum, conn::counters_of(from.shard(i)), conn::counter_table);
    }
    json out{{"sessions_open", at(f, fact::sessions)},
             {"connections_open", at(f, fact::connections)},
             {"bytes_direct", sum.bytes_in + sum.bytes_out - sum.bytes_trunk},
             {"bytes_local", at(f, fact::local_bytes)},
             {"locals_opened", at(f, fact::local_connections)},
             {"diallers_turned_away", at(f, fact::diallers_turned_away)}};
    for (auto& c : conn::counter_table) {
        out[std::string(c.name)] = (sum.*c.member).read();
    }
    out["faults"] = sum.faults_total();
    return out;
}

json own_totals(const shown& own) {
    return {{"sessions_open", own.sessions},
            {"connections_open", own.connections},
            {"bytes_direct", own.direct},
            {"bytes_local", own.local},
            {"bytes_trunk", own.trunk}};
}

json limits(const facts& f) {
    return {{"sessions", at(f, fact::sessions_limit)},
            {"connections", at(f, fact::connections_limit)},
            {"listeners", at(f, fact::listeners_limit)},
            {"listeners_used", at(f, fact::listeners)},
            {"memory", at(f, fact::memory_limit)},
            {"memory_used", at(f, fact::memory)},
            {"in_flight", at(f, fact::in_flight_limit)},
            {"in_flight_used", at(f, fact::in_flight)},
            {"closing", at(f, fact::closing)},
            {"descriptors", at(f, fact::descriptors_limit)},
            {"descriptors_used", at(f, fact::descriptors)}};
}

}  // namespace

std::string stats_document(const stats_reader& from, const attach::viewer& who, bool whole, size_t rows_max) {
    json out = json::object();
    if (whole) {
        shown own;
        json connections = json::array(), sessions = json::array(), trunks = json::array();
        add_connections(connections, own, from, who, rows_max);
        add_sessions(sessions, own, from, who);
        if (who.sees_all) {
            add_trunks(trunks, from);
        }
        out["connections"] = std::move(connections);
        out["sessions"] = std::move(sessions);
        out["trunks"] = std::move(trunks);
        const auto f = from.read_facts();
        out["totals"] = who.sees_all ? totals(from, f) : own_totals(own);
        out["limits"] = limits(f);
        out["shown"] = {{"all", who.sees_all}, {"uid", who.uid}, {"observers", json()}};
        out["connections_left_out"] = own.left_out;
        out["partial"] = true;
    }
    out["daemon"] = {{"pid", from.pid()},
                     {"worker_pid", from.worker() != 0 ? json(from.worker()) : json()},
                     {"worker_restarts", from.page().worker.restarts.read()},
                     {"version", proto::version_text},
                     {"uptime_s", std::round(from.uptime_s() * 1000) / 1000},
                     {"shards", from.shards()}};
    out["shards"] = shards(from);
    return out.dump(-1, ' ', true, json::error_handler_t::replace);
}

}  // namespace vmsgr::daemon
