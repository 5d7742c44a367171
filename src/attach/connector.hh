// Takes connect jobs on the shard that shall own the connection: checks what the program sent and lets the shard's
// carrier wait until the socket is connected, and carry it. sharded<connector>; sessions call it through submit_to.
#pragma once

#include <optional>

#include <seastar/core/sharded.hh>

#include "conn/carrier.hh"
#include "conn/requests.hh"

namespace vmsgr::trunks {
class service;
}

namespace vmsgr::attach {

class connector {
    conn::budget& _all;
    conn::carrier& _carrier;
    trunks::service& _trunks;

public:
    connector(conn::budget& all, seastar::sharded<conn::carrier>& carriers, seastar::sharded<trunks::service>& t);
    seastar::future<> stop() { return seastar::make_ready_future<>(); }

    // Nothing: the connection is under way, and its conduit will tell the outcome.
    std::optional<conn::violation> begin(conn::connect_request r);

private:
    std::optional<conn::violation> try_begin(conn::connect_request& r);
    int find_way(conn::vm_conn::parts& p, const conn::connect_request& r);
    base::address true_source(int tcp, const base::address& peer) const noexcept;
};

}  // namespace vmsgr::attach
