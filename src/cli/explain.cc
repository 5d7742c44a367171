// vmsgr explain PID FD: is this descriptor accelerated; if not, which rule or fact says no. Without FD: all sockets of
// the process. With --to: a connection that it would make now.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>

#include "cli/cli.hh"
#include "cli/inquiry.hh"
#include "conf/words.hh"

namespace vmsgr::cli {

namespace {

constexpr int pid_max = 4 << 20;  // the kernel's own limits
constexpr int fd_max = 1 << 30;

struct explain_options {
    int pid = 0;
    std::optional<int> fd;
    std::string to;
};

json as_json(int pid, std::optional<int> fd, const verdict& v) {
    json facts = json::array();
    for (const auto& [name, value] : v.facts) {
        facts.push_back({{"name", name}, {"value", value}});
    }
    return {{"pid", pid},
            {"fd", fd ? json(*fd) : json()},
            {"program", v.program},
            {"accelerated", v.accelerated},
            {"reason", v.reason},
            {"cause", v.cause.empty() ? json() : json(v.cause)},
            {"text", v.text},
            {"facts", facts},
            {"connection", v.connection}};
}

std::string process_text(int pid, const verdict& v) {
    return "process " + std::to_string(pid) + (v.program.empty() ? "" : " (" + v.program + ")");
}

void print(const explain_options& e, const verdict& v) {
    const std::string what = e.fd ? "descriptor " + std::to_string(*e.fd) : "a connection to " + e.to;
    printf("%s, %s: %s: %s\n", process_text(e.pid, v).c_str(), what.c_str(),
           v.accelerated ? "accelerated" : "not accelerated", v.text.c_str());
    size_t width = 0;
    for (const auto& f : v.facts) {
        width = std::max(width, f.first.size());
    }
    for (const auto& [name, value] : v.facts) {
        printf("  %-*s  %s\n", int(width), name.c_str(), value.c_str());
    }
}

int tell(const options& o, const explain_options& e, const verdict& v) {
    if (o.json) {
        put_json(as_json(e.pid, e.fd, v));
    } else if (v.found) {
        print(e, v);
    } else {
        return say_error(exit_failure, "explain: " + v.text);
    }
    return v.found ? exit_ok : exit_failure;
}

// Each socket of the process in a line.
int tell_all(const options& o, const explain_options& e, const listed_status& daemon, const std::string& daemon_error) {
    process_facts of(e.pid, daemon);
    if (!of.exists) {
        return say_error(exit_failure, "explain: there is no process " + std::to_string(e.pid));
    }
    json all = json::array();
    const auto descriptors = descriptors_of(e.pid);
    if (descriptors.empty()) {
        return tell(o, {e.pid, 0, {}}, inquire(of, 0, daemon, daemon_error));  // none, or they cannot be read
    }
    for (int fd : descriptors) {
        auto link = descriptor_link(e.pid, fd);
        if (!link || !socket_inode(*link)) {
            continue;
        }
        const auto v = inquire(of, fd, daemon, daemon_error);
        if (o.json) {
            all.push_back(as_json(e.pid, fd, v));
        } else if (v.found) {
            printf("%5d  %s: %s\n", fd, v.accelerated ? "accelerated" : "not accelerated", v.text.c_str());
        }
    }
    if (o.json) {
        put_json(all);
    }
    return exit_ok;
}

int run_explain(const options& o, const explain_options& e) {
    const auto to = base::parse_address(e.to);
    if (!e.to.empty() && (!to || e.fd)) {
        return say_error(exit_usage,
                         e.fd ? "explain: either FD or --to"
                              : "explain: --to: " + conf::quote(e.to) + " is not an address such as 10.0.0.1:6800");
    }
    auto doc = ask_listed_status(o.socket, to.has_value());
    const listed_status daemon = doc ? std::move(*doc) : listed_status{};
    const std::string daemon_error = doc ? "" : doc.error().text;
    if (!e.to.empty()) {
        return tell(o, e, inquire_planned(e.pid, *to, daemon, daemon_error));
    }
    if (!e.fd) {
        return tell_all(o, e, daemon, daemon_error);
    }
    process_facts of(e.pid, daemon);
    return tell(o, e, inquire(of, *e.fd, daemon, daemon_error));
}

}  // namespace

command add_explain(CLI::App& app, const options& o) {
    auto e = std::make_shared<explain_options>();
    app.add_option("PID", e->pid, "process")->required()->check(CLI::Range(1, pid_max));
    app.add_option("FD", e->fd, "its descriptor, as in /proc/PID/fd; without it all of its sockets")
        ->check(CLI::Range(0, fd_max));
    app.add_option("--to", e->to, "a connection that it would make to this address now")->type_name("ADDR");
    app.footer("Without the daemon the answer comes from /proc alone.\n\nExamples:\n  vmsgr explain 4711 23\n"
               "  vmsgr explain $(pidof ceph-osd) --json\n  vmsgr explain 4711 --to 10.0.0.1:6800");
    return {[&o, e] { return run_explain(o, *e); }};
}

}  // namespace vmsgr::cli
