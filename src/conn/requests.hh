// What a program asks of the daemon, once its message was taken apart: a connection to be carried.
// Any shard; travels to the one that does it.
#pragma once

#include <string>

#include "base/address.hh"
#include "base/unique_fd.hh"
#include "conn/vm_conn.hh"
#include "proto/dial.hh"
#include "proto/routes.hh"

namespace vmsgr::conn {

struct connect_request {
    uint64_t id = 0;
    places place;
    std::string route;
    int program_fd = -1;
    base::address peer;
    base::unique_fd bell, tcp, arena;
    end_mark mark{};  // of tcp
    uint32_t slot = 0;       // of the arena
    bool by_trunk = false;   // tcp is only bound: we find the way
    proto::without_trunk without = proto::without_trunk::direct;  // with by_trunk; never unset
    bool may_probe = false;  // our own routes say trunk too: the peer's daemon may be asked
    int refusal = 0;         // an errno: a limit or a rule says no
};

// Where connections for a listener are brought: its door, and the word by which it knows us.
struct door_target {
    uint64_t listener = 0;
    std::string path;
    proto::secret word{};
};

// A program that broke the contract, and how; its session is closed.
struct violation {
    fault why;
    std::string text;
};

}  // namespace vmsgr::conn
