// The configuration's limits against each other and against the machine, before anything starts. Seastar-free.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.hh"
#include "conf/config.hh"
#include "conn/budget.hh"
#include "daemon/machine.hh"

namespace vmsgr::daemon {

// What may be used, once what does not fit was lowered.
struct fitted_limits {
    conn::amounts all, each_user;
    uint32_t closing = 0;              // descriptors that wait for helper threads to close them
    std::vector<std::string> lowered;  // what was, and why; a line each
};

// Can this machine run c, and with which limits? The error says what to change.
base::result<fitted_limits> fit_limits(const conf::daemon_config& c, const machine& m);

// This kernel does what doorbells need.
base::result<void> check_kernel();

}  // namespace vmsgr::daemon
