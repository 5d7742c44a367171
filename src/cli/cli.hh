// What the commands of vmsgr share: options, exit codes, the way errors are said. One file a command; main.cc knows
// them all. Single thread.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hh"

namespace vmsgr::cli {

enum exit_code : int {
    exit_ok = 0,
    exit_failure = 1,
    exit_usage = 2,
    exit_no_daemon = 3,  // vmsgrd is not reachable
    // `run` only, as env(1):
    exit_run_failed = 125,
    exit_not_executable = 126,
    exit_not_found = 127,
};

struct options {
    std::string socket;  // --socket, $VMSGR_SOCKET or the default; absolute
    bool json = false;
};

// "vmsgr: text" on stderr, as one line; returns code.
int say_error(int code, std::string_view text);

// One command: its options are added to an App, and it runs once they are parsed.
struct command {
    std::function<int()> run;
};
command add_run(CLI::App& app, const options& o, const std::vector<std::string>& program);
command add_status(CLI::App& app, const options& o);
command add_conns(CLI::App& app, const options& o);
command add_routes(CLI::App& app, const options& o);
command add_trunks(CLI::App& app, const options& o);
command add_top(CLI::App& app, const options& o);
command add_page(CLI::App& app, const options& o);
command add_explain(CLI::App& app, const options& o);
command add_doctor(CLI::App& app, const options& o, const std::vector<std::string>& program);
command add_ping(CLI::App& app, const options& o);
command add_perf(CLI::App& app, const options& o);
command add_send(CLI::App& app, const options& o);
command add_recv(CLI::App& app, const options& o);
command add_ceph(CLI::App& app, const options& o);
command add_drain(CLI::App& app, const options& o);

}  // namespace vmsgr::cli
