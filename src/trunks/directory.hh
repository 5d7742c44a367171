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
        std::unique_ptr<trunk::refusals> refused;
    };
    environment& _env;
    openings& _openings;
    std::vector<std::unique_ptr<client>> _clients;
    std::map<uint64_t, incoming> _incoming;  // by cookie
    std::vector<incoming> _graveyard;  // ended, but some wire still holds them
    trunk::engine_counters _past;  // of incoming sessions that are gone, and of connections that never had one
    trunk::refusals _past_refused;
    // Connects that wait for a way, in their order.
    struct waiting {
        seastar::weak_ptr<trunk_far> far;
        seastar::lowres_clock::time_point until;
        explicit waiting(trunk_far& f) : far(f.weak_from_this()), until(seastar::lowres_clock::now() + connect_limit) {}
    };
    std::vector<waiting> _waiting;
    bool _probes = false;

public:
    directory(environment& env, openings& o);
    ~directory();
    // Begins to connect to the configured peers.
    void start();
    // A configuration that was read again.
    void change_peers();
    void stop_probing() noexcept { _probes = false; }
    // All sessions: what was sent leaves, up to the limit.
    seastar::future<> finish(std::chrono::milliseconds limit);
    // Once no fiber runs any more.
    void clear() noexcept;
    void tick();

    // --- outgoing ---
    // The session over which a destination is reached; null: none, or no connection is up. may_probe: where no peer is
    // known for it, its host is asked for a daemon, for those who come later.
    session_ptr way_to(const base::address& destination, bool may_probe);

    // There may be a way soon: a peer that reaches it is known, and not known to be absent.
    bool may_come(const base::address& destination) const noexcept;
    // Gets its channel as soon as there is a way, or an errno.
    void wait(trunk_far& far);
    // Of a connect, to be shown with the peer that reaches the destination.
    void count(trunk::refusal r, const base::address& destination) noexcept;

    // --- incoming ---
    // A session that goes on, if it is this peer's; null: none.
    session_ptr find(uint64_t cookie, const peer_proof& who) const noexcept;
    // For one more session of this peer.
    bool has_room(const peer_proof& who) const noexcept;
    session_ptr begin(const trunk::hello& hello, const peer_proof& who, peer_share share);
    // Of a connection without a session.
    void count(trunk::packet_fault f) noexcept { _past.count(f); }
    void count(trunk::refusal r) noexcept { _past_refused.count(r); }
    // All who connect again are judged anew; what they carry goes on.
    void renew_links() noexcept;

    // --- from one worker to the next ---
    void freeze() noexcept;
    // All sessions that have not ended. Throws std::bad_alloc.
    void save(base::record_writer& to);
    // Before start(): they wait for their connections. False: the record is none.
    seastar::future<bool> load(base::record_reader& from);
    // Of a session that was loaded, before start(). Null: it is gone.
    std::unique_ptr<trunk_far> claim(conn::channel_name which, uint64_t window, const base::address& local,
                                     const base::address& peer);
    // Before start(), once all is claimed and the record is not used any more.
    void go_on() noexcept;

    std::vector<session_info> list() const;

private:
    void run(conf::trunk_peer peer, bool learnt);
    void run(client& c);
    session_ptr add_incoming(const kept_session& s);
    template <typename F>
    void for_each_session(F what);
    void probe(const base::address& destination);
    void forget_ended();
    void serve_waiting();
};

}  // namespace vmsgr::trunks
