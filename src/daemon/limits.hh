// The machine's limits, raised and read before anything starts.
#pragma once

#include <cstdint>

#include "base/error.hh"
#include "conf/config.hh"

namespace vmsgr::daemon {

// Raises the descriptor limit to its hard limit; what is left for programs is its result.
base::result<uint64_t> raise_descriptor_limit();

// Can this machine run c? The error says what to change.
base::result<void> check_machine(const conf::daemon_config& c);

}  // namespace vmsgr::daemon
