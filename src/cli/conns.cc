// vmsgr conns: the connections that the daemon carries, one a line.
#include <cstdio>
#include <memory>
#include <optional>

#include "cli/cli.hh"
#include "cli/document.hh"
#include "cli/table.hh"

namespace vmsgr::cli {

namespace {

struct filters {
    std::optional<uint64_t> pid;
    std::string route;
};

json chosen(const json& doc, const filters& f) {
    json out = json::array();
    for (const auto& c : list_of(doc, "connections")) {
        if ((!f.pid || number_of(c, "pid") == *f.pid) && (f.route.empty() || text_of(c, "route") == f.route)) {
            out.push_back(c);
        }
    }
    return out;
}

// Why a connection is in plain mode, in the word that `vmsgr explain` has.
std::string state_of(const json& c) {
    const json& plain = object_of(c, "plain");
    if (plain.empty()) {
        return text_of(c, "state");
    }
    const std::string cause = plain.contains("cause") && plain["cause"].is_string() ? text_of(plain, "cause") : "";
    return cause.empty() ? "plain" : "plain (" + cause + ")";
}

void print_connections(const json& connections) {
    table t{">PID", ">FD", "LOCAL", " ", "PEER", "PATH", "ROUTE", "STATE", ">IN", ">OUT"};
    for (const auto& c : connections) {
        bool server = text_of(c, "role") == "server";
        t.row({text_of(c, "pid"), text_of(c, "fd"), text_of(c, "local"), server ? "<" : ">", text_of(c, "peer"),
               text_of(c, "path"), text_of(c, "route"), state_of(c), bytes_text(number_of(c, "bytes_in")),
               bytes_text(number_of(c, "bytes_out"))});
    }
    printf("%s", t.text().c_str());
}

}  // namespace

command add_conns(CLI::App& app, const options& o) {
    auto f = std::make_shared<filters>();
    app.add_option("--pid", f->pid, "only this process's")->type_name("PID");
    app.add_option("--route", f->route, "only this route's")->type_name("NAME");
    app.footer("'>' marks a connection that the program made, '<' one that it accepted; IN and OUT are seen from\n"
               "the program, in plain mode as far as they went through shared memory. A local connection that several\n"
               "processes have is shown by each that uses it, with what that one has moved.\n\nExamples:\n  vmsgr "
               "conns\n  vmsgr conns --pid 4711\n"
               "  vmsgr conns --route ceph-osds --json");
    return {[&o, f] {
        auto doc = ask_status(o.socket);
        if (!doc) {
            return say_error(exit_no_daemon, doc.error().text);
        }
        auto connections = chosen(*doc, *f);
        if (o.json) {
            puts(connections.dump(2).c_str());
        } else if (connections.empty()) {
            puts(list_of(*doc, "connections").empty() ? "no connections" : "no connections that match");
        } else {
            print_connections(connections);
        }
        if (!o.json) {
            say_what_is_shown(*doc);
        }
        return int(exit_ok);
    }};
}

}  // namespace vmsgr::cli
