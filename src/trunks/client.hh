// This shard's lane to one peer: connects, asks for the session to go on or for a new one, and again when the
// connection breaks, with growing pauses. One that a probe made gives up when nobody answers at its first attempt, or
// once its session is lost, and is remembered as absent for a while. Owner: the shard's trunks.
#pragma once

#include "trunks/trunks.hh"

namespace vmsgr::net {

class trunk_client {
    trunks& _owner;
    const conf::trunk_peer _peer;
    const bool _learnt;
    const std::chrono::milliseconds _patience;  // for the connect, and again for TLS and hello
    seastar::lowres_clock::time_point _absent_until;
    bool _absent = false;  // run() has ended
    session_ptr _session;  // may have ended
    trunk::engine_counters _count;
    trunk_link* _link = nullptr;  // in its handshake
    int _connecting = -1;
    bool _said_down = false;

public:
    trunk_client(trunks& owner, conf::trunk_peer p, bool learnt);
    // Until the owner stops, or a learnt peer is absent.
    seastar::future<> run();
    // Whatever waits for the peer's answer ends.
    void interrupt() noexcept;

    bool learnt() const noexcept { return _learnt; }
    // It was absent, and may be asked again.
    bool forgotten() const noexcept { return _absent && seastar::lowres_clock::now() >= _absent_until; }
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
