// This shard's lane to one peer: connects, asks for the session to go on or for a new one, and again when the
// connection breaks, with pauses that grow after a while. One that a probe made gives up when nobody answers at its
// first attempt, or once its session is lost, and is remembered as absent for a while. Owner: the shard's directory.
#pragma once

#include "trunks/environment.hh"
#include "trunks/info.hh"
#include "trunks/kept.hh"
#include "trunks/session.hh"

namespace vmsgr::trunks {

class client {
    environment& _env;
    conf::trunk_peer _peer;
    const bool _learnt;
    const std::chrono::milliseconds _patience;  // for the connect, and again for TLS and hello
    seastar::lowres_clock::time_point _absent_until;
    bool _absent = false;  // run() has ended
    bool _retired = false;
    session_ptr _session;  // may have ended
    trunk::engine_counters _count;
    trunk::refusals _refused;
    link* _link = nullptr;  // of the attempt under way, until it runs the session
    int _connecting = -1;
    std::string _down_reason;  // as logged; empty: it is up, or was never tried

public:
    client(environment& env, conf::trunk_peer p, bool learnt);
    // With the session of another worker; before run().
    void go_on(const kept_session& s);
    // Until the room stops, or a learnt peer is absent.
    seastar::future<> run();
    // Whatever waits for the peer's answer ends.
    void interrupt() noexcept;

    bool learnt() const noexcept { return _learnt; }
    const conf::trunk_peer& peer() const noexcept { return _peer; }
    // The configuration has changed, but not where the peer is: see is_to().
    void change(const conf::trunk_peer& p) { _peer = p; }
    bool is_to(const conf::trunk_peer& p) const noexcept {
        return !_learnt && !_retired && _peer.name == p.name && _peer.connect == p.connect;
    }
    // The configuration has it no more: what it carries goes on, and then it ends.
    void retire() noexcept;
    bool retired() const noexcept { return _retired; }
    bool unused() const noexcept { return !_session || _session->ended() || _session->engine().channels() == 0; }
    // It was absent, and may be asked again.
    bool forgotten() const noexcept { return _absent && (_retired || seastar::lowres_clock::now() >= _absent_until); }
    const session_ptr& session() const noexcept { return _session; }
    bool reaches(const base::address& destination) const noexcept;
    // It was asked, and is not there.
    bool absent() const noexcept { return _absent; }
    void count(trunk::refusal r) noexcept { _refused.count(r); }
    session_info info() const;

private:
    void report_down(std::exception_ptr e);
    seastar::future<> start(link& l, base::unique_fd fd);
    // True: the session ran for a while.
    seastar::future<bool> attempt();
    seastar::future<base::unique_fd> connect();
    seastar::future<bool> converse(link& l, base::unique_fd fd);
    struct agreed {
        trunk_session::turn turn;
        uint64_t peer_ack;
        trunk::crc_cover cover;
    };
    // Nothing: the peer has lost the session.
    seastar::future<std::optional<agreed>> shake_hands(link& l, base::unique_fd fd);
    void begin_session(const trunk::hello& answer, const link& l);
};

}  // namespace vmsgr::trunks
