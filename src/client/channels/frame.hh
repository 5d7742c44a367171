// What a message channel puts into its stream: frames of an 8-byte header and a payload, filled up with zeros to a
// multiple of 8. The stream may be a ring that another program writes, so a header is copied once, checked, and only
// the copy is used. docs/PROTOCOL.md has the same for other implementations. Plain values, any thread.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace vmsgr::client {

static_assert(std::endian::native == std::endian::little, "frames are little-endian on the wire");

inline constexpr uint16_t frame_magic = 0x4d56;  // "VM"
inline constexpr uint16_t channel_version = 1;
inline constexpr size_t frame_unit = 8;

enum class frame_kind : uint8_t {
    hello = 1,  // the first frame of each direction, and never again
    data = 2,   // one message
    bye = 3,    // the last frame: no message follows, and none is lost
};

struct frame_header {
    uint32_t bytes = 0;  // of the payload, without the zeros
    uint16_t magic = frame_magic;
    frame_kind kind = frame_kind::data;
    uint8_t flags = 0;  // none is defined: 0
};
static_assert(sizeof(frame_header) == frame_unit);

inline constexpr uint64_t hello_magic = 0x3148435247534d56;  // "VMSGRCH1"

// The payload of a hello. Magic and version keep their places in all versions; a later one may be longer.
struct hello_body {
    uint64_t magic = hello_magic;
    uint16_t version = channel_version;
    uint16_t spare = 0;
    uint32_t max_message_bytes = 0;  // the largest message that this side takes
    uint64_t features = 0;           // none is defined
};
static_assert(sizeof(hello_body) == 24);
inline constexpr size_t hello_bytes_max = 256;

// The smallest ring is 4096 bytes: a hello, a data frame and a bye always fit into half of one.
inline constexpr uint32_t message_bytes_min = 1024;
inline constexpr uint32_t message_bytes_max = 32u << 20;
// In a ring of this capacity: frame and a place for the bye take at most half of it, which is what a reader frees
// before it wakes a writer that waits for room.
constexpr uint32_t message_bytes_in(uint64_t capacity) noexcept { return uint32_t(capacity / 2 - 2 * frame_unit); }

constexpr size_t padded(size_t bytes) noexcept { return (bytes + frame_unit - 1) & ~(frame_unit - 1); }
constexpr size_t frame_bytes(size_t payload) noexcept { return sizeof(frame_header) + padded(payload); }

// One load, so that what is checked is what is used.
inline frame_header load_header(const std::byte* at) noexcept {
    return std::bit_cast<frame_header>(__atomic_load_n(reinterpret_cast<const uint64_t*>(at), __ATOMIC_RELAXED));
}
inline void store_header(std::byte* at, frame_header h) noexcept {
    __atomic_store_n(reinterpret_cast<uint64_t*>(at), std::bit_cast<uint64_t>(h), __ATOMIC_RELAXED);
}

// Why a frame is refused.
enum class frame_fault : uint8_t {
    none,
    not_a_channel,   // the first bytes are no hello: a program that speaks something else
    other_version,
    no_frame,        // no magic, an unknown kind, flags that nobody defined
    too_long,        // longer than this side said that it takes
    out_of_place,    // a second hello, a message before it, a bye with a payload
};

inline frame_fault check_frame(const frame_header& h, bool greeted, uint32_t max_message_bytes) noexcept {
    if (h.magic != frame_magic || h.flags != 0) {
        return greeted ? frame_fault::no_frame : frame_fault::not_a_channel;
    }
    switch (h.kind) {
    case frame_kind::data:
        return !greeted                      ? frame_fault::out_of_place
               : h.bytes > max_message_bytes ? frame_fault::too_long
                                             : frame_fault::none;
    case frame_kind::bye: return greeted && h.bytes == 0 ? frame_fault::none : frame_fault::out_of_place;
    case frame_kind::hello:
        if (greeted) {
            return frame_fault::out_of_place;
        }
        return h.bytes >= sizeof(hello_body) && h.bytes <= hello_bytes_max ? frame_fault::none
                                                                           : frame_fault::not_a_channel;
    }
    return greeted ? frame_fault::no_frame : frame_fault::not_a_channel;
}

inline frame_fault check_hello(const hello_body& b) noexcept {
    if (b.magic != hello_magic) {
        return frame_fault::not_a_channel;
    }
    if (b.version != channel_version) {
        return frame_fault::other_version;
    }
    return b.max_message_bytes >= message_bytes_min ? frame_fault::none : frame_fault::no_frame;
}

}  // namespace vmsgr::client
