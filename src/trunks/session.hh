// A session of a trunk on its shard: the engine, and the fibers that carry its packets over one connection at a time.
// Sessions outlive connections; trunks.cc makes both and brings them together.
//
// Owner: lw_shared_ptr of the shard's trunks, of the far sides of its channels, and of carry() while it runs.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <seastar/core/future.hh>
#include <seastar/core/shared_ptr.hh>

#include "trunks/link.hh"
#include "ssx/wake_point.hh"
#include "trunk/engine.hh"

namespace vmsgr::net {

uint64_t clock_us() noexcept;

class trunk_far;

class trunk_session final : trunk::engine_owner, public seastar::enable_lw_shared_from_this<trunk_session> {
public:
    // A channel that the peer opens; see trunk::engine_owner::on_open.
    using opener = std::function<trunk::channel_sink*(trunk_session&, uint64_t, const base::address&,
                                                      const base::address&)>;

private:
    const uint64_t _cookie;
    const uint64_t _outage_us;
    const opener _open;
    trunk::engine _engine;
    trunk_link* _link = nullptr;
    ssx::wake_point _output;
    std::vector<std::byte> _part;  // of a packet that is not whole yet
    trunk_far* _in_batch = nullptr;  // those that got bytes of the present read
    uint64_t _down_since_us;
    bool _broken = false;
    bool _ended = false;
    bool _says_bye = false;

public:
    uint64_t hello_ack = 0;  // what the peer's last hello said that it has
    const std::string peer;
    const uint64_t node;
    const uint16_t lane;

    trunk_session(uint64_t cookie, std::string peer_name, uint64_t peer_node, uint16_t lane_, uint32_t outage_ms,
                  const trunk::engine_settings& s, trunk::memory_share& share, trunk::engine_counters& count,
                  opener on_open);

    trunk::engine& engine() noexcept { return _engine; }
    uint64_t cookie() const noexcept { return _cookie; }
    // May open channels: a connection stands.
    bool up() const noexcept { return !_ended && !_says_bye && _engine.attached(); }
    bool ended() const noexcept { return _ended; }
    bool linked() const noexcept { return _link != nullptr; }

    // Until the connection breaks or the session ends. `link` is the caller's to close.
    seastar::future<> carry(trunk_link& link, uint64_t peer_ack);
    // Ends the connection, if there is one, and waits for carry() to leave it.
    seastar::future<> drop_link();
    // All channels hear err; the connection ends.
    void end(int err) noexcept;
    // Looks at the clock: keepalives, silence, and an outage that lasts too long.
    void tick(uint64_t now_us) noexcept;
    // A far side that got bytes: it hears on_end_of_batch() after what was read at once, unless it ends before.
    void remember(trunk_far& w) noexcept;
    void forget(trunk_far& w) noexcept;

    // No new channels; what was sent leaves, up to the limit, then the session ends with a bye.
    seastar::future<> finish(std::chrono::milliseconds limit);

private:
    trunk::channel_sink* on_open(uint64_t id, const base::address& source,
                                 const base::address& destination) noexcept override;
    void on_output() noexcept override { _output.wake(); }
    void break_link() noexcept;
    seastar::future<> read_loop(trunk_link& link);
    seastar::future<> write_loop(trunk_link& link);
    bool feed(std::span<const std::byte> bytes);
    void end_of_data() noexcept;
    bool take(std::span<const std::byte> packet);
};

using session_ptr = seastar::lw_shared_ptr<trunk_session>;

}  // namespace vmsgr::net
