// What `vmsgr trunks` shows of a session, or of a peer to which there is none.
#pragma once

#include "trunk/refusal.hh"
#include "trunks/session.hh"

namespace vmsgr::trunks {

struct session_info {
    std::string name;
    bool outgoing = false;
    unsigned shard = 0;
    uint16_t lane = 0;
    base::address address{};    // where we connect; none for incoming ones
    const char* state = "down";  // up, waiting (for a connection; channels go on), down; probing, absent
    size_t channels = 0;
    uint64_t of_peer = 0, of_peer_max = 0;  // incoming: connections of this peer in all its sessions
    uint64_t rtt_us = 0, in_flight_bytes = 0;
    size_t packet_bytes = 0;
    trunk::engine_counters count{};
    trunk::refusals refused{};
    bool learnt = false;  // by a probe
    bool secured = false;  // by TLS
    base::histogram_image round_trips{};
    std::string identity{};  // of the peer, as far as it is proved: of its certificate, or its address

    // What a session that has not ended tells of itself.
    void add(trunk_session& s) {
        const auto& e = s.engine();
        secured = s.who.proof.secured;
        identity = s.who.proof.identity;
        state = e.attached() ? "up" : "waiting";
        channels = e.channels();
        if (s.who.share) {
            of_peer = s.who.share->used();
            of_peer_max = s.who.share->limit();
        }
        rtt_us = e.rtt_us();
        round_trips = e.round_trips().read();
        in_flight_bytes = e.in_flight_bytes();
        packet_bytes = e.settings().packet_bytes;
    }
};

}  // namespace vmsgr::trunks
