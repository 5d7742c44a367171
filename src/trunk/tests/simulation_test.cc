// Two engines over a link that cuts anywhere, repeats, corrupts, truncates and delays. Every byte has to come once and
// in order, as urgent data if it was sent as such, and every channel to its end, also where another process goes on
// with an engine at any moment. VMSGR_SEED replays a run.
#include "trunk/tests/ends.hh"

namespace vmsgr::trunk::tests {
namespace {

using random_source = std::mt19937_64;

// One direction of a connection: bytes on their way.
struct pipe_sim {
    std::vector<std::byte> bytes;
    std::vector<std::byte> assembly;
};

class simulation {
    random_source _random;
    engine_settings _sa, _sb;
    bool _connected = false;
    bool _damage = true;
    crc_cover _cover = crc_cover::packet;
    pipe_sim _to_b, _to_a;
    uint64_t _now_us = 1;

public:
    test_end a, b;
    uint64_t cuts = 0, starts = 0;

    explicit simulation(uint64_t seed)
        : _random(seed),
          _sa{.which = side::initiator,
              .packet_bytes = size_t(512) << (seed % 3),
              .replay_bytes = 32 << 10,
              .urgent = seed % 4 != 0},
          _sb{.which = side::acceptor,
              .packet_bytes = _sa.packet_bytes,
              .replay_bytes = 32 << 10,
              .urgent = _sa.urgent},
          a(_sa),
          b(_sb) {
        a.marks = b.marks = _sa.urgent;
    }

    uint64_t below(uint64_t n) { return _random() % n; }
    bool one_in(uint64_t n) { return below(n) == 0; }
    void stop_damage() { _damage = false; }

    void step() {
        _now_us += below(5000);
        if (!_connected) {
            if (one_in(3)) {
                _to_b = _to_a = {};
                _cover = one_in(3) ? crc_cover::header : crc_cover::packet;
                connect(a, b, 1, _now_us, _cover);
                _connected = true;
            }
        } else if (_damage && one_in(100)) {
            cut();
            if (one_in(2)) {
                ++starts;
                (one_in(2) ? a : b).start_anew();
            }
        } else {
            write(a, _to_b);
            write(b, _to_a);
            read(b, _to_b);
            read(a, _to_a);
            if (_connected && (!a.e.tick(_now_us) || !b.e.tick(_now_us))) {
                cut();
            }
        }
        for (auto* end : {&a, &b}) {
            for (auto& [id, s] : end->sinks) {
                act(*end, *s);
            }
        }
    }

private:
    void cut() {
        ++cuts;
        _connected = false;
        a.e.detach();
        b.e.detach();
    }

    void write(test_end& from, pipe_sim& to) {
        const bool damage = _damage && _cover == crc_cover::packet;  // TLS lets none through
        for (int n = int(below(4)); n > 0; --n) {
            auto p = from.e.next_packet(_now_us);
            if (p == nullptr) {
                return;
            }
            auto bytes = p->bytes();
            to.bytes.insert(to.bytes.end(), bytes.begin(), bytes.end());
            if (damage && one_in(300)) {  // a relay that repeats
                to.bytes.insert(to.bytes.end(), bytes.begin(), bytes.end());
            }
            if (damage && one_in(500)) {
                to.bytes[below(to.bytes.size())] ^= std::byte(1 + below(255));
            }
            if (damage && one_in(500)) {  // bytes are lost in the middle
                auto at = to.bytes.begin() + ptrdiff_t(below(to.bytes.size()));
                to.bytes.erase(at, at + ptrdiff_t(below(size_t(to.bytes.end() - at))));
            }
        }
    }

    void read(test_end& at, pipe_sim& from) {
        size_t n = one_in(3) ? 0 : below(from.bytes.size() + 1);  // delays, and splits anywhere
        from.assembly.insert(from.assembly.end(), from.bytes.begin(), from.bytes.begin() + ptrdiff_t(n));
        from.bytes.erase(from.bytes.begin(), from.bytes.begin() + ptrdiff_t(n));
        const size_t size = at.e.settings().packet_bytes;
        while (_connected && from.assembly.size() >= size) {
            std::vector<std::byte> packet(from.assembly.begin(), from.assembly.begin() + ptrdiff_t(size));
            from.assembly.erase(from.assembly.begin(), from.assembly.begin() + ptrdiff_t(size));
            bool bye = false;
            auto why = at.e.receive(packet, _now_us, bye);
            EXPECT_FALSE(bye);
            if (why) {
                EXPECT_FALSE(engine::session_is_over(*why)) << to_text(*why);
                cut();
            }
        }
    }

