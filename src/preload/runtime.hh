// What the library knows about its process: routes, program, session. Set up once, before main, from the
// environment that `vmsgr run` made; inert (no table, every hook one load and a jump) when no route concerns
// this program.
#pragma once

#include <errno.h>

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

// Around a fork: by pthread_atfork() for fork() itself.
void before_fork() noexcept;
void after_fork_parent() noexcept;
void after_fork_child() noexcept;
// For those that libc does not tell of: _Fork(), clone(), system calls. f() forks, and returns what fork() does.
template <typename F>
auto forked(F&& f) noexcept {
    if (!active.load(std::memory_order_relaxed)) {
        return f();
    }
    int err = errno;
    before_fork();
    const auto r = f();
    err = r < 0 ? errno : err;
    r == 0 ? after_fork_child() : after_fork_parent();
    errno = err;
    return r;
}

// Between vfork() and exec, on the parent's memory (hooks_process.cc): what is known of numbers is the parent's.
bool in_vfork_child() noexcept;

// One line on stderr, only with VMSGR_LOG set.
void log(const char* format, ...) noexcept __attribute__((format(printf, 1, 2)));

// The re-attach thread: runs while listeners wait for the daemon to come back.
void watch_for_daemon() noexcept;

}  // namespace vmsgr::preload
