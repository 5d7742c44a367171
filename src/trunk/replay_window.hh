// The data packets of a session that the peer may still lack. Frames are written into the last one; packets leave in
// order, stay until the peer has them, and leave again on a new connection. It knows nothing of channels or time.
//
// Owner: one engine; all calls on its shard.
#pragma once

#include <algorithm>
#include <deque>
#include <memory>

#include "base/record.hh"
#include "trunk/packet.hh"

namespace vmsgr::trunk {

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

inline constexpr size_t replay_packets_min = 64;
// Beyond the limit, for frames without which nothing moves: accept, credit, fin, reset.
inline constexpr size_t replay_packets_reserve = 8;

class replay_window {
    const size_t _packet_bytes;
    const size_t _packets_max;
    memory_share& _share;
    std::deque<packet_ptr> _packets;  // those that are kept, from sequence _acked + 1 on, and _filling
    size_t _handed_out = 0;  // of those that are kept, on this connection
    size_t _handed_out_before = 0;  // ... and on an earlier one: they leave again
    packet_buffer* _filling =
        nullptr;  // frames are written into it; the last of _packets, so that to keep it needs no memory
    size_t _last_data_at = 0;  // in _filling: a data frame that may grow; 0: none
    uint64_t _last_data_channel = 0;
    uint64_t _acked = 0;  // by the peer

public:
    replay_window(size_t packet_bytes, uint64_t replay_bytes, memory_share& share) noexcept
        : _packet_bytes(packet_bytes),
          _packets_max(std::max<size_t>(replay_bytes / packet_bytes, replay_packets_min)),
          _share(share) {}

    // --- frames in ---
    // One packet more may be kept. reserve: packets beyond the limit.
    bool has_room(size_t reserve) const noexcept;
    // Makes room for a frame of so many bytes. False: the limit is met, or there is no memory.
    bool make_space(size_t bytes, size_t reserve) noexcept;
    // After make_space(frame_header_bytes + body.size()).
    void put_frame(uint64_t channel, frame_kind kind, uint32_t value, std::span<const std::byte> body) noexcept;
    // Bytes of a channel, as far as there is room; how many were taken. urgent: the last of them is.
    size_t put_data(uint64_t channel, std::span<const std::byte> bytes, bool urgent = false) noexcept;

    // --- packets out ---
    bool all_left() const noexcept { return _handed_out == kept(); }
    // The packet that is being filled, if there is a frame in it, is the next to leave.
    void finish_filling() noexcept;
    // Null: all have left. Their headers are the caller's to write, and stay as they are until reconnected().
    packet_ptr next() noexcept { return all_left() ? nullptr : _packets[_handed_out++]; }
    // The last that left on this connection, or that the peer has.
    uint64_t last_sequence() const noexcept { return _acked + _handed_out; }
    bool last_left_before() const noexcept { return _handed_out <= _handed_out_before; }

    // --- the peer's word ---
    // A new connection, and the peer has all up to `ack`. False: it cannot have.
    bool reconnected(uint64_t ack) noexcept;
    bool may_acknowledge(uint64_t ack) const noexcept { return ack <= last_sequence(); }
    // True: packets were freed.
    bool acknowledged(uint64_t ack) noexcept;

    uint64_t bytes() const noexcept { return kept() * _packet_bytes; }
    void clear() noexcept;

    // For another process, which goes on with it as after a cut; load() is for a new window of this packet size. False:
    // the record is none. Throws std::bad_alloc.
    void save(base::record_writer& to);
    bool load(base::record_reader& from);

private:
    size_t kept() const noexcept { return _packets.size() - (_filling != nullptr ? 1 : 0); }
    bool begin_packet() noexcept;
    void keep_filled() noexcept;
};

}  // namespace vmsgr::trunk
