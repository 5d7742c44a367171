#include "trunk/packet.hh"

#include <isa-l/crc.h>
#include <string.h>

#include <algorithm>
#include <bit>
#include <concepts>

#include "base/text.hh"

namespace vmsgr::trunk {

namespace {

constexpr std::string_view fault_words[packet_fault_kinds] = {
    "truncated",  "bad_magic",    "bad_version", "bad_type",  "bad_size",    "bad_cookie",    "bad_crc",
    "bad_length", "bad_sequence", "bad_ack",     "bad_frame", "bad_channel", "beyond_credit", "no_memory"};

// Where the header's fields lie.
constexpr size_t at_magic = 0, at_version = 4, at_type = 6, at_session = 8, at_sequence = 16, at_ack = 24,
                 at_stamp = 32, at_echo = 40, at_payload_bytes = 48, at_packet_bytes = 52, at_crc = 56;

constexpr uint16_t family_v4 = 4, family_v6 = 6;

template <std::unsigned_integral T>
void put(std::byte* at, T v) noexcept {
    if constexpr (std::endian::native == std::endian::big) {
        v = std::byteswap(v);
    }
    memcpy(at, &v, sizeof v);
}

template <std::unsigned_integral T>
T get(const std::byte* at) noexcept {
    T v;
    memcpy(&v, at, sizeof v);
    if constexpr (std::endian::native == std::endian::big) {
        v = std::byteswap(v);
    }
    return v;
}

uint32_t crc_more(uint32_t crc, std::span<const std::byte> bytes) noexcept {
    auto* p = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(bytes.data()));  // it only reads
    return crc32_iscsi(p, int(bytes.size()), crc);
}

// Over all bytes that it covers, those of the CRC itself taken as zero.
uint32_t packet_crc(std::span<const std::byte> packet, crc_cover cover) noexcept {
    if (cover == crc_cover::header) {
        packet = packet.first(header_bytes);
    }
    constexpr std::byte zero[4]{};
    uint32_t crc = crc_more(~0u, packet.first(at_crc));
    crc = crc_more(crc, zero);
    return ~crc_more(crc, packet.subspan(at_crc + sizeof zero));
}

bool fits(frame_kind kind, size_t length) noexcept {
    switch (kind) {
    case frame_kind::open: return length == open_body_bytes;
    case frame_kind::accept:
    case frame_kind::credit: return length == credit_body_bytes;
    case frame_kind::data: return length != 0;
    case frame_kind::refuse:
    case frame_kind::fin:
    case frame_kind::reset: return length == 0;
    }
    return false;
}

}  // namespace

std::string_view to_text(packet_fault f) noexcept { return fault_words[size_t(f)]; }

std::string_view to_text(hello_verdict v) noexcept {
    switch (v) {
    case hello_verdict::welcome: return "welcome";
    case hello_verdict::unknown_session: return "the session is not known there";
    case hello_verdict::not_allowed: return "no trunk is configured there for this peer";
    case hello_verdict::too_many: return "a limit is met there";
    case hello_verdict::stopping: return "that daemon stops";
    }
    return "refused for a reason that this version does not know";
}

uint32_t crc32c(std::span<const std::byte> bytes) noexcept { return ~crc_more(~0u, bytes); }

void seal(std::span<std::byte> packet, const header& h, crc_cover cover) noexcept {
    auto* p = packet.data();
    memset(p, 0, header_bytes);
    put(p + at_magic, packet_magic);
    put(p + at_version, protocol_version);
    put(p + at_type, uint8_t(h.type));
    put(p + at_session, h.session);
    put(p + at_sequence, h.sequence);
    put(p + at_ack, h.ack);
    put(p + at_stamp, h.stamp);
    put(p + at_echo, h.echo);
    put(p + at_payload_bytes, h.payload_bytes);
    put(p + at_packet_bytes, uint32_t(packet.size()));
    put(p + at_crc, packet_crc(packet, cover));
}

std::optional<packet_fault> invalid(std::span<const std::byte> packet, header& h, crc_cover cover) noexcept {
    if (packet.size() < header_bytes) {
        return packet_fault::truncated;
    }
    auto* p = packet.data();
    if (get<uint32_t>(p + at_magic) != packet_magic) {
        return packet_fault::magic;
    }
    if (get<uint16_t>(p + at_version) != protocol_version) {
        return packet_fault::version;
    }
    if (get<uint32_t>(p + at_packet_bytes) != packet.size()) {
        return packet_fault::size;
    }
    if (get<uint32_t>(p + at_crc) != packet_crc(packet, cover)) {
        return packet_fault::crc;
    }
    auto type = get<uint8_t>(p + at_type);
    if (type < uint8_t(packet_type::hello) || type > uint8_t(packet_type::bye)) {
        return packet_fault::type;
    }
    h = {packet_type(type),
         get<uint64_t>(p + at_session),
         get<uint64_t>(p + at_sequence),
         get<uint64_t>(p + at_ack),
         get<uint64_t>(p + at_stamp),
         get<uint64_t>(p + at_echo),
         get<uint32_t>(p + at_payload_bytes)};
    if (h.payload_bytes > packet.size() - header_bytes) {
        return packet_fault::length;
    }
    return std::nullopt;
}

