// One session of a trunk, seen from one side: turns what channels send into packets and packets into what channels
// receive. A state machine without I/O and without a clock: the owner moves packets (a fiber in src/net, a simulation
// in the tests) and says what time it is.
//
// What it promises: each byte that send() took arrives at the other side's channel once and in order, however often
// the connection below is cut, as long as both engines live. What leaves is kept until the peer says that it has it;
// after a new connection the peer tells how far it is, and the rest leaves again.
//
// Who opens: the side that connects (the initiator) opens channels, the other accepts them; traffic goes both ways.
//
// Owner: one session of one shard. All calls there. Sinks are called from within attach(), next_packet(), receive(),
// tick() and end(); they may call the engine back, and none is called for a channel after close() or reset() of it.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <unordered_map>

#include "trunk/packet.hh"

namespace vmsgr::trunk {

// Who sits at the local end of a channel.
class channel_sink {
public:
    // The opener hears one of the two; after on_refused the channel is gone.
    virtual void on_accepted() noexcept = 0;
    virtual void on_refused(int err) noexcept = 0;
    // Never more than was granted, and the bytes are the sink's now.
    virtual void on_data(std::span<const std::byte> bytes) noexcept = 0;
    virtual void on_fin() noexcept = 0;
    // After a send() that did not take all.
    virtual void on_writable() noexcept = 0;
    // The channel is gone.
    virtual void on_reset(int err) noexcept = 0;

protected:
    ~channel_sink() = default;
};

class engine_owner {
public:
    // A channel that the peer opens. Null: refused at once, with ECONNREFUSED unless refuse() was called. Else accept()
    // or refuse() is owed.
    virtual channel_sink* on_open(uint64_t channel, const base::address& source,
                                  const base::address& destination) noexcept = 0;
    // next_packet() has something that it did not have before.
    virtual void on_output() noexcept = 0;

protected:
    ~engine_owner() = default;
};

// Bytes that packets of many engines may take together. No engine keeps more than what is left to the others: n of them
// that fill what they may leave one part in n + 1 to the next, so a peer that is away holds up nobody else.
struct memory_share {
    uint64_t limit = UINT64_MAX;
    uint64_t used = 0;
};

class packet_buffer {
    std::byte* _bytes;
    size_t _size;
    memory_share& _share;  // outlives all packets

public:
    packet_buffer(size_t size, memory_share& share);
    ~packet_buffer();
    packet_buffer(const packet_buffer&) = delete;
    std::span<std::byte> bytes() const noexcept { return {_bytes, _size}; }
    size_t filled = header_bytes;
};
using packet_ptr = std::shared_ptr<packet_buffer>;  // also held by the write that is under way

enum class side : uint8_t { initiator, acceptor };

struct engine_settings {
    side which = side::initiator;
    size_t packet_bytes = packet_bytes_default;
    uint64_t replay_bytes = 8 << 20;  // kept for the peer that has not acknowledged it; at least replay_packets_min
    uint64_t channels_max = 16384;
    uint32_t keepalive_ms = 1000;     // silence after which a dummy leaves; three of them without an answer: dead
};
inline constexpr size_t replay_packets_min = 64;
// Beyond the limit, for frames without which nothing moves: accept, credit, fin, reset.
inline constexpr size_t replay_packets_reserve = 8;
// An acknowledgement is due after so many data packets: for small packets more of them, as it costs a whole one. Less
// than the peer's replay limit lets it keep; a peer short of memory may keep fewer, and waits for a tick.
inline constexpr uint64_t bytes_per_ack = 256 << 10;
inline constexpr size_t packets_per_ack_min = replay_packets_min / 4, packets_per_ack_max = replay_packets_min / 2;
constexpr size_t packets_per_ack(size_t packet_bytes) {
    return std::clamp<size_t>(bytes_per_ack / packet_bytes, packets_per_ack_min, packets_per_ack_max);
}

struct engine_counters {
    uint64_t packets_out = 0, packets_in = 0;  // data packets, each time they leave
    uint64_t bytes_out = 0, bytes_in = 0;      // of channels
    uint64_t replayed = 0;                     // packets that left again on a new connection
    uint64_t duplicates = 0;                   // came again, and were dropped
    uint64_t late_frames = 0;                  // for channels that had ended here
    uint64_t channels_total = 0;
    uint64_t channels_reset = 0;               // by end()
    std::array<uint64_t, fault_kinds> faults{};
};

class engine {
    enum owed : uint8_t { owes_accept = 1, owes_refuse = 2, owes_credit = 4, owes_fin = 8, owes_reset = 16 };
    struct channel {
        channel_sink* sink = nullptr;
        uint64_t sent = 0, may_send = 0;      // bytes ever; may_send is the peer's word
        uint64_t received = 0, granted = 0;   // granted is ours
        int err = 0;                          // with owes_refuse and owes_reset
        uint8_t owes = 0;
        bool queued = false;                  // in _owing
        bool in_starved = false;
        bool up = false;                      // accepted
        bool fin_sent = false, fin_received = false;
        bool starved = false;                 // on_writable is owed
    };