    void act(test_end& end, test_sink& s) {
        if (s.gone || s.closed || !s.accepted) {
            return;
        }
        if (s.to_send != 0 && one_in(4)) {
            s.to_send -= s.send(1 + below(std::min<uint64_t>(s.to_send, 3000)));
        }
        if (s.granted - s.received < 5000 && one_in(10)) {
            s.grant(below(20000));
        }
        if (s.to_send == 0 && !s.fin_sent) {
            s.fin_sent = true;
            end.e.fin(s.id);
        }
        if (s.fin_sent && s.fin_received && one_in(5)) {
            s.closed = true;
            end.e.close(s.id);
        }
    }
};

// How often another process went on.
uint64_t run(uint64_t seed) {
    SCOPED_TRACE("VMSGR_SEED=" + std::to_string(seed));
    constexpr size_t channels = 12;
    simulation sim(seed);
    std::map<uint64_t, std::pair<uint64_t, uint64_t>> wanted;  // bytes from a, from b
    auto done = [&] { return wanted.size() == channels && sim.a.e.channels() == 0 && sim.b.e.channels() == 0; };
    constexpr int damaged_steps = 20000, steps_max = 400000;
    int step = 0;
    for (; step < steps_max && !done(); ++step) {
        if (step == damaged_steps) {
            sim.stop_damage();
        }
        if (wanted.size() < channels && sim.one_in(50)) {
            if (auto* s = sim.a.open()) {
                auto& w = wanted[s->id] = {sim.below(200000), sim.below(50000)};
                s->to_send = w.first;
                sim.b.to_send[s->id] = w.second;
            }
        }
        sim.step();
    }
    EXPECT_TRUE(done()) << "channels left: " << sim.a.e.channels() << ", " << sim.b.e.channels();
    for (auto& [id, w] : wanted) {
        EXPECT_EQ(sim.b.sinks.at(id)->received, w.first);
        EXPECT_EQ(sim.a.sinks.at(id)->received, w.second);
        EXPECT_FALSE(sim.b.sinks.at(id)->wrong || sim.a.sinks.at(id)->wrong);
        EXPECT_FALSE(sim.b.sinks.at(id)->gone || sim.a.sinks.at(id)->gone);
    }
    EXPECT_GT(sim.cuts, 0u);
    return sim.starts;
}

TEST(simulation, every_byte_arrives_once_and_in_order_over_a_bad_link) {
    const char* given = std::getenv("VMSGR_SEED");
    const uint64_t first = given != nullptr ? strtoull(given, nullptr, 0) : std::random_device()();
    const char* more = std::getenv("VMSGR_RUNS");
    const uint64_t runs = more != nullptr ? strtoull(more, nullptr, 0) : 8;
    uint64_t starts = 0;
    for (uint64_t i = 0; i < runs && !::testing::Test::HasFailure(); ++i) {
        starts += run(first + i);
    }
    EXPECT_GE(starts, runs);
}

// A peer that speaks correct packets of nonsense: the engine answers with faults, and never with more than it has.
TEST(simulation, hostile_frames_harm_only_their_session) {
    const char* given = std::getenv("VMSGR_SEED");
    const uint64_t seed = given != nullptr ? strtoull(given, nullptr, 0) : std::random_device()();
    SCOPED_TRACE("VMSGR_SEED=" + std::to_string(seed));
    random_source random(seed);
    for (int round = 0; round < 3000; ++round) {
        test_end b(
            {.which = round % 2 == 0 ? side::acceptor : side::initiator, .packet_bytes = 512, .urgent = round % 4 < 2});
        b.first_credit = 100;
        ASSERT_TRUE(b.e.attach(1, 0, 1));
        if (b.which == side::initiator) {
            b.open();
            b.open();
        }
        bool over = false, bye = false;
        for (int i = 0; i < 20 && !over; ++i) {
            std::vector<std::byte> p(512);
            size_t filled = header_bytes;
            while (filled + frame_header_bytes + open_body_bytes <= p.size() && random() % 6 != 0) {
                auto kind = frame_kind(1 + random() % 7);
                size_t n = kind == frame_kind::open                                   ? open_body_bytes
                           : kind == frame_kind::accept || kind == frame_kind::credit ? credit_body_bytes
                           : kind == frame_kind::data                                 ? 1 + random() % 64
                                                                                      : 0;
                put_frame_header(p.data() + filled, random() % 4, kind, uint16_t(n), uint32_t(random()));
                p[filled + frame_header_bytes] = std::byte(4);
                p[filled + frame_header_bytes + address_bytes] = std::byte(4);
                filled += frame_header_bytes + n;
            }
            header h;
            h.session = 1;
            h.sequence = b.e.received() + 1;
            h.payload_bytes = uint32_t(filled - header_bytes);
            seal(p, h, crc_cover::packet);
            over = b.e.receive(p, 1, bye).has_value();
            for (auto& [id, s] : b.sinks) {
                if (!s->gone && s->accepted) {
                    s->send(random() % 300);
                }
            }
            while (b.e.next_packet(1)) {
            }
        }
        b.e.end(ECONNRESET);
        for (auto& [id, s] : b.sinks) {
            EXPECT_LE(s->received, s->granted);
        }
        EXPECT_EQ(b.share.used, 0u);
    }
}

}  // namespace
}  // namespace vmsgr::trunk::tests
