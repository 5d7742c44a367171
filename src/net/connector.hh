// Takes connect jobs on the shard that shall own the connection: checks what the program sent and lets the shard's
// carrier wait until the socket is connected, and carry it. sharded<connector>; sessions call it through submit_to.
#pragma once

#include <optional>
#include <string>

#include <seastar/core/sharded.hh>

#include "net/carrier.hh"

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

class trunks;

class connector {
    carrier& _carrier;
    trunks& _trunks;

public:
    connector(seastar::sharded<carrier>& carriers, seastar::sharded<trunks>& t);
    seastar::future<> stop() { return seastar::make_ready_future<>(); }

    // Nothing: the connection is under way, and its conduit will tell the outcome.
    std::optional<violation> begin(connect_request r);

private:
    int find_way(vm_conn::parts& p, bool may_probe);
};

}  // namespace vmsgr::net