    const engine_settings _settings;
    engine_owner& _owner;
    memory_share& _share;
    engine_counters& _count;
    const size_t _packets_max;
    const size_t _packets_per_ack;
    std::unordered_map<uint64_t, channel> _channels;
    std::deque<uint64_t> _owing;    // channels with frames to be written
    std::deque<uint64_t> _starved;  // channels that wait for room, in their turn
    uint64_t _last_channel = 0;     // opened by either side

    uint64_t _session = 0;
    bool _attached = false;
    std::deque<packet_ptr> _kept;   // data packets not acknowledged, from sequence _acked + 1 on
    size_t _handed_out = 0;         // of _kept, on this connection
    size_t _handed_out_before = 0;  // ... and on an earlier one: they leave again
    packet_ptr _open;               // being filled
    size_t _last_frame_at = 0;      // in _open: a data frame that may grow; 0: none
    uint64_t _last_frame_channel = 0;
    uint64_t _acked = 0;            // by the peer
    uint64_t _received = 0;         // the last data packet that came in order
    unsigned _to_be_acked = 0;
    bool _ack_due = false, _dummy_due = false;
    uint64_t _echo = 0;
    uint64_t _last_out_us = 0, _last_in_us = 0, _rtt_us = 0;

public:
    // share and counters outlive the engine and, share, all its packets.
    engine(const engine_settings& s, engine_owner& owner, memory_share& share, engine_counters& count);
    ~engine();

    // --- the connection below ---
    // A connection stands, and the peer has all data packets up to peer_ack. False: it cannot have; the session is
    // to be given up.
    bool attach(uint64_t session, uint64_t peer_ack, uint64_t now_us) noexcept;
    void detach() noexcept { _attached = false; }
    bool attached() const noexcept { return _attached; }
    uint64_t session() const noexcept { return _session; }
    uint64_t received() const noexcept { return _received; }  // what the hello says

    // The next packet to be written; null: nothing now. Its bytes stay as they are until the next attach().
    packet_ptr next_packet(uint64_t now_us);
    // The last one of a session that this side ends. Not kept; end() follows.
    packet_ptr bye(uint64_t now_us);
    // One packet as it came. A fault was counted; the connection is to be ended, and if session_is_over(fault), so is
    // the session. `bye`: the peer has ended it.
    std::optional<fault> receive(std::span<const std::byte> packet, uint64_t now_us, bool& bye) noexcept;
    static bool session_is_over(fault f) noexcept { return f == fault::frame || f == fault::channel; }
    // A truncated packet, found by who reads.
    void count(fault f) noexcept { ++_count.faults[size_t(f)]; }
    // At least every keepalive_ms. False: the peer has been silent for too long.
    bool tick(uint64_t now_us) noexcept;
    // All channels are gone; each sink hears err.
    void end(int err) noexcept;

    // --- channels ---
    // 0: no room, or too many; nothing was done. Initiator only.
    uint64_t open(const base::address& source, const base::address& destination, uint64_t credit, channel_sink& sink);
    void accept(uint64_t channel, uint64_t credit) noexcept;
    void refuse(uint64_t channel, int err) noexcept;
    // Bytes taken, in order, as far as credit and room allow. Fewer than all: on_writable follows.
    size_t send(uint64_t channel, std::span<const iovec> pieces);
    // The peer may have sent this many bytes since the beginning. Never less than before.
    void grant(uint64_t channel, uint64_t total) noexcept;
    void fin(uint64_t channel) noexcept;
    // The sink leaves. Orderly: what was sent arrives, then the end; what still comes is answered by a reset.
    void close(uint64_t channel) noexcept;
    void reset(uint64_t channel, int err) noexcept;

    // --- for people ---
    size_t channels() const noexcept { return _channels.size(); }
    uint64_t in_flight_bytes() const noexcept { return _kept.size() * _settings.packet_bytes; }
    uint64_t rtt_us() const noexcept { return _rtt_us; }
    const engine_settings& settings() const noexcept { return _settings; }

private:
    channel* find(uint64_t id) noexcept;
    bool room(size_t reserve) const noexcept;
    bool has_space(size_t bytes, size_t reserve) noexcept;
    void put_frame(uint64_t id, frame_kind kind, uint32_t value, std::span<const std::byte> body) noexcept;
    void finish_open() noexcept;
    void owe(uint64_t id, channel& c, uint8_t what) noexcept;
    bool pay(uint64_t id, channel& c) noexcept;
    void pay_all() noexcept;
    void erase_if_done(uint64_t id, channel& c) noexcept;
    packet_ptr control_packet(packet_type type, uint64_t now_us);
    void acknowledged(uint64_t ack) noexcept;
    void wake_starved() noexcept;
    std::optional<fault> judge(const header& h) const noexcept;
    std::optional<fault> take_frames(std::span<const std::byte> payload) noexcept;
    std::optional<fault> take_frame(const frame& f) noexcept;
    std::optional<fault> take_open(const frame& f) noexcept;
    void take_data(uint64_t id, channel& c, std::span<const std::byte> body) noexcept;
    packet_ptr make_buffer() noexcept;
};

}  // namespace vmsgr::trunk
