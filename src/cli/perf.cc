// vmsgr perf: throughput and round trips of message channels by message size.
#include <memory>
#include <thread>

#include "cli/measure.hh"
#include "cli/reach.hh"
#include "cli/table.hh"
#include <nlohmann/json.hpp>

namespace vmsgr::cli {

namespace {

struct perf_options {
    std::string to, serve;
    std::vector<unsigned> sizes{64, 256, 1024, 4096, 16384, 65536};
    double seconds = 1;
    unsigned batch = 1;
    int spin_us = 20;
};

struct result {
    unsigned bytes;
    flow_rate flow;
    latencies trips;
};

channel_options channel_settings_of(const perf_options& p, size_t max) {
    return {.max_message_bytes = max, .spin_us = p.spin_us == 0 ? -1 : p.spin_us, .name = "perf"};
}

// Serves for ever.
int serve(const options& o, const perf_options& p) {
    auto at = parse_endpoint(p.serve, true);
    if (!at) {
        return say_error(exit_usage, "perf: " + at.error().text);
    }
    auto session = open_session(o);
    if (!session) {
        return session.error();
    }
    auto listener = session->listen(*at, channel_settings_of(p, 0));
    if (!listener) {
        return say_error(exit_failure, "perf: " + listener.error().text);
    }
    printf("serving on %s\n", endpoint_text(listener->address()).c_str());
    fflush(stdout);
    for (;;) {
        auto c = listener->accept();
        if (c) {
            std::thread(serve_measurements, std::move(*c)).detach();
        } else if (c.error().errnum != EINTR) {
            say_error(0, "perf: " + c.error().text);
        }
    }
}

base::result<std::vector<result>> measure(measuring_client& client, const perf_options& p) {
    std::vector<result> all;
    for (unsigned bytes : p.sizes) {
        auto flow = client.flow(bytes, p.seconds / 2, p.batch);
        if (!flow) {
            return std::unexpected(flow.error());
        }
        auto trips = client.round_trips(bytes, p.seconds / 2);
        if (!trips) {
            return std::unexpected(trips.error());
        }
        all.push_back({bytes, *flow, *trips});
    }
    return all;
}

void print(const std::vector<result>& results, const std::string& peer, bool local, const perf_options& p) {
    printf("%s, %s, %g s a size%s\n\n", peer.c_str(), local ? "local (shared memory)" : "carried by vmsgrd", p.seconds,
           p.batch > 1 ? (", batches of " + std::to_string(p.batch)).c_str() : "");
    table t{">BYTES", ">MESSAGES/S", ">MB/S", ">ROUND TRIP US", ">P99 US"};
    char cells[4][32];
    for (const auto& r : results) {
        snprintf(cells[0], sizeof cells[0], "%.0f", r.flow.messages_per_s);
        snprintf(cells[1], sizeof cells[1], "%.1f", r.flow.bytes_per_s / 1e6);
        snprintf(cells[2], sizeof cells[2], "%.2f", r.trips.p50_us);
        snprintf(cells[3], sizeof cells[3], "%.2f", r.trips.p99_us);
        t.row({std::to_string(r.bytes), cells[0], cells[1], cells[2], cells[3]});
    }
    fputs(t.text().c_str(), stdout);
}

void print_json(const std::vector<result>& results, const std::string& peer, bool local, const perf_options& p) {
    nlohmann::json doc{{"peer", peer}, {"local", local}, {"seconds", p.seconds}, {"batch", p.batch},
                       {"spin_us", p.spin_us}, {"results", nlohmann::json::array()}};
    for (const auto& r : results) {
        doc["results"].push_back({{"bytes", r.bytes},
                                  {"messages_per_s", r.flow.messages_per_s},
                                  {"bytes_per_s", r.flow.bytes_per_s},
                                  {"round_trip_us", {{"min", r.trips.min_us},
                                                     {"p50", r.trips.p50_us},
                                                     {"p99", r.trips.p99_us},
                                                     {"max", r.trips.max_us},
                                                     {"count", r.trips.count}}}});
    }
    puts(doc.dump(2).c_str());
}

int run_client(const options& o, const perf_options& p, vmsgr::session& session, const vmsgr::address& to,
               const std::string& shown) {
    auto channel = session.connect(to, channel_settings_of(p, 0));
    if (!channel) {
        return say_error(exit_failure, "perf: " + channel.error().text);
    }
    for (unsigned bytes : p.sizes) {
        if (bytes > channel->max()) {
            return say_error(exit_usage, "perf: --sizes " + std::to_string(bytes) + " is more than the " +
                                             std::to_string(channel->max()) + " that both sides take");
        }
    }
    const bool local = channel->is_local();
    measuring_client client(std::move(*channel));
    auto results = measure(client, p);
    if (!results) {
        return say_error(exit_failure, "perf: " + results.error().text);
    }
    o.json ? print_json(*results, shown, local, p) : print(*results, shown, local, p);
    return exit_ok;
}

// Both ends in this process, each with its session.
int measure_here(const options& o, const perf_options& p) {
    auto there = open_session(o);
    auto here = there ? open_session(o) : std::unexpected(there.error());
    if (!here) {
        return here.error();
    }
    auto listener = there->listen(vmsgr::ipv4("127.0.0.1", 0), channel_settings_of(p, 0));
    if (!listener) {
        return say_error(exit_failure, "perf: " + listener.error().text);
    }
    std::thread server([&] {
        auto c = listener->accept(10'000);
        if (c) {
            serve_measurements(std::move(*c));
        }
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(50));  // by then vmsgrd shows the listener
    int code = run_client(o, p, *here, listener->address(), "both ends in this process");
    server.join();
    return code;
}

int perf(const options& o, const perf_options& p) {
    if (!p.serve.empty() && !p.to.empty()) {
        return say_error(exit_usage, "perf: either PEER or --serve");
    }
    if (!p.serve.empty()) {
        return serve(o, p);
    }
    if (p.to.empty()) {
        return measure_here(o, p);
    }
    auto to = parse_endpoint(p.to, false);
    if (!to) {
        return say_error(exit_usage, "perf: " + to.error().text);
    }
    auto session = open_session(o);
    return session ? run_client(o, p, *session, *to, endpoint_text(*to)) : session.error();
}

}  // namespace

command add_perf(CLI::App& app, const options& o) {
    auto p = std::make_shared<perf_options>();
    app.add_option("PEER", p->to, std::string(endpoint_help) + ", which serves; without it both ends are this process");
    app.add_option("--serve", p->serve, "be the other side, on this address, until ended")->type_name("ADDR:PORT");
    app.add_option("--sizes", p->sizes, "message sizes in bytes; default 64,256,1024,4096,16384,65536")
        ->delimiter(',')
        ->check(CLI::Range(0u, 32u << 20))
        ->type_name("N,N");
    app.add_option("--seconds", p->seconds, "time for each size, half of it for round trips; default 1")
        ->check(CLI::Range(0.01, 600.0))
        ->type_name("S");
    app.add_option("--batch", p->batch, "send N messages at a time (VMSGR_MORE); default 1: each by itself")
        ->check(CLI::Range(1u, 1024u))
        ->type_name("N");
    app.add_option("--spin-us", p->spin_us, "how long a wait looks at memory before it sleeps; default 20, 0: never")
        ->check(CLI::Range(0, 1000))
        ->type_name("N");
    app.footer("Examples:\n  vmsgr perf                              this machine, memory to memory\n"
               "  vmsgr perf --serve 0.0.0.0:7000         on one machine\n"
               "  vmsgr perf 10.0.0.1:7000 --json         from the other");
    return {[&o, p] { return perf(o, *p); }};
}

}  // namespace vmsgr::cli
