// vmsgr drain: connections and listeners become the kernel's again, so that the daemon can be stopped and nobody
// notices.
#include <errno.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "cli/cli.hh"
#include "cli/document.hh"
#include "cli/query.hh"
#include "cli/table.hh"

namespace vmsgr::cli {

namespace {

using namespace std::chrono_literals;
using clock = std::chrono::steady_clock;

constexpr auto look_every = 200ms;
// Those that cannot go are told apart from those that may go in a moment.
constexpr auto settled_after = 2s;
// Another worker, or another version, takes over meanwhile.
constexpr auto silence_max = 10s;
constexpr unsigned timeout_s_default = 60;

struct wishes {
    bool status = false, cancel = false;
    unsigned timeout_s = timeout_s_default;
};

// What the daemon carries still, and why.
struct left_over {
    json connections = json::array();
    uint64_t listeners = 0, relays = 0, given_back = 0;
    bool on = false;
    size_t for_good = 0;  // of the connections

    bool nothing() const { return connections.empty() && listeners == 0 && relays == 0; }
};

bool is_for_good(const json& connection) {
    const std::string cause = text_of(object_of(connection, "stays"), "cause");
    return cause == "trunk" || cause == "plain" || cause == "library";
}

left_over left_in(const json& doc) {
    left_over out;
    const json& drain = object_of(doc, "drain");
    out.on = drain.value("on", false);
    out.listeners = number_of(drain, "listeners_left");
    out.relays = number_of(drain, "relays_left");
    out.given_back = number_of(object_of(doc, "totals"), "given_back");
    for (const auto& c : list_of(doc, "connections")) {
        if (c.contains("stays") && c["stays"].is_object()) {
            out.connections.push_back(c);
            out.for_good += size_t(is_for_good(c));
        }
    }
    return out;
}

json as_json(const left_over& l) {
    json left = json::array();
    for (const auto& c : l.connections) {
        json row;
        for (const char* key : {"id", "pid", "fd", "role", "local", "peer", "path", "route"}) {
            row[key] = c.contains(key) ? c[key] : json();
        }
        row["cause"] = object_of(c, "stays").value("cause", "");
        row["why"] = object_of(c, "stays").value("why", "");
        left.push_back(row);
    }
    return {{"on", l.on},
            {"given_back", l.given_back},
            {"listeners_left", l.listeners},
            {"relays_left", l.relays},
            {"connections_left", left}};
}

void print_left(const left_over& l) {
    printf("given back so far: %lu; left: %zu connections, %lu listeners, %lu relays of trunks\n", l.given_back,
           l.connections.size(), l.listeners, l.relays);
    if (l.connections.empty()) {
        return;
    }
    table t{">PID", ">FD", "LOCAL", " ", "PEER", "STAYS"};
    std::map<std::string, std::string> texts;
    for (const auto& c : l.connections) {
        const json& why = object_of(c, "stays");
        texts[text_of(why, "cause")] = text_of(why, "why");
        t.row({text_of(c, "pid"), text_of(c, "fd"), text_of(c, "local"), text_of(c, "role") == "server" ? "<" : ">",
               text_of(c, "peer"), text_of(why, "cause")});
    }
    printf("\n%s\n", t.text().c_str());
    for (const auto& [cause, text] : texts) {
        printf("%s: %s\n", cause.c_str(), text.c_str());
    }
}

int refused(const base::error& e) {
    if (e.errnum == EPERM) {
        return say_error(exit_failure, "only root and the daemon's own user may order or cancel a drain");
    }
    return say_error(e.errnum == EPROTO ? exit_failure : exit_no_daemon, e.text);
}

// Whoever sees only their own connections would be told that nothing is left.
int say_partly(const json& doc) {
    return object_of(doc, "shown").value("all", true) && !doc.value("partial", false)
               ? 0
               : say_error(exit_failure, "vmsgrd does not show all of its connections (to this user, or just now); "
                                         "ask as root");
}

int finish(const left_over& l, const options& o) {
    if (o.json) {
        puts(as_json(l).dump(2).c_str());
    } else if (l.nothing()) {
        printf("given back: %lu; nothing is left: vmsgrd can be stopped, no connection is lost\n", l.given_back);
    } else {
        print_left(l);
    }
    return l.nothing() ? exit_ok : exit_failure;
}

int wait_for_all(const options& o, const wishes& w) {
    const auto began = clock::now(), until = began + std::chrono::seconds(w.timeout_s);
    const bool shows = !o.json && ::isatty(STDERR_FILENO) != 0;
    bool was_nothing = false;  // a connect may have been under way
    for (auto heard = began;;) {
        auto doc = ask_status(o.socket);
        if (!doc || doc->value("partial", false)) {
            if (clock::now() - heard > silence_max) {
                return doc ? say_partly(*doc) : say_error(exit_no_daemon, doc.error().text);
            }
            std::this_thread::sleep_for(look_every);
            continue;
        }
        heard = clock::now();
        if (const int r = say_partly(*doc); r != 0) {
            return r;
        }
        const left_over l = left_in(*doc);
        if (!l.on) {
            return say_error(exit_failure, "the drain is over: it was cancelled, or vmsgrd was started anew");
        }
        const bool only_such = l.listeners == 0 && l.for_good == l.connections.size() &&
                               clock::now() - began > settled_after;
        if (shows) {
            fprintf(stderr, "\rgiven back: %lu, left: %zu connections, %lu listeners   ", l.given_back,
                    l.connections.size(), l.listeners);
        }
        if ((std::exchange(was_nothing, l.nothing()) && l.nothing()) || only_such || clock::now() >= until) {
            if (shows) {
                fputc('\n', stderr);
            }
            return finish(l, o);
        }
        std::this_thread::sleep_for(look_every);
    }
}

int show_status(const options& o) {
    auto doc = ask_status(o.socket);
    if (!doc) {
        return say_error(exit_no_daemon, doc.error().text);
    }
    const left_over l = left_in(*doc);
    if (o.json) {
        puts(as_json(l).dump(2).c_str());
    } else if (!l.on) {
        puts("vmsgrd is not being drained");
    } else {
        print_left(l);
        say_what_is_shown(*doc);
    }
    return exit_ok;
}

}  // namespace

command add_drain(CLI::App& app, const options& o) {
    auto w = std::make_shared<wishes>();
    app.add_flag("--status", w->status, "what is left, and why; changes nothing");
    app.add_flag("--cancel", w->cancel, "vmsgrd carries again what comes from now on");
    app.add_option("--timeout", w->timeout_s, "wait no longer than this; default 60")->type_name("S");
    app.footer(
        "Connections over TCP become their programs' own sockets again, one by one, and listeners the kernel's;\n"
        "vmsgrd carries nothing new. Then it can be stopped, and no connection is lost. Connections between two\n"
        "programs of this host do not need it. Exit code 0: nothing is left.\n\nExamples:\n"
        "  vmsgr drain && systemctl stop vmsgrd\n  vmsgr drain --status\n  vmsgr drain --cancel");
    return {[&o, w] {
        if (w->status && w->cancel) {
            return say_error(exit_usage, "drain: --status changes nothing, and --cancel does; write one of them");
        }
        if (w->status) {
            return show_status(o);
        }
        if (auto r = ask_daemon(o.socket, proto::kind::drain, w->cancel ? uint32_t(proto::drain_cancel) : 0); !r) {
            return refused(r.error());
        }
        return w->cancel ? int(exit_ok) : wait_for_all(o, *w);
    }};
}

}  // namespace vmsgr::cli
