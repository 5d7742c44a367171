// vmsgr: the table of commands, the options that all of them take, and what is said of a mistyped one.
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>

#include "cli/cli.hh"
#include "conf/words.hh"
#include "proto/control.hh"

namespace vmsgr::cli {

int say_error(int code, std::string_view text) {
    std::string line = "vmsgr: ";
    for (char c : text) {
        line += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
    fprintf(stderr, "%s\n", line.c_str());
    return code;
}

namespace {

// The commands that are given another program, and their options that take a word.
constexpr std::string_view with_program[] = {"run", "doctor"};
constexpr std::string_view word_options[] = {"--routes", "--socket", "--spin-us", "--to"};

constexpr const char* footer = R"(Examples:
  vmsgr run -- ceph-osd -f -i 0          carry what the daemon's routes name
  vmsgr status                           what vmsgrd is doing
  vmsgr conns --route ceph-osds          the connections of one route
  vmsgr routes test 10.0.0.1:6800        which route would win, and why
  vmsgr trunks                           the sessions with other daemons
  vmsgr top                              what moves, live
  vmsgr page                             the same in a browser
  vmsgr doctor ceph-osd                  will its connections be carried; if not, why
  vmsgr explain 4711 23                  is this descriptor accelerated; if not, why
  vmsgr drain                            all connections back to the kernel
  vmsgr ceph plan                        the routes for this host's OSDs
  vmsgr perf                             how fast message channels are here

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 vmsgrd not reachable. `run` ends with the
program's own code; 125, 126 and 127 as env(1). More in vmsgr(1).)";

struct command_line {
    std::vector<std::string> ours;  // without argv[0]
    std::vector<std::string> program;  // after the command's own options
};

// What follows the command's options belongs to the program, whatever it looks like: cut it off before anything parses.
command_line split(int argc, char** argv) {
    command_line c;
    bool takes_program = false;
    for (int i = 1; i < argc; ++i) {
        std::string word = argv[i];
        if (takes_program && (word == "--" || !word.starts_with('-'))) {
            c.program.assign(argv + i + (word == "--"), argv + argc);
            return c;
        }
        c.ours.push_back(word);
        if (std::ranges::contains(word_options, word) && i + 1 < argc) {
            c.ours.push_back(argv[++i]);
        } else if (!takes_program && !word.starts_with('-')) {
            if (!std::ranges::contains(with_program, word)) {
                c.ours.insert(c.ours.end(), argv + i + 1, argv + argc);
                return c;
            }
            takes_program = true;
        }
    }
    return c;
}

int say_usage(const CLI::App* at, const std::string& text) {
    std::string name = at->get_parent() == nullptr ? "vmsgr" : at->get_name();
    for (auto* up = at->get_parent(); up != nullptr; up = up->get_parent()) {
        name = (up->get_parent() == nullptr ? "vmsgr" : up->get_name()) + " " + name;
    }
    return say_error(exit_usage, text + (text.ends_with('?') ? " See '" : "; see '") + name + " --help'");
}

// The innermost command that was named.
CLI::App* innermost(CLI::App& app) {
    CLI::App* at = &app;
    while (!at->get_subcommands().empty()) {
        at = at->get_subcommands().front();
    }
    return at;
}

int say_unknown(CLI::App* at, const std::string& word) {
    std::vector<std::string> names;
    if (word.starts_with('-')) {
        for (auto* up = at; up != nullptr; up = up->get_parent()) {
            for (const auto* o : up->get_options()) {
                for (const auto& name : o->get_lnames()) {
                    names.push_back("--" + name);
                }
            }
        }
    } else {
        for (const auto* s : at->get_subcommands(nullptr)) {
            names.push_back(s->get_name());
        }
    }
    std::vector<std::string_view> views(names.begin(), names.end());
    std::string_view bare = std::string_view(word).substr(0, word.starts_with("--") ? word.find('=') : word.npos);
    const char* what = word.starts_with('-') ? "unknown option "
                       : names.empty()       ? "unexpected word "
                                             : "unknown command ";
    return say_usage(at, what + conf::quote(word) + conf::did_you_mean(bare, views));
}

std::string absolute(const std::string& path) {
    std::error_code ec;
    auto p = std::filesystem::absolute(path, ec);
    return ec ? path : p.lexically_normal().string();
}

std::string usual_socket() {
    const char* from_environment = ::getenv("VMSGR_SOCKET");
    return from_environment != nullptr && *from_environment != 0 ? from_environment : proto::default_socket;
}

int run(int argc, char** argv) {
    auto words = split(argc, argv);
    CLI::App app{"Carry programs' TCP connections through vmsgrd, and see what it does.", "vmsgr"};
    options o;
    app.add_option("--socket", o.socket, "vmsgrd's control socket; default $VMSGR_SOCKET, else /run/vmsgr/vmsgrd.sock")
        ->type_name("PATH");
    app.add_flag("--json", o.json, "machine-readable output");
    app.set_version_flag("--version", std::string("vmsgr ") + proto::version_text);
    app.footer(footer);
    app.allow_extras();
    app.fallthrough();

    std::vector<std::pair<CLI::App*, command>> commands;
    auto add = [&](const char* name, const char* what, auto&& adder) {
        CLI::App* sub = app.add_subcommand(name, what);
        commands.emplace_back(sub, adder(*sub));
        sub->footer(sub->get_footer() + "\n\nAlso --socket PATH and --json; see 'vmsgr --help' and vmsgr(1).");
    };
    add("run", "run a program with its connections routed", [&](CLI::App& a) { return add_run(a, o, words.program); });
    add("status", "overview of vmsgrd, its sessions and listeners", [&](CLI::App& a) { return add_status(a, o); });
    add("conns", "the connections that vmsgrd carries", [&](CLI::App& a) { return add_conns(a, o); });
    add("routes", "the daemon's routes; 'routes test ADDR' tries one", [&](CLI::App& a) { return add_routes(a, o); });
    add("trunks", "the trunks to other daemons", [&](CLI::App& a) { return add_trunks(a, o); });
    add("top", "what moves, live", [&](CLI::App& a) { return add_top(a, o); });
    add("page", "the address of the status page, with a key", [&](CLI::App& a) { return add_page(a, o); });
    add("explain", "is a descriptor accelerated; if not, why not", [&](CLI::App& a) { return add_explain(a, o); });
    add("doctor", "what of a program will stay plain", [&](CLI::App& a) { return add_doctor(a, o, words.program); });
    add("drain", "give all connections back to the kernel", [&](CLI::App& a) { return add_drain(a, o); });
    add("ceph", "OSDs of this host on VMSGR, and off it", [&](CLI::App& a) { return add_ceph(a, o); });
    add("ping", "messages there and back to another program", [&](CLI::App& a) { return add_ping(a, o); });
    add("perf", "throughput and latency by message size", [&](CLI::App& a) { return add_perf(a, o); });
    add("send", "send a file or standard input to a 'vmsgr recv'", [&](CLI::App& a) { return add_send(a, o); });
    add("recv", "receive what a 'vmsgr send' sends", [&](CLI::App& a) { return add_recv(a, o); });

    std::ranges::reverse(words.ours);  // CLI11 takes them from the back
    try {
        app.parse(words.ours);
    } catch (const CLI::CallForHelp&) {
        fputs(app.help().c_str(), stdout);
        return exit_ok;
    } catch (const CLI::CallForVersion& e) {
        puts(e.what());
        return exit_ok;
    } catch (const CLI::ParseError& e) {
        auto* at = innermost(app);
        auto extra = app.remaining(true);
        return extra.empty() ? say_usage(at, e.what()) : say_unknown(at, extra.front());
    }
    auto* at = innermost(app);
    if (auto extra = app.remaining(true); !extra.empty()) {
        return say_unknown(at, extra.front());
    }
    if (at == &app) {
        return say_usage(at, "no command given; commands are run, status, conns, routes, trunks, top, page, explain, "
                             "doctor, drain, ceph, ping, perf, send, recv");
    }
    o.socket = absolute(o.socket.empty() ? usual_socket() : o.socket);
    auto chosen = std::ranges::find(commands, app.get_subcommands().front(), &decltype(commands)::value_type::first);
    return chosen->second.run();
}

}  // namespace
}  // namespace vmsgr::cli

int main(int argc, char** argv) {
    try {
        return vmsgr::cli::run(argc, argv);
    } catch (const std::exception& e) {
        return vmsgr::cli::say_error(vmsgr::cli::exit_failure, e.what());
    }
}
