// What travels on a trunk: packets of one size, and the small frames of which their payload is a run. This file knows
// where each byte lies and what makes a packet or a frame wrong; engine.hh and mux.hh know what they mean.
// docs/PROTOCOL.md, "The trunk protocol", says the same in words.
//
// Seastar-free, any thread. Little-endian on the wire; nothing is read through a cast. What comes from a peer is
// checked here before anything else looks at it, and a check returns the reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/address.hh"

namespace vmsgr::trunk {

inline constexpr uint32_t packet_magic = 0x4b525456;    // "VTRK"
inline constexpr uint32_t greeting_magic = 0x47525456;  // "VTRG"
inline constexpr uint16_t protocol_version = 1;

inline constexpr size_t header_bytes = 64;
inline constexpr size_t packet_bytes_min = 512;  // also the size of a hello, which comes before a size is agreed
inline constexpr size_t packet_bytes_max = 64 << 10;
inline constexpr size_t packet_bytes_default = 8 << 10;
inline constexpr size_t hello_bytes = packet_bytes_min;
constexpr bool valid_packet_bytes(uint64_t n) {
    return n >= packet_bytes_min && n <= packet_bytes_max && n % header_bytes == 0;
}

enum class packet_type : uint8_t {
    hello = 1,  // first each way; the payload is a hello_body
    data = 2,   // counted by `sequence`; the payload is frames
    dummy = 3,  // keeps the connection alive and asks for an echo
    ack = 4,    // says what has come, and echoes
    bye = 5,    // the sender ends the session: all its channels are reset
};

// Why a packet, or a frame in it, is not taken. Each has its counter.
enum class packet_fault : uint8_t {
    truncated,     // the connection ended inside a packet
    magic,
    version,
    type,          // unknown, or not allowed at this point
    size,          // another packet size than the agreed one
    cookie,        // of another session
    crc,
    length,        // payload_bytes beyond the packet
    sequence,      // a gap: not the next data packet, nor one that has come already
    ack,           // acknowledges what was never sent
    frame,         // of an unknown kind, or cut off by the payload's end
    channel,       // for a channel that was never opened, or opened twice; a lane that the greeting did not name
    credit,        // data beyond what was granted: not delivered, and the channel is reset
    memory,        // there is none for a channel that the peer opens
};
inline constexpr size_t packet_fault_kinds = 14;
std::string_view to_text(packet_fault) noexcept;

struct header {
    packet_type type = packet_type::data;
    uint64_t session = 0;   // cookie of the session
    uint64_t sequence = 0;  // data: 1 for the first of the session; other types: of the last data packet made
    uint64_t ack = 0;       // the last data packet that came, all before it included
    uint64_t stamp = 0;     // dummy: the sender's clock, to be echoed; 0: no echo wanted
    uint64_t echo = 0;      // ack: the stamp of the dummy that it answers
    uint32_t payload_bytes = 0;
};

// What the CRC of a packet covers. The header alone where TLS proves the payload and both hellos have said that
// (feature_header_crc): a property of the connection, not of the session.
enum class crc_cover : uint8_t { packet, header };
// Writes the header and the CRC; payload and zero padding must be there already.
void seal(std::span<std::byte> packet, const header& h, crc_cover) noexcept;
// The reason why these bytes are no packet of this size, or nothing, and `h` is filled. Looks at magic, version, size,
// CRC, type and length, in this order; session, sequence and ack are for the engine to judge.
std::optional<packet_fault> invalid(std::span<const std::byte> packet, header& h, crc_cover) noexcept;
uint32_t crc32c(std::span<const std::byte> bytes) noexcept;

// --- frames ---------------------------------------------------------------------------------------------------

enum class frame_kind : uint8_t {
    open = 1,    // body: source, destination, the opener's first credit
    accept = 2,  // body: credit of the acceptor
    refuse = 3,  // value: an errno
    data = 4,    // body: bytes of the stream; value: what is said of them (data_urgent)
    fin = 5,     // no more data from this side
    reset = 6,   // the channel is gone; value: an errno
    credit = 7,  // body: how many bytes the receiver of this frame may have sent since the beginning
};

inline constexpr size_t frame_header_bytes = 16;
inline constexpr size_t address_bytes = 24;
inline constexpr size_t open_body_bytes = 2 * address_bytes + 8;
inline constexpr size_t credit_body_bytes = 8;
// The last byte of the body was sent as urgent data. Both sides have said that they know that (feature_urgent).
inline constexpr uint32_t data_urgent = 1;

struct frame {
    uint64_t channel = 0;
    uint32_t value = 0;
    frame_kind kind = frame_kind::data;
    std::span<const std::byte> body;
};

void put_frame_header(std::byte* at, uint64_t channel, frame_kind kind, uint16_t length, uint32_t value = 0) noexcept;
// Takes the next frame off `payload`. A fault: nothing more of this packet can be read. Kind and length are checked
// against each other.
std::optional<packet_fault> next_frame(std::span<const std::byte>& payload, frame& out) noexcept;

void put_u64(std::byte* at, uint64_t v) noexcept;
uint64_t get_u64(const std::byte* at) noexcept;
void put_address(std::byte* at, const base::address& a) noexcept;
// Nothing: of no family that we know.
std::optional<base::address> get_address(const std::byte* at) noexcept;

// --- greeting and hello ---------------------------------------------------------------------------------------

// The first bytes of the initiator, before TLS and before anything is agreed: which of its lanes this connection is, so
// that all connections of a lane come to the same shard.
inline constexpr size_t greeting_bytes = 8;
void put_greeting(std::byte* at, uint16_t lane) noexcept;
std::optional<packet_fault> get_greeting(std::span<const std::byte> bytes, uint16_t& lane) noexcept;

inline constexpr size_t name_bytes = 64;  // with the ending NUL

// Whether a hello is accepted, or why not.
enum class hello_verdict : uint32_t {
    welcome = 0,
    unknown_session = 1,  // the session to be continued is not known here (restarted, or given up): begin a new one
    not_allowed = 2,  // no trunk is configured here for this peer
    too_many = 3,  // a limit
    stopping = 4,
};
std::string_view to_text(hello_verdict) noexcept;

// The hello of the initiator, and the acceptor's answer. `session` 0 asks for a new session; the answer names it.
struct hello_body {
    uint64_t node = 0;  // the same for all connections of one daemon, whenever it was started
    uint32_t packet_bytes = 0;  // wanted, and in the answer agreed: the smaller of the two
    hello_verdict answer = hello_verdict::welcome;
    uint32_t outage_ms = 0;  // how long the sender keeps a session without a connection
    uint16_t lane = 0;
    uint32_t features = 0;  // what the sender knows beyond this version; what both know holds
    char name[name_bytes] = {};  // the sender's own, informational
};
inline constexpr uint32_t feature_urgent = 1;  // of the session: its first hellos
inline constexpr uint32_t feature_header_crc = 2;  // of the connection: said on TLS only, the sender's end of it
inline constexpr size_t hello_body_bytes = 32 + name_bytes;

// header.session, header.ack and the body; the packet has hello_bytes.
void make_hello(std::span<std::byte> packet, uint64_t session, uint64_t ack, const hello_body& b) noexcept;
std::optional<packet_fault> read_hello(std::span<const std::byte> packet, header& h, hello_body& b);

}  // namespace vmsgr::trunk
