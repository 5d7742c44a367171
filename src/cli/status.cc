// vmsgr status: one look at the whole daemon.
#include <cstdio>
#include <memory>

#include "cli/cli.hh"
#include "cli/document.hh"
#include "cli/json_text.hh"
#include "cli/table.hh"

namespace vmsgr::cli {

namespace {

void print_overview(const json& doc, const options& o) {
    const json& d = object_of(doc, "daemon");
    const json& t = object_of(doc, "totals");
    printf("vmsgrd %s, pid %s, up %s, %s shards, %s\n", text_of(d, "version").c_str(), text_of(d, "pid").c_str(),
           seconds_text(double(number_of(d, "uptime_s"))).c_str(), text_of(d, "shards").c_str(), o.socket.c_str());
    printf("open: %lu sessions, %lu connections, %zu listeners; connections so far: %lu\n",
           number_of(t, "sessions_open"), number_of(t, "connections_open"), list_of(doc, "listeners").size(),
           number_of(t, "connections_total"));
    printf("bytes: direct %s, local %s, trunk %s; refused: %lu; faults: %lu\n",
           bytes_text(number_of(t, "bytes_direct")).c_str(), bytes_text(number_of(t, "bytes_local")).c_str(),
           bytes_text(number_of(t, "bytes_trunk")).c_str(), number_of(t, "refused"), number_of(t, "faults"));
    if (object_of(doc, "drain").value("on", false)) {
        puts("it is being drained, and carries nothing new; see 'vmsgr drain --status'");
    }
}

void print_sessions(const json& doc) {
    table sessions{">SESSION", ">PID", ">UID", "PROGRAM", ">CONNECTIONS"};
    for (const auto& s : list_of(doc, "sessions")) {
        sessions.row(
            {text_of(s, "id"), text_of(s, "pid"), text_of(s, "uid"), text_of(s, "program"), text_of(s, "connections")});
    }
    if (!sessions.empty()) {
        printf("\n%s", sessions.text().c_str());
    }
    table listeners{">SESSION", "LISTENS ON", ">SHARDS", ">ACCEPTED"};
    for (const auto& l : list_of(doc, "listeners")) {
        listeners.row({text_of(l, "session"), text_of(l, "address"), text_of(l, "shards"), text_of(l, "accepted")});
    }
    if (!listeners.empty()) {
        printf("\n%s", listeners.text().c_str());
    }
}

}  // namespace

command add_status(CLI::App& app, const options& o) {
    app.footer("Examples:\n  vmsgr status\n  vmsgr status --json | jq .totals");
    return {[&o] {
        if (o.json) {
            const auto text = ask_status_text(o.socket);
            if (!text) {
                return say_error(exit_no_daemon, text.error().text);
            }
            puts(indented(*text).c_str());
            return int(exit_ok);
        }
        const auto doc = ask_status(o.socket, true);
        if (!doc) {
            return say_error(exit_no_daemon, doc.error().text);
        }
        print_overview(*doc, o);
        print_sessions(*doc);
        say_what_is_shown(*doc);
        return int(exit_ok);
    }};
}

}  // namespace vmsgr::cli
