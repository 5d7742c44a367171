// This shard's lane to one peer: connects, asks for the session to go on or for a new one, and again when the
// connection breaks, with growing pauses. Owner: the shard's trunks.
#pragma once

#include "net/trunks.hh"

namespace vmsgr::net {

class trunk_client {
    trunks& _owner;
    const conf::trunk_peer& _peer;
    session_ptr _session;  // may have ended
    trunk::engine_counters _count;
    trunk_link* _link = nullptr;  // in its handshake
    int _connecting = -1;
    bool _said_down = false;

public:
    trunk_client(trunks& owner, const conf::trunk_peer& p) : _owner(owner), _peer(p) {}
    // Until the owner stops.
    seastar::future<> run();
    // Whatever waits for the peer's answer ends.
    void interrupt() noexcept;

    const session_ptr& session() const noexcept { return _session; }
    bool reaches(const base::address& destination) const noexcept;
    trunk_info info() const;

private:
    // True: a session was carried for a while.
    seastar::future<bool> attempt();
    seastar::future<base::unique_fd> connect();
    seastar::future<bool> converse(trunk_link& link);
};

}  // namespace vmsgr::net
