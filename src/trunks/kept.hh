// What a worker leaves of a trunk session to the worker of another version that goes on with it (docs/KEEPER.md,
// "Trunks"): a record in memory, which the keeper holds. The connection is made anew, as after a cut.
//
// Of the session's shard.
#pragma once

#include "base/record.hh"
#include "conn/far.hh"
#include "life/connection.hh"
#include "trunks/session.hh"

namespace vmsgr::trunks {

// Of the whole record.
inline constexpr uint32_t record_version = 1;

struct kept_session {
    bool outgoing = false, learnt = false;
    std::string name;  // outgoing: of the peer, and where it is
    base::address connect;
    uint64_t cookie = 0;
    trunk_session::identity who;  // but for its share
    uint32_t outage_ms = 0;
    trunk::engine_settings settings;
    std::span<const std::byte> engine;  // where the record lies; empty: of a new one

    // As if this worker had begun it. Null: the engine's part is none.
    session_ptr make(trunk::memory_share& share, trunk::engine_counters& count, trunk_session::opener on_open) const;
};

// Of a relay; its socket is the keeper's.
struct kept_relay {
    struct waiting {
        std::vector<std::byte> bytes;
        uint64_t urgent_end = 0;
    };
    conn::channel_name which;
    base::address local, peer;
    life::connection life;
    uint64_t window = 0, taken = 0;
    waiting to_server, to_channel;
};

// All of these throw std::bad_alloc.
void save(base::record_writer& to, trunk_session& s);  // frozen; what kept_session has from `cookie` on
kept_session read_session(base::record_reader& from);  // what is missing is zero: see complete()
void save(base::record_writer& to, const kept_relay& r);
std::optional<kept_relay> read_relay(base::record_reader& from);

}  // namespace vmsgr::trunks
