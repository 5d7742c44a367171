// One session of a trunk, seen from one side: turns what channels send into packets and packets into what channels
// receive. A state machine without I/O and without a clock: the owner moves packets (a fiber in src/trunks, a
// simulation in the tests) and says what time it is.
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

#include "base/histogram.hh"
#include "trunk/mux.hh"

namespace vmsgr::trunk {

// An acknowledgement is due after so many data packets: for small packets more of them, as it costs a whole one. Less
// than the peer's replay limit lets it keep; a peer short of memory may keep fewer, and waits for a tick.
inline constexpr uint64_t bytes_per_ack = 256 << 10;
inline constexpr size_t packets_per_ack_min = replay_packets_min / 4, packets_per_ack_max = replay_packets_min / 2;
constexpr size_t packets_per_ack(size_t packet_bytes) {
    return std::clamp<size_t>(bytes_per_ack / packet_bytes, packets_per_ack_min, packets_per_ack_max);
}

class engine {
    const engine_settings _settings;
    engine_owner& _owner;
    memory_share& _share;
    engine_counters& _count;
    const size_t _packets_per_ack;
    replay_window _out;
    mux _mux;

    uint64_t _session = 0;
    bool _attached = false;
    crc_cover _crc_cover = crc_cover::packet;  // on the connection of now
    uint64_t _received = 0;         // the last data packet that came in order
    unsigned _to_be_acked = 0;
    bool _ack_due = false, _dummy_due = false;
    uint64_t _echo = 0;
    uint64_t _last_out_us = 0, _last_in_us = 0, _rtt_us = 0;
    base::histogram _round_trips;

public:
    // share and counters outlive the engine and, share, all its packets.
    engine(const engine_settings& s, engine_owner& owner, memory_share& share, engine_counters& count);

    // --- the connection below ---
    // A connection is up, and the peer has all data packets up to peer_ack. False: it cannot have; the session is
    // to be given up.
    bool attach(uint64_t session, uint64_t peer_ack, uint64_t now_us, crc_cover = crc_cover::packet) noexcept;
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
    std::optional<packet_fault> receive(std::span<const std::byte> packet, uint64_t now_us, bool& bye) noexcept;
    static bool session_is_over(packet_fault f) noexcept {
        return f == packet_fault::frame || f == packet_fault::channel || f == packet_fault::memory;
    }
    // A truncated packet, found by who reads.
    void count(packet_fault f) noexcept { _count.count(f); }
    // At least every keepalive_ms. False: the peer has been silent for too long.
    bool tick(uint64_t now_us) noexcept;
    // All channels are gone; each sink hears err.
    void end(int err) noexcept;

    // --- from one process to the next ---
    // It moves nothing any more; channels still end.
    void freeze() noexcept {
        _attached = false;
        _mux.may_send(false);
    }
    // What channels are asked from here on is ignored.
    void save(base::record_writer& to);
    // Into a new engine of the same settings, before anything else. It takes no bytes until go_on(), so that until then
    // yet another process may load the same record. False: the record is none, and the engine is of no use. Both throw
    // std::bad_alloc.
    bool load(base::record_reader& from);
    // Whose channel it was goes on with it. Nothing: it is gone.
    std::optional<channel_state> claim(uint64_t channel, channel_sink& sink) noexcept {
        return _mux.claim(channel, sink);
    }
    // As after a cut; the record is not true any more. Channels that nobody has claimed are reset, or refused: so many.
    size_t go_on() noexcept {
        _mux.may_send(true);
        return _mux.end_unclaimed();
    }

    // --- channels ---
    // 0: no room, or too many; nothing was done. Initiator only.
    uint64_t open(const base::address& source, const base::address& destination, uint64_t credit, channel_sink& sink) {
        return _attached ? _mux.open(source, destination, credit, sink) : 0;
    }
    void accept(uint64_t channel, uint64_t credit) noexcept { _mux.accept(channel, credit); }
    void refuse(uint64_t channel, int err) noexcept { _mux.refuse(channel, err); }
    // Bytes taken, in order, as far as credit and room allow. Fewer than all: on_writable follows. urgent: the last of
    // the last piece is; it counts where all are taken and the session knows such a thing.
    size_t send(uint64_t channel, std::span<const iovec> pieces, bool urgent = false) {
        return _mux.send(channel, pieces, urgent);
    }
    // The peer may have sent this many bytes since the beginning. Never less than before.
    void grant(uint64_t channel, uint64_t total) noexcept { _mux.grant(channel, total); }
    void fin(uint64_t channel) noexcept { _mux.fin(channel); }
    // The sink leaves. Orderly: what was sent arrives, then the end; what still comes is answered by a reset.
    void close(uint64_t channel) noexcept { _mux.close(channel); }
    void reset(uint64_t channel, int err) noexcept { _mux.reset(channel, err); }

    // --- informational ---
    size_t channels() const noexcept { return _mux.channels(); }
    uint64_t in_flight_bytes() const noexcept { return _out.bytes(); }
    uint64_t rtt_us() const noexcept { return _rtt_us; }
    const base::histogram& round_trips() const noexcept { return _round_trips; }
    const engine_settings& settings() const noexcept { return _settings; }

private:
    packet_ptr data_packet(packet_ptr p) noexcept;
    packet_ptr control_packet(packet_type type, uint64_t now_us);
    void ack_leaves() noexcept;
    std::optional<packet_fault> out_of_order(const header& h) const noexcept;
    void take_ack(uint64_t ack) noexcept;
    std::optional<packet_fault> take_data(const header& h, std::span<const std::byte> payload) noexcept;
};

}  // namespace vmsgr::trunk
