// vmsgr routes: the daemon's routes; vmsgr routes test ADDR: which one would win, and why.
#include <algorithm>
#include <cstdio>
#include <memory>

#include "cli/cli.hh"
#include "cli/decide.hh"
#include "cli/query.hh"
#include "cli/stats.hh"
#include "cli/table.hh"
#include "conf/config.hh"
#include "conf/words.hh"

namespace vmsgr::cli {

namespace {

using json = nlohmann::json;

struct routes_options {
    std::string file;
    std::string program, role = "client", address;
    bool verbose = false;
    bool test = false;
};

int list_routes(const proto::route_table& t, bool as_json) {
    if (as_json) {
        json out = json::array();
        std::ranges::transform(t, std::back_inserter(out), route_json);
        puts(out.dump(2).c_str());
        return exit_ok;
    }
    if (t.count == 0) {
        puts("no routes: everything stays on POSIX sockets");
        return exit_ok;
    }
    table rows{">#", "NAME", "PROGRAM", "ROLE", "ADDRESS", "PORTS", "VIA", "FALLBACK"};
    for (const auto& r : t) {
        rows.row({std::to_string(&r - t.begin()), std::string(r.name_text()), std::string(r.program_text()),
                  std::string(proto::to_text(r.who)), base::to_string(r.addresses), ports_text(r),
                  std::string(proto::to_text(r.way)), std::string(proto::to_text(r.without_daemon))});
    }
    printf("%s", rows.text().c_str());
    return exit_ok;
}

json test_json(const proto::route_table& t, const asked& a, const std::vector<decision>& found,
               const std::string& address) {
    json rules = json::array();
    for (const auto& r : t) {
        auto why = mismatch(r, a);
        json rule = route_json(r);
        rule["matches"] = why.empty();
        rule["why_not"] = why.empty() ? json() : json(why);
        rules.push_back(rule);
    }
    json decided = json::array();
    for (const auto& d : found) {
        decided.push_back({{"via", d.rule != nullptr ? proto::to_text(d.rule->way) : "posix"},
                           {"route", d.rule != nullptr ? json(d.rule->name_text()) : json()},
                           {"condition", d.condition.empty() ? json() : json(d.condition)}});
    }
    return {{"address", address},
            {"role", proto::to_text(a.who)},
            {"program", a.program ? json(*a.program) : json()},
            {"via", decided[0]["via"]},
            {"route", decided[0]["route"]},
            {"decisions", decided},
            {"rules", rules}};
}

void print_test(const proto::route_table& t, const asked& a, const std::vector<decision>& found,
                const routes_options& r) {
    for (const auto& d : found) {
        std::string line = r.address + " as " + r.role + (a.program ? " of " + *a.program : "");
        line += d.condition.empty() ? (found.size() > 1 ? ", otherwise: " : ": ") : ", " + d.condition + ": ";
        if (d.rule != nullptr) {
            line += std::string(proto::to_text(d.rule->way)) + ", by route " + conf::quote(d.rule->name_text());
            if (d.rule->way == proto::via::local) {
                line += " (memory to memory on this host, TCP to others)";
            } else if (d.rule->carries()) {
                line += " (fallback " + std::string(proto::to_text(d.rule->without_daemon));
                line += d.rule->way == proto::via::trunk
                            ? ", without a trunk " + std::string(proto::to_text(d.rule->without_trunk)) + ")"
                            : ")";
            }
        } else {
            line += "posix, as no route matches";
        }
        puts(line.c_str());
    }
    if (!r.verbose) {
        return;
    }
    for (const auto& rule : t) {
        auto why = mismatch(rule, a);
        printf("  %-20s %s\n", std::string(rule.name_text()).c_str(),
               why.empty() ? "matches" : ("does not match: " + why).c_str());
    }
}

int test_route(const proto::route_table& t, const options& o, const routes_options& r) {
    asked a;
    auto where = base::parse_address(r.address);
    if (!where) {
        return say_error(exit_usage, "routes test: " + conf::quote(r.address) +
                                         " is not an address such as 10.0.0.1:6800 or [::1]:6800");
    }
    constexpr std::string_view roles[] = {"client", "server"};
    auto role = proto::parse_role(r.role);
    if (!role || *role == proto::role::any) {
        return say_error(exit_usage, "routes test: --role: " + conf::quote(r.role) + " is not one of client, server" +
                                         conf::did_you_mean(r.role, roles));
    }
    a.where = *where;
    a.who = *role;
    // A written port 0 is a port; a port that is not written is none.
    a.any_port = where->port == 0 && !r.address.ends_with(":0");
    if (!r.program.empty()) {
        a.program = r.program;
    }
    auto found = decisions(t, a);
    if (o.json) {
        puts(test_json(t, a, found, r.address).dump(2).c_str());
    } else {
        print_test(t, a, found, r);
    }
    return exit_ok;
}

int run_routes(const options& o, const routes_options& r) {
    if (const auto can = r.file.empty() ? can_answer(o.socket) : base::result<void>(); !can) {
        return say_error(exit_no_daemon, can.error().text);
    }
    auto t = r.file.empty() ? ask_routes(o.socket) : conf::load_routes(r.file);
    if (!t) {
        return say_error(r.file.empty() ? exit_no_daemon : exit_failure, t.error().text);
    }
    return r.test ? test_route(*t, o, r) : list_routes(*t, o.json);
}

}  // namespace

command add_routes(CLI::App& app, const options& o) {
    auto r = std::make_shared<routes_options>();
    app.add_option("--routes", r->file, "routes from this file, not from the daemon")->type_name("FILE");
    app.footer("Examples:\n  vmsgr routes\n  vmsgr routes test --program ceph-osd 10.0.0.1:6800\n"
               "  vmsgr routes test --routes my.yaml --role server --verbose [::1]:6800");
    auto* test = app.add_subcommand("test", "which route wins for an address");
    test->fallthrough();
    test->add_option("ADDR", r->address,
                     "ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT: a client's peer, or what a "
                     "server listens on")
        ->required();
    test->add_option("--program", r->program, "the program's basename; without it any program")->type_name("NAME");
    test->add_option("--role", r->role, "client or server")->type_name("ROLE")->capture_default_str();
    test->add_flag("--verbose,-v", r->verbose, "every rule, and why it does not match");
    return {[&o, r, test] {
        r->test = test->parsed();
        return run_routes(o, *r);
    }};
}

}  // namespace vmsgr::cli
