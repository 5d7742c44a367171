// A small process beside the daemon that outlives it by a moment: when the daemon has ended, however it ended, it
// knocks at all doors, so that programs that wait in accept() find that the daemon is gone.
#pragma once

#include <string>

#include "base/error.hh"
#include "base/unique_fd.hh"

namespace vmsgr::daemon {

// Before Seastar starts, from a process with one thread. The daemon holds what is returned as long as it lives. A
// byte there: another daemon has taken over, and nobody is to be told anything.
base::result<base::unique_fd> start_door_keeper(const std::string& doors);

}  // namespace vmsgr::daemon
