// vmsgr explain PID FD: is this descriptor accelerated; if not, which rule or fact says no.
#include <algorithm>
#include <cstdio>
#include <memory>

#include "cli/cli.hh"
#include "cli/inquiry.hh"

namespace vmsgr::cli {

namespace {

constexpr int pid_max = 4 << 20;  // the kernel's own limits
constexpr int fd_max = 1 << 30;

struct explain_options {
    int pid = 0;
    int fd = -1;
};

json as_json(const explain_options& e, const verdict& v) {
    json facts = json::array();
    for (const auto& [name, value] : v.facts) {
        facts.push_back({{"name", name}, {"value", value}});
    }
    return {{"pid", e.pid},       {"fd", e.fd},     {"program", v.program}, {"accelerated", v.accelerated},
            {"reason", v.reason}, {"text", v.text}, {"facts", facts},       {"connection", v.connection}};
}

void print(const explain_options& e, const verdict& v) {
    printf("process %d%s, descriptor %d: %s: %s\n", e.pid, v.program.empty() ? "" : (" (" + v.program + ")").c_str(),
           e.fd, v.accelerated ? "accelerated" : "not accelerated", v.text.c_str());
    size_t width = 0;
    for (const auto& f : v.facts) {
        width = std::max(width, f.first.size());
    }
    for (const auto& [name, value] : v.facts) {
        printf("  %-*s  %s\n", int(width), name.c_str(), value.c_str());
    }
}

int run_explain(const options& o, const explain_options& e) {
    auto doc = ask_status(o.socket);
    auto v = inquire(e.pid, e.fd, doc ? *doc : json::object(), doc ? std::string() : doc.error().text);
    if (o.json) {
        puts(as_json(e, v).dump(2, ' ', false, json::error_handler_t::replace).c_str());
    } else if (v.found) {
        print(e, v);
    } else {
        return say_error(exit_failure, "explain: " + v.text);
    }
    return v.found ? exit_ok : exit_failure;
}

}  // namespace

command add_explain(CLI::App& app, const options& o) {
    auto e = std::make_shared<explain_options>();
    app.add_option("PID", e->pid, "process")->required()->check(CLI::Range(1, pid_max));
    app.add_option("FD", e->fd, "its descriptor, as in /proc/PID/fd")->required()->check(CLI::Range(0, fd_max));
    app.footer("Without the daemon the answer comes from /proc alone.\n\nExamples:\n  vmsgr explain 4711 23\n"
               "  vmsgr explain $(pidof ceph-osd) 23 --json");
    return {[&o, e] { return run_explain(o, *e); }};
}

}  // namespace vmsgr::cli