void put_frame_header(std::byte* at, uint64_t channel, frame_kind kind, uint16_t length, uint32_t value) noexcept {
    put(at, channel);
    put(at + 8, value);
    put(at + 12, length);
    put(at + 14, uint8_t(kind));
    put(at + 15, uint8_t(0));
}

std::optional<packet_fault> next_frame(std::span<const std::byte>& payload, frame& out) noexcept {
    if (payload.size() < frame_header_bytes) {
        return packet_fault::frame;
    }
    auto* p = payload.data();
    size_t length = get<uint16_t>(p + 12);
    out.channel = get<uint64_t>(p);
    out.value = get<uint32_t>(p + 8);
    out.kind = frame_kind(get<uint8_t>(p + 14));
    if (length > payload.size() - frame_header_bytes || !fits(out.kind, length)) {
        return packet_fault::frame;
    }
    out.body = payload.subspan(frame_header_bytes, length);
    payload = payload.subspan(frame_header_bytes + length);
    return std::nullopt;
}

void put_u64(std::byte* at, uint64_t v) noexcept { put(at, v); }
uint64_t get_u64(const std::byte* at) noexcept { return get<uint64_t>(at); }

void put_address(std::byte* at, const base::address& a) noexcept {
    put(at, a.family == AF_INET6 ? family_v6 : a.family == AF_INET ? family_v4 : uint16_t(0));
    put(at + 2, a.port);
    put(at + 4, uint32_t(0));
    memcpy(at + 8, a.ip.data(), a.ip.size());
}

std::optional<base::address> get_address(const std::byte* at) noexcept {
    base::address a;
    auto family = get<uint16_t>(at);
    if (family != family_v4 && family != family_v6) {
        return std::nullopt;
    }
    a.family = family == family_v4 ? AF_INET : AF_INET6;
    a.port = get<uint16_t>(at + 2);
    memcpy(a.ip.data(), at + 8, family == family_v4 ? 4 : a.ip.size());
    return a;
}

void put_greeting(std::byte* at, uint16_t lane) noexcept {
    put(at, greeting_magic);
    put(at + 4, protocol_version);
    put(at + 6, lane);
}

std::optional<packet_fault> get_greeting(std::span<const std::byte> bytes, uint16_t& lane) noexcept {
    if (bytes.size() < greeting_bytes) {
        return packet_fault::truncated;
    }
    if (get<uint32_t>(bytes.data()) != greeting_magic) {
        return packet_fault::magic;
    }
    if (get<uint16_t>(bytes.data() + 4) != protocol_version) {
        return packet_fault::version;
    }
    lane = get<uint16_t>(bytes.data() + 6);
    return std::nullopt;
}

void make_hello(std::span<std::byte> packet, uint64_t session, uint64_t ack, const hello_body& b) noexcept {
    memset(packet.data(), 0, packet.size());
    auto* p = packet.data() + header_bytes;
    put(p, b.node);
    put(p + 8, b.packet_bytes);
    put(p + 12, uint32_t(b.answer));
    put(p + 16, b.outage_ms);
    put(p + 20, b.lane);
    put(p + 24, b.features);
    memcpy(p + 32, b.name, strnlen(b.name, name_bytes - 1));
    header h;
    h.type = packet_type::hello;
    h.session = session;
    h.ack = ack;
    h.payload_bytes = hello_body_bytes;
    seal(packet, h, crc_cover::packet);
}

std::optional<packet_fault> read_hello(std::span<const std::byte> packet, header& h, hello_body& b) {
    if (auto why = invalid(packet, h, crc_cover::packet)) {
        return why;
    }
    if (h.type != packet_type::hello) {
        return packet_fault::type;
    }
    if (h.payload_bytes < hello_body_bytes) {
        return packet_fault::length;
    }
    auto* p = packet.data() + header_bytes;
    b.node = get<uint64_t>(p);
    b.packet_bytes = get<uint32_t>(p + 8);
    b.answer = hello_verdict(get<uint32_t>(p + 12));
    b.outage_ms = get<uint32_t>(p + 16);
    b.lane = get<uint16_t>(p + 20);
    b.features = get<uint32_t>(p + 24);
    memset(b.name, 0, sizeof b.name);
    base::printable(reinterpret_cast<const char*>(p + 32), name_bytes - 1).copy(b.name, name_bytes - 1);
    return valid_packet_bytes(b.packet_bytes) ? std::nullopt : std::optional(packet_fault::size);
}

}  // namespace vmsgr::trunk
