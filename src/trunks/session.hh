// A session of a trunk on its shard: the engine, and the fibers that carry its packets over one connection at a time.
// Sessions outlive connections: client.cc and acceptor.cc make connections and bring them here.
//
// Owner: lw_shared_ptr of the shard's directory or client, of the far sides of its channels, and of each connection's
// turn.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <seastar/core/future.hh>
#include <seastar/core/semaphore.hh>
#include <seastar/core/shared_ptr.hh>

#include "ssx/wake_point.hh"
#include "trunk/engine.hh"
#include "trunks/link.hh"
#include "trunks/shares.hh"

namespace vmsgr::trunks {

uint64_t clock_us() noexcept;

class trunk_far;

class trunk_session final : trunk::engine_owner, public seastar::enable_lw_shared_from_this<trunk_session> {
public:
    // A channel that the peer opens; see trunk::engine_owner::on_open.
    using opener =
        std::function<trunk::channel_sink*(trunk_session&, uint64_t, const base::address&, const base::address&)>;

private:
    const uint64_t _cookie;
    const uint64_t _outage_us;
    const opener _open;
    trunk::engine _engine;
    seastar::semaphore _turns{1};  // of connections; see turn
    link* _link = nullptr;  // whose turn it is
    ssx::wake_point _output;
    std::vector<std::byte> _part;  // of a packet that is not whole yet
    trunk_far* _in_batch = nullptr;  // those that got bytes of the present read
    uint64_t _down_since_us;
    bool _broken = false;  // _link is to leave
    bool _ended = false;
    bool _says_bye = false;
    bool _frozen = false;  // another worker goes on with it

public:
    // Whose session it is.
    struct identity {
        std::string peer;  // for logs and status
        peer_proof proof;  // of the connection that began it; later ones have the same identity
        uint64_t node = 0;
        uint16_t lane = 0;
        peer_share share{};  // none: the peer opens nothing here
    };
    const identity who;

    // A connection's turn: one at a time runs the session, from before its hello until it has left, so what the two
    // hellos say stays true until the engine is attached.
    class turn {
        seastar::lw_shared_ptr<trunk_session> _session;
        seastar::semaphore_units<> _units;

    public:
        turn(seastar::lw_shared_ptr<trunk_session> s, seastar::semaphore_units<> units) noexcept;
        turn(turn&&) noexcept = default;
        turn& operator=(turn&& o) noexcept {
            std::swap(_session, o._session);
            std::swap(_units, o._units);
            return *this;
        }
        ~turn();
    };

    trunk_session(uint64_t cookie, identity who_, uint32_t outage_ms, const trunk::engine_settings& s,
                  trunk::memory_share& share, trunk::engine_counters& count, opener on_open);

    trunk::engine& engine() noexcept { return _engine; }
    uint64_t cookie() const noexcept { return _cookie; }
    // May open channels: a connection stands.
    bool up() const noexcept { return !_ended && !_says_bye && _engine.attached(); }
    uint32_t outage_ms() const noexcept { return uint32_t(_outage_us / 1000); }
    bool ended() const noexcept { return _ended; }
    bool linked() const noexcept { return _link != nullptr; }
    // For the hello that asks for it, or goes on with it.
    trunk::known_session known() const noexcept;

    // Ends the connection whose turn it is and waits until it has left. None: the session has ended, or a still newer
    // connection waits. `l` outlives the turn, and is the caller's to close.
    seastar::future<std::optional<turn>> take_turn(link& l);
    // Moves packets over the turn's connection until it breaks or the session ends. peer_ack: from the peer's hello.
    seastar::future<> run_on(turn t, uint64_t peer_ack, trunk::crc_cover cover);
    // The connection ends, the session does not.
    void break_link() noexcept;
    // All channels hear err; the connection ends.
    void end(int err) noexcept;
    // Looks at the clock: keepalives, silence, and an outage that lasts too long.
    void tick(uint64_t now_us) noexcept;
    // A far side that got bytes: it hears on_end_of_batch() after what was read at once, unless it ends before.
    void remember(trunk_far& w) noexcept;
    void forget(trunk_far& w) noexcept;

    // The connection ends, and nothing moves or ends here any more: see trunk::engine.
    void freeze() noexcept;

    // No new channels; what was sent leaves, up to the limit, then the session ends with a bye.
    seastar::future<> finish(std::chrono::milliseconds limit);

private:
    trunk::channel_sink* on_open(uint64_t id, const base::address& source,
                                 const base::address& destination) noexcept override;
    void on_output() noexcept override { _output.wake(); }
    seastar::future<> read_loop(link& l);
    seastar::future<> write_loop(link& l);
    bool feed(std::span<const std::byte> bytes);
    void end_of_data() noexcept;
    bool take(std::span<const std::byte> packet);
};

using session_ptr = seastar::lw_shared_ptr<trunk_session>;

}  // namespace vmsgr::trunks
