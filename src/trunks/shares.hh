// What each peer daemon has of this one, in all its sessions, on all shards: the connections that it has opened
// here. A peer is who it has proved to be (its certificate, or its address on a plain trunk).
//
// Owner: the service of shard 0. The usages are used from every shard, by who holds the pointer.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "conn/budget.hh"

namespace vmsgr::trunks {

using peer_share = std::shared_ptr<conn::usage>;

class peer_shares {
    std::map<std::string, peer_share> _all;
    size_t _sweep_at = 64;

public:
    // limit: for one that is not known yet.
    peer_share find(const std::string& identity, uint64_t limit);
    // Whoever holds more keeps it.
    void set_limit(uint64_t limit) noexcept {
        for (auto& [identity, share] : _all) {
            share->set_limit(limit);
        }
    }
};

}  // namespace vmsgr::trunks
