#include "daemon/metrics.hh"

#include <algorithm>
#include <cmath>
#include <map>
#include <span>
#include <tuple>
#include <vector>

#include "conn/board.hh"
#include "daemon/metrics_text.hh"
#include "proto/control.hh"
#include "trunk/mux.hh"

namespace vmsgr::daemon {

namespace {

// A connection that has had no room for so long counts as one that stalls.
constexpr uint64_t stalls_after_us = 1'000'000;

struct counter_text {
    std::string_view counter;  // as in the table of counters, in the same order
    const char* metric;
    const char* help;
};

consteval bool names_all(const auto& texts, const auto& counters) {
    return std::ranges::equal(texts, counters, {}, &counter_text::counter, [](const auto& c) { return c.name; });
}

constexpr counter_text shard_counters[] = {
    {"connections_total", "vmsgr_connections_total", "Connections that the daemon has carried."},
    {"connects_failed", "vmsgr_connects_failed_total", "Connects that the network refused, as without VMSGR."},
    {"refused", "vmsgr_refused_total", "Connections and sessions that a limit or a rule refused."},
    {"bytes_in", "vmsgr_received_bytes_total", "Bytes brought to programs from the network, trunks included."},
    {"bytes_out", "vmsgr_sent_bytes_total", "Bytes sent to the network for programs, trunks included."},
    {"bytes_trunk", "vmsgr_trunk_carried_bytes_total", "Bytes of programs over trunks, both directions."},
    {"resets_sent", "vmsgr_resets_sent_total", "Connections that the daemon ended with a reset."},
    {"accept_pauses", "vmsgr_accept_pauses_total", "Times that accepting waited for descriptors or memory."},
    {"accepts_passed_on", "vmsgr_accepts_passed_on_total", "Accepted connections left to the kernel for lack of room."},
    {"accepts_by_route", "vmsgr_accepts_by_route_total",
     "Accepted connections left to the kernel by a route via: local."},
    {"trunk_probes", "vmsgr_trunk_probes_total", "Hosts that were asked for a daemon."},
    {"trunk_probes_absent", "vmsgr_trunk_probes_absent_total", "Hosts asked that had none, or that refused."},
    {"trunk_probes_skipped", "vmsgr_trunk_probes_skipped_total", "Hosts not asked, as the limit was reached."},
    {"orphans", "vmsgr_orphans_total", "Programs that left with data still to be sent."},
    {"orphans_given_up", "vmsgr_orphans_given_up_total", "Orphans without progress up to limits.orphan_ms."},
    {"no_memory", "vmsgr_no_memory_total", "Requests that ended because a shard had no memory."},
    {"never_closed", "vmsgr_never_closed_total", "Files of strangers left open, as too many waited to be closed."},
    {"plain", "vmsgr_plain_total", "Connections that turned plain, for a program without the library."},
    {"given_back", "vmsgr_given_back_total", "Connections that a drain gave back to the kernel."},
};

static_assert(names_all(shard_counters, conn::counter_table));

constexpr counter_text trunk_counters[] = {
    {"packets_out", "vmsgr_trunk_packets_sent_total", "Data packets, each time they leave."},
    {"packets_in", "vmsgr_trunk_packets_received_total", "Data packets that were taken."},
    {"bytes_out", "vmsgr_trunk_sent_bytes_total", "Bytes of channels that left."},
    {"bytes_in", "vmsgr_trunk_received_bytes_total", "Bytes of channels that came."},
    {"replayed", "vmsgr_trunk_replayed_packets_total", "Packets that left again on a new connection."},
    {"duplicates", "vmsgr_trunk_duplicate_packets_total", "Packets that came again, and were dropped."},
    {"late_frames", "vmsgr_trunk_late_frames_total", "Frames for channels that had ended."},
    {"channels_total", "vmsgr_trunk_channels_total", "Channels that were opened."},
    {"channels_reset", "vmsgr_trunk_channels_reset_total", "Channels that were reset."},
};

static_assert(names_all(trunk_counters, trunk::engine_counter_table));

using shm::text_of;

void add_daemon(metrics& out, const stats_reader& from) {
    out.family("vmsgr_build_info", "gauge", "1; the version of the daemon.");
    out.add({{"version", proto::version_text}}, 1);
    out.family("vmsgr_start_time_seconds", "gauge", "When the daemon started, as Unix time.");
    out.add_micros({}, uint64_t(std::max(0.0, from.page().started_s) * 1e6));
}

void add_shards(metrics& out, const stats_reader& from) {
    std::vector<shard_facts> shards;
    for (size_t i = 0; i < from.shards(); ++i) {
        shards.push_back(from.look_at(i));
    }
    auto each = [&](auto&& add) {
        for (size_t i = 0; i < shards.size(); ++i) {
            add(labels{{"shard", std::to_string(i)}}, shards[i]);
        }
    };
    out.family("vmsgr_shard_up", "gauge", "1 while the shard runs, 0 while it is stopped or silent for 3 s.");
    each([&](const labels& l, const shard_facts& s) { out.add(l, s.state == shard_state::running ? 1 : 0); });
    out.family("vmsgr_shard_silent_seconds", "gauge", "How long ago the shard told the time; about 1 s at most.");
    each([&](const labels& l, const shard_facts& s) { out.add_micros(l, s.silent_us); });
    out.family("vmsgr_shard_cpu_seconds_total", "counter", "Processor time of the shard's thread.");
    each([&](const labels& l, const shard_facts& s) {
        if (s.cpu_us) {
            out.add_micros(l, *s.cpu_us);
        }
    });
    for (size_t c = 0; c < std::size(shard_counters); ++c) {
        out.family(shard_counters[c].metric, "counter", shard_counters[c].help);
        for (size_t i = 0; i < from.shards(); ++i) {
            out.add({{"shard", std::to_string(i)}}, conn::counters_of(from.shard(i)).*conn::counter_table[c].member);
        }
    }
    conn::counters sum;
    for (size_t i = 0; i < from.shards(); ++i) {
        base::add(sum, conn::counters_of(from.shard(i)), conn::counter_table);
    }
    out.family("vmsgr_faults_total", "counter", "Rules broken by programs, by reason.");
    for (size_t i = 0; i < conn::fault_kinds; ++i) {
        out.add({{"reason", std::string(conn::to_text(conn::fault(i)))}}, sum.faults[i]);
    }
}

struct fact_text {
    fact which;
    const char *metric, *type, *help;
};

constexpr fact_text fact_texts[] = {
    {fact::sessions, "vmsgr_sessions", "gauge", "Attached programs."},
    {fact::sessions_limit, "vmsgr_sessions_limit", "gauge", "limits.sessions."},
    {fact::connections, "vmsgr_connections", "gauge", "Connections that the daemon carries now."},
    {fact::connections_limit, "vmsgr_connections_limit", "gauge", "limits.connections."},
    {fact::listeners, "vmsgr_listeners", "gauge", "Listeners of programs."},
    {fact::listeners_limit, "vmsgr_listeners_limit", "gauge", "limits.listeners."},
    {fact::memory, "vmsgr_memory_used_bytes", "gauge", "Rings of all connections."},
    {fact::memory_limit, "vmsgr_memory_limit_bytes", "gauge", "limits.memory, or what the machine has."},
    {fact::descriptors, "vmsgr_descriptors", "gauge", "Descriptors that are used or reserved."},
    {fact::descriptors_limit, "vmsgr_descriptors_limit", "gauge", "Descriptors that may be used."},
    {fact::in_flight, "vmsgr_in_flight_descriptors", "gauge", "Descriptors sent to programs and not received yet."},
    {fact::in_flight_limit, "vmsgr_in_flight_descriptors_limit", "gauge", "Descriptors that may be in flight."},
    {fact::closing, "vmsgr_closing_files", "gauge", "Files of strangers that wait to be closed."},
    {fact::local_bytes, "vmsgr_local_bytes_total", "counter",
     "Bytes between two programs of this host, as the programs say."},
    {fact::local_connections, "vmsgr_local_connections_total", "counter",
     "Connections between two programs of this host, as the programs say; an end each."},
    {fact::diallers_turned_away, "vmsgr_diallers_turned_away_total", "counter",
     "Local connections that listeners turned away, as the programs say."},
    {fact::reloads, "vmsgr_reloads_total", "counter", "Times that the configuration was read again with success."},
    {fact::reload_failed, "vmsgr_last_reload_failed", "gauge", "1 if the last reload changed nothing."},
};
static_assert(std::size(fact_texts) == size_t(fact::count));

void add_facts(metrics& out, const stats_reader& from) {
    const auto f = from.read_facts();
    for (auto& t : fact_texts) {
        out.family(t.metric, t.type, t.help);
        out.add({}, at(f, t.which));
    }
    out.family("vmsgr_worker_restarts_total", "counter", "Times that the keeper has started another worker.");
    out.add({}, from.page().worker.restarts);
}

void add_stalled(metrics& out, const stats_reader& from) {
    uint64_t program = 0, network = 0, hidden = 0;
    const uint64_t now = shm::stats_now_us();
    auto stalls = [now](uint64_t since) { return since != 0 && since + stalls_after_us < now ? 1 : 0; };
    for (size_t i = 0; i < from.shards(); ++i) {
        const auto& s = from.shard(i);
        const auto used = std::min<uint64_t>(s.connections_used, s.connection.size());
        for (auto& row : std::span(s.connection).first(used)) {
            program += uint64_t(stalls(row.program_stalls_since_us));
            network += uint64_t(stalls(row.far_stalls_since_us));
        }
        hidden += s.connections_hidden;
    }
    out.family("vmsgr_stalled_connections", "gauge",
               "Connections that have had data and no room for a second: the program does not read, or the network "
               "does not take.");
    out.add({{"by", "program"}}, program);
    out.add({{"by", "network"}}, network);
    out.family("vmsgr_unlisted_connections", "gauge", "Connections beyond the rows of the page of counters.");
    out.add({}, hidden);
}

struct route_sums {
    uint64_t connections = 0, bytes_in = 0, bytes_out = 0;
    base::histogram_image connecting{}, program_stalls{}, far_stalls{};

