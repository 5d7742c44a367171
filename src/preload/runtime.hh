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

// The library's own descriptors: high numbers, CLOEXEC, out of the program's reach. Moves *where up, or keeps it
// where it is when there is no room above. `where` is changed again if the program wants the number for itself.
void make_internal(int* where) noexcept;
// The two halves of it, for one that does not exist yet. The duplicate has a high number, or any where there is no
// room; -1 with errno: no descriptor.
int duplicate_internal(int fd) noexcept;
void mark_internal(int* where) noexcept;
void close_internal(int fd) noexcept;
void drop_internal(int* where) noexcept;
// The program wants number fd, which is internal: ours moves.
void move_internal(int fd) noexcept;

// The re-attach thread: runs while listeners wait for the daemon to come back.
void watch_for_daemon() noexcept;

}  // namespace vmsgr::preload
