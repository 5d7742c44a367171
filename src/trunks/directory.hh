// Who is reached over trunks from this shard, and by which session: the peers that are configured or learnt by a probe,
// and the sessions that peers have to here.
//
// Owner: the shard's service.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "trunks/client.hh"
#include "trunks/openings.hh"

namespace vmsgr::trunks {

class directory {
    struct incoming {
        session_ptr session;
        std::unique_ptr<trunk::engine_counters> count;
    };
    environment& _env;
    openings& _openings;
    std::vector<std::unique_ptr<client>> _clients;
    std::map<uint64_t, incoming> _incoming;  // by cookie
    std::vector<incoming> _graveyard;        // ended, but some wire still holds them
    trunk::engine_counters _past;  // of incoming sessions that are gone, and of connections that never had one
    bool _probes = false;

public:
    directory(environment& env, openings& o);
    ~directory();
    // Begins to connect to the configured peers.
    void start();
    void stop_probing() noexcept { _probes = false; }
    // All sessions: what was sent leaves, up to the limit.
    seastar::future<> finish(std::chrono::milliseconds limit);
    // Once no fiber runs any more.
    void clear() noexcept;
    void tick() noexcept;

    // --- outgoing ---
    // The session over which a destination is reached; null: none, or no connection is up. may_probe: where no peer is
    // known for it, its host is asked for a daemon, for those who come later.
    session_ptr way_to(const base::address& destination, bool may_probe);

    // --- incoming ---
    // A session that goes on, if it is this peer's; null: none.
    session_ptr find(uint64_t cookie, const std::string& certificate) const noexcept;
    bool has_room() const noexcept { return _incoming.size() < _env.config.sessions; }
    session_ptr begin(const trunk::hello& hello, const std::string& certificate);
    // Of a connection without a session.
    void count(trunk::packet_fault f) noexcept { _past.count(f); }

    std::vector<session_info> list() const;

private:
    void run(conf::trunk_peer peer, bool learnt);
    void probe(const base::address& destination);
    void forget_ended();
};

}  // namespace vmsgr::trunks
