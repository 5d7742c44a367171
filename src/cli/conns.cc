// vmsgr conns: the connections that the daemon carries, one a line.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>

#include "cli/cli.hh"
#include "cli/document.hh"
#include "cli/json_text.hh"
#include "cli/table.hh"

namespace vmsgr::cli {

namespace {

struct filters {
    std::optional<uint64_t> pid;
    std::string route;
};

std::vector<std::string_view> chosen(const listed_status& doc, const filters& f) {
    std::vector<std::string_view> out;
    for (const auto row : doc.connections) {
        if ((!f.pid || member_of(row, "pid") == std::to_string(*f.pid)) &&
            (f.route.empty() || shown_member(row, "route") == f.route)) {
            out.push_back(row);
        }
    }
    return out;
}

std::string as_json(const std::vector<std::string_view>& connections) {
    std::string out = "[";
    for (const auto row : connections) {
        out += out.size() == 1 ? "" : ",";
        out += row;
    }
    return indented(out + "]");
}

// Why a connection is in plain mode, in the word that `vmsgr explain` has.
std::string state_of(std::string_view plain, const std::string& state) {
    if (!plain.starts_with('{')) {
        return state;
    }
    const auto cause = shown_member(plain, "cause");
    return cause == "-" || cause.empty() ? "plain" : "plain (" + cause + ")";
}

constexpr std::string_view wanted[] = {"pid",   "fd",    "role",     "local",     "peer", "path",
                                       "route", "state", "bytes_in", "bytes_out", "plain"};

// Of a row, what the table has of it: in one walk, as there may be thousands.
std::vector<std::string> columns(std::string_view row) {
    std::array<std::string_view, std::size(wanted)> found;
    for (json_walk members(row); members.next();) {
        if (const auto at = std::ranges::find(wanted, members.key); at != std::end(wanted)) {
            found[size_t(at - wanted)] = members.value;
        }
    }
    const auto& [pid, fd, role, local, peer, path, route, state, in, out, plain] = found;
    const auto amount = [](std::string_view text) { return bytes_text(strtoull(shown(text).c_str(), nullptr, 10)); };
    return {shown(pid),  shown(fd),   shown(local), role == "\"server\"" ? "<" : ">",
            shown(peer), shown(path), shown(route), state_of(plain, shown(state)),
            amount(in),  amount(out)};
}

void print_connections(const std::vector<std::string_view>& connections) {
    table t{">PID", ">FD", "LOCAL", " ", "PEER", "PATH", "ROUTE", "STATE", ">IN", ">OUT"};
    for (const auto row : connections) {
        t.row(columns(row));
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
        const auto doc = ask_listed_status(o.socket);
        if (!doc) {
            return say_error(exit_no_daemon, doc.error().text);
        }
        const auto connections = chosen(*doc, *f);
        if (o.json) {
            puts(as_json(connections).c_str());
        } else if (connections.empty()) {
            puts(doc->connections.empty() ? "no connections" : "no connections that match");
        } else {
            print_connections(connections);
        }
        if (!o.json) {
            say_what_is_shown(doc->rest);
        }
        return int(exit_ok);
    }};
}

}  // namespace vmsgr::cli
