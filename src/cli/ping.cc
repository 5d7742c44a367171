// vmsgr ping: messages there and back, one line each.
#include <unistd.h>

#include <memory>

#include "cli/measure.hh"
#include "cli/reach.hh"
#include <nlohmann/json.hpp>

namespace vmsgr::cli {

namespace {

struct ping_options {
    std::string to;
    unsigned count = 4;
    unsigned interval_ms = 200;
    unsigned size = 64;
    int timeout_ms = 5000;
};

int ping(const options& o, const ping_options& p) {
    auto to = parse_endpoint(p.to, false);
    if (!to) {
        return say_error(exit_usage, "ping: " + to.error().text);
    }
    auto session = open_session(o);
    if (!session) {
        return session.error();
    }
    auto channel = session->connect(*to, {.timeout_ms = p.timeout_ms, .name = "ping"});
    if (!channel) {
        return say_error(exit_failure, "ping: " + channel.error().text);
    }
    if (p.size > channel->max()) {
        return say_error(exit_failure, "ping: --size " + std::to_string(p.size) + " is more than the " +
                                           std::to_string(channel->max()) + " that both sides take");
    }
    const bool local = channel->is_local();
    measuring_client client(std::move(*channel));
    std::vector<double> us;
    for (unsigned i = 1; i <= p.count; ++i) {
        if (i != 1) {
            ::usleep(p.interval_ms * 1000);
        }
        auto one = client.round_trip(p.size);
        if (!one) {
            return say_error(exit_failure, "ping: " + one.error().text);
        }
        us.push_back(*one);
        if (!o.json) {
            printf("%u bytes from %s (%s): seq=%u time=%.1f us\n", p.size, endpoint_text(*to).c_str(),
                   local ? "local" : "by vmsgrd", i, *one);
            fflush(stdout);
        }
    }
    const latencies l = summed_up(std::move(us));
    if (o.json) {
        nlohmann::json j{{"peer", endpoint_text(*to)}, {"local", local},     {"bytes", p.size},   {"count", l.count},
                         {"min_us", l.min_us},         {"p50_us", l.p50_us}, {"max_us", l.max_us}};
        puts(j.dump(2).c_str());
    } else {
        printf("%lu there and back: min %.1f, median %.1f, max %.1f us\n", l.count, l.min_us, l.p50_us, l.max_us);
    }
    return exit_ok;
}

}  // namespace

command add_ping(CLI::App& app, const options& o) {
    auto p = std::make_shared<ping_options>();
    app.add_option("PEER", p->to, std::string(endpoint_help) + "; runs `vmsgr perf --serve`")->required();
    app.add_option("--count", p->count, "how many; default 4")->check(CLI::Range(1u, 1'000'000u))->type_name("N");
    app.add_option("--interval-ms", p->interval_ms, "pause between two; default 200")->check(CLI::Range(0u, 60'000u));
    app.add_option("--size", p->size, "bytes of a message; default 64")->check(CLI::Range(0u, 32u << 20));
    app.add_option("--timeout-ms", p->timeout_ms, "for the connection; default 5000")->check(CLI::Range(1, 600'000));
    app.footer("Examples:\n  vmsgr perf --serve 127.0.0.1:7000     the other side\n  vmsgr ping 127.0.0.1:7000");
    return {[&o, p] { return ping(o, *p); }};
}

}  // namespace vmsgr::cli
