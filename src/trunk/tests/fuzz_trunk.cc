// A peer of a trunk that speaks correct packets of nonsense, and packets that are none. The engine answers with faults,
// keeps its word to the local ends of channels, and frees everything.
#include <errno.h>

#include <map>
#include <memory>
#include <vector>

#include "base/tests/fuzz_input.hh"
#include "trunk/engine.hh"

namespace {

using namespace vmsgr;
using namespace vmsgr::trunk;
using fuzz::must;

constexpr uint64_t session = 9;
constexpr size_t packet_bytes = 512;

// What engine.hh and mux.hh promise to the local end of a channel.
struct checked_sink final : channel_sink {
    bool opener = false;
    bool up = false, fin = false, left = false;
    bool knows_urgent = false;
    uint64_t granted = 0, received = 0;

    void must_be_here() const { must(!left, "a call for a channel that its sink has left, or that is gone"); }
    void must_be_up() const {
        must_be_here();
        must(up, "something came before the channel was accepted");
    }
    void on_accepted() noexcept override {
        must_be_here();
        must(opener && !up, "accepted twice, or by nobody");
        up = true;
    }
    void on_refused(int) noexcept override {
        must_be_here();
        must(opener && !up, "refused after it was accepted");
        left = true;
    }
    void on_data(std::span<const std::byte> bytes, bool urgent) noexcept override {
        must_be_up();
        must(!bytes.empty(), "data without a byte");
        must(!urgent || knows_urgent, "an urgent byte in a session that has no such thing");
        received += bytes.size();
        must(!fin, "bytes behind the end of file");
        must(received <= granted, "more bytes than were granted");
    }
    void on_fin() noexcept override {
        must_be_up();
        must(!fin, "two ends of file");
        fin = true;
    }
    void on_writable() noexcept override { must_be_here(); }
    void on_reset(int) noexcept override {
        must_be_here();
        left = true;
    }
};

struct owner final : engine_owner {
    fuzz::input& in;
    memory_share share;
    engine_counters count;
    engine e;
    std::map<uint64_t, std::unique_ptr<checked_sink>> sinks;
    uint64_t now_us = 1;
    const crc_cover cover;

    owner(fuzz::input& i, side which)
        : in(i),
          e({.which = which,
             .packet_bytes = packet_bytes,
             .replay_bytes = 8 << 10,
             .channels_max = 6,
             .urgent = i.one_in(2)},
            *this, share, count),
          cover(i.one_in(2) ? crc_cover::header : crc_cover::packet) {}
    checked_sink* on_open(uint64_t channel, const base::address&, const base::address& to) noexcept override {
        must(to.names_one_host(), "an open to an address that names no one host");
        must(!sinks.contains(channel), "a channel is opened twice");
        const size_t how = in.below(5);
        if (how == 0) {
            return nullptr;
        }
        auto& s = sinks[channel] = make_sink();
        if (how == 1) {
            s->left = true;
            e.refuse(channel, EACCES);
        } else if (how == 2) {
            accept(channel, *s);
        }
        return s.get();
    }
    void on_output() noexcept override {}

