#include "daemon/options.hh"

#include <CLI/CLI.hpp>

#include <cstdio>
#include <iostream>

#include "proto/control.hh"

namespace vmsgr::daemon {

parsed parse_options(int argc, char** argv) {
    constexpr int usage_error = 2;
    options o;
    std::string polling;
    CLI::App app("vmsgrd carries the TCP connections of other programs on this machine; they reach it through "
                 "shared memory.\nSee vmsgrd(8).",
                 "vmsgrd");
    app.add_option("--config", o.config, "configuration file (YAML); without it nothing is routed")->type_name("FILE");
    app.add_flag("--check-config", o.check_config, "read the configuration, say whether it is good, and end");
    app.add_flag("--upgrade", o.upgrade,
                 "take over from the vmsgrd that runs, with everything that it carries; without --config by its "
                 "configuration file");
    app.add_flag("--reload", o.reload,
                 "let the vmsgrd that runs read its configuration again; if it is another version, as --upgrade");
    app.add_flag("--no-seccomp", o.no_seccomp, "do not restrict system calls, for a debugger or a profiler");
    app.add_option("--poll-mode", polling, "adaptive sleeps when nothing moves, busy never does")
        ->check(CLI::IsMember({"adaptive", "busy"}))
        ->type_name("MODE");
    app.set_version_flag("--version", "vmsgrd " + std::string(proto::version_text));
    try {
        app.parse(argc, argv);
    } catch (const CLI::Success& e) {
        return {std::nullopt, app.exit(e)};
    } catch (const CLI::ParseError& e) {
        std::fprintf(stderr, "vmsgrd: %s; see vmsgrd --help\n", e.what());
        return {std::nullopt, usage_error};
    }
    if (!polling.empty()) {
        o.polling = polling == "busy" ? conf::poll_mode::busy : conf::poll_mode::adaptive;
    }
    return {o, 0};
}

}  // namespace vmsgr::daemon
