// Starting a process, and what the kernel says of one's threads. Any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>
#include <string_view>

#include "base/error.hh"

namespace vmsgr::base {

// As fork(2): 0 in the child. Before there are other threads.
result<pid_t> fork_process() noexcept;

// The first line of /proc/PID/task/THREAD/FILE, as far as the buffer holds it; empty where the kernel says nothing.
std::string_view read_of_thread(pid_t of, uint64_t thread, const char* file, std::span<char> buffer) noexcept;

// The state in a "stat" of /proc, 'R' or 't'; '?' where there is none.
char state_in(std::string_view stat) noexcept;

}  // namespace vmsgr::base