    std::unique_ptr<checked_sink> make_sink() const {
        auto s = std::make_unique<checked_sink>();
        s->knows_urgent = e.settings().urgent;
        return s;
    }
    void accept(uint64_t channel, checked_sink& s) {
        s.up = true;
        s.granted = in.below(2000);
        e.accept(channel, s.granted);
    }
    void open() {
        auto s = make_sink();
        s->opener = true;
        s->granted = in.below(2000);
        const auto a = *base::parse_address("10.0.0.1:4000");
        if (const uint64_t id = e.open(a, a, s->granted, *s)) {
            sinks[id] = std::move(s);
        }
    }
};

// One step of a channel's local end, or of the connection below. False: the session is to be given up.
bool act(fuzz::input& in, owner& o) {
    const uint64_t id = 1 + in.below(8);
    const auto at = o.sinks.find(id);
    checked_sink* s = at != o.sinks.end() && !at->second->left ? at->second.get() : nullptr;
    switch (in.below(8)) {
    case 0:
        if (o.e.settings().which == side::initiator) {
            o.open();
        }
        break;
    case 1:
        if (s != nullptr && !s->opener && !s->up) {
            o.accept(id, *s);
        }
        break;
    case 2:
        if (s != nullptr && s->up) {
            s->granted += in.below(3000);
            o.e.grant(id, s->granted);
        }
        break;
    case 3: {
        std::byte bytes[700]{};
        const iovec two[] = {{bytes, in.below(300)}, {bytes, in.below(400)}};
        must(o.e.send(id, two, in.one_in(3)) <= two[0].iov_len + two[1].iov_len, "more was sent than there is");
        break;
    }
    case 4: o.e.fin(id); break;
    case 5:
        if (s != nullptr) {
            s->left = true;
            in.one_in(2) ? o.e.close(id) : o.e.reset(id, ECONNRESET);
        }
        break;
    case 6: o.now_us += in.below(400) * 10000; break;
    default: o.e.detach(); return o.e.attach(session, in.below(4), o.now_us, o.cover);
    }
    return true;
}

// A packet with frames of the input's choice, of which most are of the right form.
size_t put_frames(fuzz::input& in, std::span<std::byte> payload) {
    size_t at = 0;
    while (!in.empty() && at + frame_header_bytes + open_body_bytes <= payload.size() && !in.one_in(6)) {
        const auto kind = in.one_in(16) ? frame_kind(in.byte()) : frame_kind(1 + in.below(7));
        size_t length = 0;
        switch (kind) {
        case frame_kind::open: length = open_body_bytes; break;
        case frame_kind::accept:
        case frame_kind::credit: length = credit_body_bytes; break;
        case frame_kind::data: length = in.below(open_body_bytes + 1); break;
        default: break;
        }
        if (in.one_in(32)) {
            length = in.take<uint16_t>();
        }
        put_frame_header(&payload[at], in.one_in(16) ? in.number() : in.below(8), kind, uint16_t(length), in.byte());
        at += frame_header_bytes;
        std::byte* body = &payload[at];
        if (kind == frame_kind::open) {
            put_address(body, *base::parse_address("10.1.2.3:5"));
            put_address(body + address_bytes, *base::parse_address(in.one_in(4) ? "[::ffff:0.0.0.0]:7" : "10.0.0.9:7"));
            body[in.below(2 * address_bytes)] ^= in.one_in(4) ? std::byte(in.byte()) : std::byte{};
            put_u64(body + 2 * address_bytes, in.number());
        } else if (length == credit_body_bytes) {
            put_u64(body, in.number());
        }
        at = std::min(at + length, payload.size());
    }
    return at;
}

// False: the session is over.
bool receive(fuzz::input& in, owner& o) {
    std::vector<std::byte> packet(in.one_in(32) ? in.below(2 * packet_bytes) : packet_bytes);
    bool bye = false;
    if (in.one_in(16) || packet.size() < header_bytes) {
        const auto raw = in.next(packet.size());
        std::ranges::copy(raw, packet.begin());
    } else {
        header h;
        h.type = in.one_in(8) ? packet_type(in.below(7)) : packet_type::data;
        h.session = in.one_in(32) ? in.number() : session;
        h.sequence = o.e.received() + (in.one_in(8) ? in.below(4) - 1 : h.type == packet_type::data ? 1 : 0);
        h.ack = in.one_in(8) ? in.number() : 0;
        h.stamp = in.byte();
        h.echo = in.one_in(8) ? in.number() : 0;
        const size_t bytes = put_frames(in, std::span(packet).subspan(header_bytes));
        h.payload_bytes = in.one_in(32) ? in.take<uint32_t>() : uint32_t(bytes);
        seal(packet, h, o.cover);
    }
    const auto why = o.e.receive(packet, o.now_us, bye);
    return !bye && !(why && engine::session_is_over(*why));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    fuzz::input in(data, size);
    owner o(in, in.one_in(2) ? side::acceptor : side::initiator);
    must(o.e.attach(session, 0, 1, o.cover), "a new session does not begin");
    for (bool goes_on = true; goes_on && !in.empty();) {
        switch (in.below(4)) {
        case 0: goes_on = receive(in, o); break;
        case 1: (void)o.e.next_packet(o.now_us); break;
        case 2: goes_on = o.e.tick(o.now_us); break;
        default: goes_on = act(in, o);
        }
    }
    o.e.end(ECONNRESET);
    must(o.e.channels() == 0 && o.share.used == 0, "something is left of a session that has ended");
    for (const auto& [id, s] : o.sinks) {
        must(s->left, "an end of the session of which a channel does not hear");
    }
    return 0;
}
