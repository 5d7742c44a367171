// What all parts of this room on a shard work with: the configuration, the services of other rooms, and what the parts
// share. Owner: the shard's service, which outlives the parts.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include <seastar/core/abort_source.hh>
#include <seastar/core/gate.hh>
#include <seastar/core/sharded.hh>

#include "conn/budget.hh"
#include "local/listeners.hh"
#include "trunk/handshake.hh"
#include "trunks/credentials.hh"
#include "trunks/shares.hh"

namespace vmsgr::trunks {

// Open for each connection of a trunk: Seastar's, and a handle by which waits on it are ended.
inline constexpr unsigned fds_per_link = 2;
// A peer that connects or is connected to has shown who it is within this time.
inline constexpr auto greeting_limit = std::chrono::milliseconds(3000);

// A connect waits so long for a queue that is full or for a trunk, as the kernel gives one up after about as long.
inline constexpr auto connect_limit = std::chrono::seconds(130);

struct environment {
    conf::trunk_config config;
    trunk::session_terms terms;
    conn::budget& budget;
    seastar::sharded<conn::carrier>& carriers;
    seastar::sharded<local::listeners>& listeners;
    local::registry& registry;
    // Of a peer that has proved to be this one.
    std::function<seastar::future<peer_share>(std::string identity)> share_of;
    credentials tls{};
    trunk::memory_share memory{};
    uint64_t netns = 0;            // the daemon's own
    seastar::gate fibers{};        // all that the room runs on this shard
    seastar::abort_source stop{};  // asked for by stop()
};

}  // namespace vmsgr::trunks
