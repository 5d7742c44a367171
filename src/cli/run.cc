// vmsgr run: sets the environment in which the preload library works, and becomes the program.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <memory>
#include <optional>

#include "base/program_file.hh"
#include "cli/cli.hh"
#include "cli/program.hh"
#include "cli/query.hh"
#include "conf/config.hh"
#include "conf/words.hh"
#include "proto/spin.hh"

namespace vmsgr::cli {

namespace {

struct run_options {
    std::string routes_file;
    std::optional<std::string> spin_us;
    bool log = false;
    bool quiet = false;
    std::vector<std::string> shown;
};

int become(const std::string& path, const std::vector<std::string>& program) {
    std::vector<char*> argv;
    for (const auto& word : program) {
        argv.push_back(const_cast<char*>(word.c_str()));
    }
    argv.push_back(nullptr);
    ::execvp(path.c_str(), argv.data());
    int e = errno;
    return say_error(e == ENOENT ? exit_not_found : exit_not_executable,
                     "run: " + program.front() + ": " + strerror(e));
}

struct library_environment {
    std::string preload, routes;
    std::string plain;  // not empty: the program runs without all that, and this is why
    std::string blind;  // not empty: its own connections stay plain, those of programs that it starts do not
    std::string alone;  // not empty: no daemon takes its connections now, which may change while it runs
};

// What is wrong with the set-up itself is an error. A daemon that cannot be asked, or a program that cannot be
// preloaded, is not: programs run then as if VMSGR were not there.
base::result<library_environment> prepare(const options& o, const run_options& r, const std::string& path) {
    library_environment e;
    auto routes = r.routes_file.empty() ? base::result<proto::route_table>{} : conf::load_routes(r.routes_file);
    if (!routes) {
        return std::unexpected(routes.error());
    }
    auto preload = find_library().and_then(preload_value);
    if (!preload) {
        return std::unexpected(preload.error());
    }
    e.preload = *preload;
    if (auto why = preload_obstacle(path); !why.empty()) {
        e.plain = why + ", so LD_PRELOAD is ignored";
        return e;
    }
    if (base::look_at_program(path.c_str()).obstacle == base::preload_obstacle::go) {
        e.blind = base::to_text(base::preload_obstacle::go);
    }
    if (r.routes_file.empty()) {
        routes = ask_routes(o.socket);
        if (!routes) {
            e.plain = routes.error().text;
            return e;
        }
    } else if (auto daemon = ask_routes(o.socket); !daemon) {
        e.alone = daemon.error().text;
    }
    e.routes = proto::to_text(*routes);
    return e;
}

void apply(const library_environment& e, const options& o, const run_options& r) {
    ::setenv("LD_PRELOAD", e.preload.c_str(), 1);
    ::setenv("VMSGR_ROUTES", e.routes.c_str(), 1);
    ::setenv("VMSGR_SOCKET", o.socket.c_str(), 1);
    ::setenv("VMSGR_INHERIT", "0", 1);  // the library says 1 to a program that gets connections (preload/heirs.hh)
    // A program built with AddressSanitizer ends at once when any library is loaded before its runtime. The hooks need
    // nothing of it, and it needs nothing of them.
    const char* asan = ::getenv("ASAN_OPTIONS");
    const std::string own = "verify_asan_link_order=0";
    ::setenv("ASAN_OPTIONS", asan != nullptr && asan[0] != 0 ? (std::string(asan) + ":" + own).c_str() : own.c_str(),
             1);
    if (r.spin_us) {
        ::setenv(proto::spin_variable, r.spin_us->c_str(), 1);
    }
    if (r.log) {
        ::setenv("VMSGR_LOG", "1", 1);
    }
}

// The option's, or the environment's, which goes on to the program. Empty: nothing is wrong.
std::string wrong_budget(const run_options& r) {
    const char* inherited = ::getenv(proto::spin_variable);
    const std::string text = r.spin_us ? *r.spin_us : inherited != nullptr ? inherited : "0";
    if (proto::parse_spin_us(text)) {
        return "";
    }
    return std::string(r.spin_us ? "--spin-us" : "$VMSGR_SPIN_US") + " is " + conf::quote(text) + ", not " +
           proto::spin_range;
}

// That the program will use plain sockets after all. Empty: it will not.
std::string warning(const library_environment& e, const std::string& program) {
    if (!e.plain.empty()) {
        return "run: " + program + " runs without VMSGR: " + e.plain;
    }
    if (!e.blind.empty()) {
        return "run: the connections of " + program + " itself stay plain: " + e.blind;
    }
    if (!e.alone.empty()) {
        return "run: " + program + " runs on plain sockets until vmsgrd takes its connections: " + e.alone;
    }
    return "";
}

int run_program(const options& o, const run_options& r, const std::vector<std::string>& program) {
    if (program.empty()) {
        return say_error(exit_usage, "run: no program given; write 'vmsgr run -- PROGRAM ARGS...'");
    }
    if (auto wrong = wrong_budget(r); !wrong.empty()) {
        return say_error(exit_usage, "run: " + wrong);
    }
    auto path = find_program(program.front());
    if (!path) {
        return say_error(path.error().errnum == ENOENT ? exit_not_found : exit_not_executable,
                         "run: " + path.error().text);
    }
    auto e = prepare(o, r, *path);
    if (!e) {
        return say_error(exit_run_failed, "run: " + e.error().text);
    }
    if (const std::string why = warning(*e, program.front()); !why.empty() && !r.quiet) {
        say_error(0, why);
    }
    if (e->plain.empty()) {
        apply(*e, o, r);
    }
    return become(*path, program);
}

}  // namespace

command add_run(CLI::App& app, const options& o, const std::vector<std::string>& program) {
    auto r = std::make_shared<run_options>();
    app.add_option("--routes", r->routes_file, "routes from this file, not from the daemon")->type_name("FILE");
    app.add_option("--spin-us", r->spin_us,
                   "how long a waiting call may look before it sleeps: 0 (never) to 1000; default 20")
        ->type_name("N");
    app.add_flag("--log", r->log, "let the library say on stderr what it does (VMSGR_LOG=1)");
    app.add_flag("-q,--quiet", r->quiet, "do not say when the program will run on plain sockets");
    // For the help text only: main.cc has cut the program off.
    app.add_option("PROGRAM", r->shown, "the program and its arguments, best after '--'")->type_name("ARGS");
    app.footer("Without --routes the daemon is asked for its own. When it cannot be asked, or when the library cannot\n"
               "be loaded into the program, that runs on plain sockets, and one line on stderr says why.\n\n"
               "Examples:\n  vmsgr run -- rados bench -p data 10 write\n"
               "  vmsgr run --routes my.yaml -- iperf3 -c 127.0.0.1");
    return {[&o, &program, r] { return run_program(o, *r, program); }};
}

}  // namespace vmsgr::cli
