// What the library knows about its process: routes, program, session. Set up once, before main, from the
// environment that `vmsgr run` made; inert (no table, every hook one load and a jump) when no route concerns
// this program.
#pragma once

#include <atomic>
#include <string_view>

#include "client/session.hh"
#include "proto/routes.hh"

namespace vmsgr::preload {

struct runtime_state {
    proto::route_table routes;
    std::string_view program;
    client::session session;
    bool log = false;
};

runtime_state& runtime() noexcept;

// True once, and as long as, this process takes part.
extern std::atomic<bool> active;

// Between vfork() and exec, on the parent's memory (hooks_process.cc): what is known of numbers is the parent's.
bool in_vfork_child() noexcept;

// One line on stderr, only with VMSGR_LOG set.
void log(const char* format, ...) noexcept __attribute__((format(printf, 1, 2)));

// The re-attach thread: runs while listeners wait for the daemon to come back.
void watch_for_daemon() noexcept;

}  // namespace vmsgr::preload
