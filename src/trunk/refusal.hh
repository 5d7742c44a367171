// Why a daemon said no on a trunk, counted by reason: to a peer, to a stranger, or to a program of its own host. What
// is wrong with packets is a packet_fault (packet.hh). Any thread.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace vmsgr::trunk {

enum class refusal : uint8_t {
    address,      // not in trunk.accept_from
    crowd,        // gave way to a newer connection: too many that have not shown who they are
    descriptors,  // none were left for the connection
    certificate,  // TLS failed: signed by somebody else, expired, revoked, or none
    name,         // a good certificate of somebody else
    sessions,     // a new session beyond trunk.sessions, or beyond one peer's share
    connections,  // a connection beyond the peer's share (trunk.connections_per_peer)
    source,       // a connection from an address that the peer may not claim
    destination,  // a connection to an address that the peer may not reach
    own_source,   // of a program here: an address that this host would not use, or of another network namespace
    no_trunk,     // of a program here: no trunk, and its route allows no other way
    memory,  // a connection for which none is left: of relays (an eighth of a shard, half for a peer), or of all
};
inline constexpr size_t refusal_kinds = 12;
std::string_view to_text(refusal) noexcept;

struct refusals {
    std::array<uint64_t, refusal_kinds> by_reason{};

    void count(refusal r) noexcept { ++by_reason[size_t(r)]; }
    void add(const refusals& other) noexcept {
        for (size_t i = 0; i < refusal_kinds; ++i) {
            by_reason[i] += other.by_reason[i];
        }
    }
};

}  // namespace vmsgr::trunk
