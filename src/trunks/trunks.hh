// A shard's part of all trunks: a session to each configured peer, and those that peers have to here. sharded<trunks>;
// starts before the connectors that ask it for a way, and ends after the carriers have flushed into it.
//
// trunks.cc accepts and answers, trunk_client.cc connects and asks, trunk_opening.cc has what a peer's open brings.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include <seastar/core/abort_source.hh>
#include <seastar/core/gate.hh>
#include <seastar/core/lowres_clock.hh>
#include <seastar/core/sharded.hh>
#include <seastar/core/timer.hh>

#include "conn/budget.hh"
#include "local/listeners.hh"
#include "trunks/relay.hh"

namespace vmsgr::net {

class trunk_client;

// What `vmsgr trunks` shows of a session, or of a peer to which there is none.
struct trunk_info {
    std::string name;
    bool outgoing = false;
    unsigned shard = 0;
    uint16_t lane = 0;
    base::address address;  // where we connect; none for incoming ones
    const char* state = "down";  // up, waiting (for a connection; channels go on), down; probing, absent
    size_t channels = 0;
    uint64_t rtt_us = 0, in_flight_bytes = 0;
    size_t packet_bytes = 0;
    trunk::engine_counters count;
    bool learnt = false;  // by a probe
};

class trunks : public seastar::peering_sharded_service<trunks> {
    friend class trunk_client;
    const conf::trunk_config& _config;
    budget& _budget;
    seastar::sharded<carrier>& _carriers;
    seastar::sharded<listeners>& _listeners;
    registry& _registry;
    const uint64_t _node;  // of this daemon
    trunk_credentials _tls;
    trunk::memory_share _memory;
    std::vector<std::unique_ptr<trunk_client>> _clients;
    struct incoming {
        session_ptr session;
        std::unique_ptr<trunk::engine_counters> count;
    };
    std::map<uint64_t, incoming> _incoming;  // by cookie
    std::vector<incoming> _graveyard;        // ended, but some far side still holds them
    std::vector<trunk_link*> _links;         // of incoming connections
    std::vector<std::unique_ptr<trunk_relay>> _relays;
    trunk::engine_counters _past;     // of incoming sessions that are gone, and of connections that never had one
    std::optional<seastar::pollable_fd> _listening;
    base::unique_fd _listen_handle;
    uint64_t _netns = 0;
    unsigned _greeting = 0;
    seastar::gate _gate, _openings;
    seastar::abort_source _abort;
    seastar::timer<seastar::lowres_clock> _timer;
    bool _stopping = false;

public:
    trunks(const conf::trunk_config& c, uint64_t node, budget& b, seastar::sharded<carrier>& carriers,
           seastar::sharded<listeners>& listeners, registry& r);
    ~trunks();
    // Throws when the address is in use or a certificate cannot be read.
    seastar::future<> start();
    // No new connections and channels.
    seastar::future<> quiesce();
    // What was sent leaves, up to the limit. Safe after a failed or missing start().
    seastar::future<> stop();

    // The session over which a destination is reached; null: none, or no connection stands. may_probe: where no peer is
    // known for it, its host is asked for a daemon, for those who come later.
    session_ptr way_to(const base::address& destination, bool may_probe);
    std::vector<trunk_info> list() const;
    uint64_t netns() const noexcept { return _netns; }  // the daemon's own

private:
    void probe(const base::address& destination);
    void run(std::unique_ptr<trunk_client> c);
    // Accepting, on shard 0.
    void listen();
    seastar::future<> accept_loop();
    seastar::future<> greet(base::unique_fd fd);
    bool may_connect(const base::address& from) const noexcept;

    // Accepted, on the lane's shard.
    seastar::future<> serve(base::unique_fd fd, lease fds, uint16_t lane);
    seastar::future<session_ptr> answer(trunk_link& link, uint16_t lane);
    session_ptr make_incoming(const trunk::hello_body& hello, size_t packet_bytes);
    void forget_ended();
    void on_timer();

    // A peer opens a channel.
    trunk::channel_sink* on_open(trunk_session& s, uint64_t channel, const base::address& source,
                                 const base::address& destination);
    seastar::future<> open_here(std::unique_ptr<trunk_far> w, base::address destination);
    void relay(std::unique_ptr<trunk_far> w, const base::address& destination);
    bool serves(const base::address& destination) const noexcept;
};

}  // namespace vmsgr::net
