// What the daemon gives up once its sockets are made: its user, its capabilities, and the system calls that it has no
// use for. On the main thread, before any other thread; what is given up does not come back.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/error.hh"

namespace vmsgr::daemon {

struct account {
    std::string name;
    uid_t uid = 0;
    gid_t gid = 0;
};
// A user of this machine, by name or number.
base::result<account> find_account(const std::string& user);

// Becomes this user, with its groups. Root only, unless it is the present user.
base::result<void> become(const account& a);

// Nothing more can be gained than this user keeps. Before become(), as it takes a capability.
void bound_capabilities(uid_t uid) noexcept;
// A daemon that stays root keeps what it uses: to read renewed keys, to set the socket's group, for Seastar's timer
// thread, and to hold more descriptors under way than one user may. Any other keeps nothing. Programs that it starts
// gain nothing.
base::result<void> drop_capabilities();

// From here on the kernel refuses all calls (EPERM) that are not in the list of privileges.cc: no program is executed,
// no process is traced, nothing is mounted, and no socket is made but of unix, TCP, UDP and netlink.
base::result<void> restrict_system_calls();

}  // namespace vmsgr::daemon