    void add(const shm::stats_route_row& r) {
        connections += r.connections;
        bytes_in += r.bytes_in;
        bytes_out += r.bytes_out;
        connecting += r.connecting.read();
        program_stalls += r.program_stalls.read();
        far_stalls += r.far_stalls.read();
    }
};

// Shards may number routes differently, after reloads. Routes that only programs know are "(other)".
void add_routes(metrics& out, const stats_reader& from) {
    std::map<std::string, route_sums> routes;
    for (size_t i = 0; i < from.shards(); ++i) {
        const auto& s = from.shard(i);
        const auto known = std::min<uint64_t>(s.routes, shm::stats_routes - 1);
        for (size_t n = 0; n < shm::stats_routes; ++n) {
            const auto name = s.route[n].name.read();
            if (name && (n < known || s.route[n].connections != 0)) {
                routes[text_of(*name)].add(s.route[n]);
            }
        }
    }
    auto numbers = [&](const char* name, const char* help, uint64_t route_sums::* member) {
        out.family(name, "counter", help);
        for (auto& [route, sums] : routes) {
            out.add({{"route", route}}, sums.*member);
        }
    };
    auto times = [&](const char* name, const char* help, base::histogram_image route_sums::* member) {
        out.family(name, "histogram", help);
        for (auto& [route, sums] : routes) {
            out.add_histogram({{"route", route}}, sums.*member);
        }
    };
    numbers("vmsgr_route_connections_total", "Connections of the route that the daemon has carried.",
            &route_sums::connections);
    numbers("vmsgr_route_received_bytes_total", "Bytes brought to programs.", &route_sums::bytes_in);
    numbers("vmsgr_route_sent_bytes_total", "Bytes sent for programs.", &route_sums::bytes_out);
    times("vmsgr_route_connect_seconds", "How long connects took that were pending at the hand-over.",
          &route_sums::connecting);
    times("vmsgr_route_program_stall_seconds", "How long rings were full until their programs read on.",
          &route_sums::program_stalls);
    times("vmsgr_route_network_stall_seconds", "How long the network or a trunk took no more of what programs sent.",
          &route_sums::far_stalls);
}

// One series a session, so that each one's counts begin at 0 and never go back.
using trunk_key = std::tuple<std::string, bool, size_t, uint16_t>;  // name, outgoing, shard, lane

labels labels_of(const trunk_key& k) {
    const auto& [name, outgoing, shard, lane] = k;
    return {{"trunk", name},
            {"direction", outgoing ? "outgoing" : "incoming"},
            {"shard", std::to_string(shard)},
            {"lane", std::to_string(lane)}};
}

void add_trunks(metrics& out, const stats_reader& from) {
    std::map<trunk_key, shm::stats_trunk> trunks;
    for (size_t i = 0; i < from.shards(); ++i) {
        for (auto& place : from.shard(i).trunk) {
            if (const auto t = place.read(); t && t->used != 0) {
                // Of two with one name, which is rare, one is shown: a sum would go back when one ends.
                trunks.try_emplace({text_of(t->name), t->outgoing != 0, i, t->lane}, *t);
            }
        }
    }
    auto numbers = [&](const char* name, const char* type, const char* help, auto&& value) {
        out.family(name, type, help);
        for (auto& [key, t] : trunks) {
            out.add(labels_of(key), uint64_t(value(t)));
        }
    };
    using trunk = shm::stats_trunk;
    numbers("vmsgr_trunk_up", "gauge", "1 while the session has a connection to the peer.",
            [](const trunk& t) { return std::string_view(t.state.data()) == "up" ? 1 : 0; });
    numbers("vmsgr_trunk_encrypted", "gauge", "1 if the session is encrypted.",
            [](const trunk& t) { return t.secured != 0 ? 1 : 0; });
    numbers("vmsgr_trunk_channels", "gauge", "Channels that are open.", [](const trunk& t) { return t.channels; });
    numbers("vmsgr_trunk_in_flight_bytes", "gauge", "Bytes kept until the peer has them.",
            [](const trunk& t) { return t.in_flight_bytes; });
    for (size_t i = 0; i < std::size(trunk_counters); ++i) {
        numbers(trunk_counters[i].metric, "counter", trunk_counters[i].help,
                [i](const trunk& t) { return t.counters[i]; });
    }
    numbers("vmsgr_trunk_dropped_total", "counter", "Packets and frames that were not taken, for whatever reason.",
            [](const trunk& t) { return t.dropped; });
    numbers("vmsgr_trunk_refused_total", "counter", "Connections of the peer that were refused, for whatever reason.",
            [](const trunk& t) { return t.refused; });
    out.family("vmsgr_trunk_rtt_seconds", "histogram", "Round trips between the two daemons, about one a second.");
    for (auto& [key, t] : trunks) {
        out.add_histogram(labels_of(key), t.rtt);
    }
}

}  // namespace

std::string metrics_text(const stats_reader& from) {
    metrics out;
    add_daemon(out, from);
    add_shards(out, from);
    add_facts(out, from);
    add_stalled(out, from);
    add_routes(out, from);
    add_trunks(out, from);
    return out.text();
}

}  // namespace vmsgr::daemon
