// What a program asks of the daemon, once its message was taken apart: a connection to be carried.
// Any shard; travels to the one that does it.
#pragma once

#include <string>

#include "base/address.hh"
#include "base/unique_fd.hh"
#include "conn/vm_conn.hh"

namespace vmsgr::net {

struct connect_request {
    uint64_t key = 0;
    places place;
    std::string route;
    int program_fd = -1;
    base::address peer;
    base::unique_fd memory, bell, tcp, page;
    bool by_trunk = false;  // tcp is only bound: over a trunk, or else we connect it
    bool may_probe = false;  // our own routes say trunk too: the peer's daemon may be asked
    uint64_t listener = 0;  // for a local connection: who gets the other end
    int refusal = 0;  // an errno: a limit or a rule says no
};

// A program that broke the contract, and how; its session is closed.
struct violation {
    fault why;
    std::string text;
};

}  // namespace vmsgr::net
