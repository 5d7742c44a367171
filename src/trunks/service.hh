// A shard's part of all trunks. sharded<service>; starts before the connectors that ask it for a way, and ends after
// the carriers have flushed into it.
//
//   client      connects to one peer, again and again      acceptor    takes the connections of peers
//        \____ link: one TCP connection, with or without TLS ____/
//   session     runs over one link at a time; the engine of src/trunk counts and repeats packets
//   directory   which session reaches a destination        openings    what a peer's open brings
#pragma once

#include <seastar/core/timer.hh>

#include "trunks/acceptor.hh"

namespace vmsgr::trunks {

class service : public seastar::peering_sharded_service<service> {
    environment _env;
    openings _openings;
    directory _directory;
    acceptor _acceptor;
    seastar::timer<seastar::lowres_clock> _timer;
    std::unique_ptr<credentials> _prepared;
    peer_shares _shares;  // shard 0
    keeper::entry* _taken_over = nullptr;

public:
    service(const conf::trunk_config& c, uint64_t node, conn::budget& b, seastar::sharded<conn::carrier>& carriers,
            seastar::sharded<local::listeners>& listeners, local::registry& r);
    // Throws when a certificate cannot be read.
    seastar::future<> start();
    // Once all shards have started, as peers may come to any of them at once. Throws when the address is in use.
    void begin();
    // A configuration that was read again, in two steps: certificates are read, which may fail (throws) and changes
    // nothing; then all of it is in use, for what begins from now on. Connections stay.
    seastar::future<> prepare(const conf::trunk_config& c);
    void change(const conf::trunk_config& c);
    // Another worker goes on. Nothing moves over trunks any more;
    void freeze() noexcept;
    // what peers have opened still reaches its listener;
    size_t under_way() const noexcept { return _openings.under_way(); }
    // then, what it needs goes to the keeper; the log says where that fails.
    void hand_over() noexcept;
    // In that worker, before start(). entry: of this shard, with its record; once.
    seastar::future<> take_over(keeper::entry& entry, base::unique_fd record);
    // Before start(). Null: the channel is gone.
    std::unique_ptr<conn::far_side> claim(conn::channel_name which, const base::address& local,
                                          const base::address& peer);
    void take_over_relay(keeper::entry& entry, base::unique_fd socket);
    // All is claimed. Until here yet another worker may take over from the same record, so nothing has moved.
    void go_on() noexcept;
    // No new connections and channels.
    seastar::future<> quiesce();
    // The daemon is to leave: peers find another way for what is new.
    void refuse_all(bool on) noexcept { _openings.refuse_all(on); }
    size_t relays() const noexcept { return _openings.relays(); }
    // What was sent leaves, up to the limit. Safe after a failed or missing start().
    seastar::future<> stop();

    // See directory.
    session_ptr way_to(const base::address& destination, bool may_probe) {
        return _directory.way_to(destination, may_probe);
    }
    bool may_come(const base::address& destination) const noexcept { return _directory.may_come(destination); }
    void wait(trunk_far& far) { _directory.wait(far); }
    void count(trunk::refusal r, const base::address& destination) noexcept { _directory.count(r, destination); }
    std::vector<session_info> list() const { return _directory.list(); }
    uint64_t netns() const noexcept { return _env.netns; }  // the daemon's own
    const conn::usage& relay_bytes() const noexcept { return _openings.relay_bytes(); }

private:
    uint64_t limit_of_peer() const noexcept;
    seastar::future<> watch_certificates();
};

}  // namespace vmsgr::trunks
