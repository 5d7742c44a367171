// Two engines and what hangs on them, for the tests of this folder: sinks that check every byte they get, and an owner
// that accepts.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <random>
#include <vector>

#include "trunk/engine.hh"

namespace vmsgr::trunk::tests {

// The byte at an offset of a channel's direction: a reader knows what must come.
inline std::byte pattern(uint64_t channel, side from, uint64_t offset) {
    return std::byte((offset * 7 + offset / 251 + channel * 13 + (from == side::initiator ? 5 : 99)) & 0xff);
}

// These bytes are sent as urgent ones, where test_end::marks says so.
inline bool is_urgent(uint64_t channel, uint64_t offset) { return (offset * 31 + channel) % 257 == 0; }

struct test_end;

struct test_sink final : channel_sink {
    test_end& end;
    uint64_t id = 0;
    uint64_t received = 0, granted = 0, sent = 0, to_send = 0;
    bool accepted = false, fin_received = false, fin_sent = false, closed = false, wrong = false, gone = false;
    int refused = 0, reset = 0;
    unsigned writable = 0;
    explicit test_sink(test_end& e) : end(e) {}
    void on_accepted() noexcept override { accepted = true; }
    void on_refused(int err) noexcept override {
        refused = err;
        gone = true;
    }
    void on_data(std::span<const std::byte> bytes, bool urgent) noexcept override;
    void on_fin() noexcept override { fin_received = true; }
    void on_writable() noexcept override { ++writable; }
    void on_reset(int err) noexcept override {
        reset = err;
        gone = true;
    }
    // Sends up to n more bytes of the pattern; how many went. No further than an urgent one, if there are such.
    size_t send(size_t n);
    void grant(uint64_t more);
    bool complete() const { return received != 0 || fin_received; }
};

struct test_end final : engine_owner {
    const side which;
    memory_share share;
    memory_share& memory;
    engine_counters count;
    engine e;
    std::map<uint64_t, std::unique_ptr<test_sink>> sinks;
    int refuse_with = 0;
    bool accept_at_once = true;
    uint64_t first_credit = 10000;
    base::address seen_source, seen_destination;
    std::map<uint64_t, uint64_t> to_send;  // by accepted channel
    bool output = false;
    bool marks = false;

    // with: shared with other ends, and outlives this.
    explicit test_end(engine_settings s, memory_share* with = nullptr)
        : which(s.which), memory(with != nullptr ? *with : share), e(s, *this, memory, count) {}
    channel_sink* on_open(uint64_t channel, const base::address& source,
                          const base::address& destination) noexcept override {
        seen_source = source;
        seen_destination = destination;
        if (refuse_with == ECONNREFUSED) {
            return nullptr;
        }
        auto& s = sinks[channel] = std::make_unique<test_sink>(*this);
        s->id = channel;
        s->to_send = to_send[channel];
        if (refuse_with != 0) {
            s->gone = true;
            e.refuse(channel, refuse_with);
        } else if (accept_at_once) {
            s->accepted = true;
            s->granted = first_credit;
            e.accept(channel, first_credit);
        }
        return s.get();
    }
    void on_output() noexcept override { output = true; }
    // Another process goes on with everything.
    void start_anew() {
        const engine_settings settings = e.settings();
        base::record_writer to;
        e.freeze();
        for (auto& [id, s] : sinks) {
            EXPECT_EQ(s->send(1), 0u);
        }
        e.save(to);
        for (auto& [id, s] : sinks) {
            e.fin(id);
            e.reset(id, EIO);
        }
        std::destroy_at(&e);
        std::construct_at(&e, settings, *this, memory, count);
        base::record_reader from(to.bytes());
        EXPECT_TRUE(e.load(from));
        for (auto& [id, s] : sinks) {
            if (s->gone || s->closed) {
                continue;
            }
            const auto now = e.claim(id, *s);
            EXPECT_TRUE(now && now->received == s->received && now->granted == s->granted &&
                        now->fin_received == s->fin_received && now->fin_sent == s->fin_sent)
                << "channel " << id;
        }
        for (auto& [id, s] : sinks) {
            EXPECT_EQ(s->send(1), 0u);
        }
        e.go_on();
    }
    test_sink* open() {
        auto s = std::make_unique<test_sink>(*this);
        s->granted = first_credit;
        s->id = e.open(*base::parse_address("10.0.0.1:4000"), *base::parse_address("10.0.0.2:80"), first_credit, *s);
        if (s->id == 0) {
            return nullptr;
        }
        auto* at = s.get();
        sinks[s->id] = std::move(s);
        return at;
    }
};

inline void test_sink::on_data(std::span<const std::byte> bytes, bool urgent) noexcept {
    side from = end.which == side::initiator ? side::acceptor : side::initiator;
    for (size_t i = 0; i < bytes.size(); ++i) {
        const bool marked = urgent && i + 1 == bytes.size();
        wrong = wrong || bytes[i] != pattern(id, from, received) || marked != (end.marks && is_urgent(id, received));
        ++received;
    }
    wrong = wrong || received > granted || fin_received || closed;
}

inline size_t test_sink::send(size_t n) {
    std::vector<std::byte> bytes;
    bool urgent = false;
    for (size_t i = 0; i < n && !urgent; ++i) {
        bytes.push_back(pattern(id, end.which, sent + i));
        urgent = end.marks && is_urgent(id, sent + i);
    }
    const size_t third = bytes.size() / 3;
    iovec two[] = {{bytes.data(), third}, {bytes.data() + third, bytes.size() - third}};
    size_t taken = end.e.send(id, two, urgent);
    sent += taken;
    return taken;
}

inline void test_sink::grant(uint64_t more) {
    granted += more;
    end.e.grant(id, granted);
}

// Everything that each side has to say goes across until both are quiet. The first fault ends it.
inline std::optional<packet_fault> exchange(test_end& a, test_end& b, uint64_t now_us = 1000) {
    bool bye = false;
    for (bool moved = true; moved;) {
        moved = false;
        for (auto [from, to] : {std::pair(&a, &b), std::pair(&b, &a)}) {
            while (auto p = from->e.next_packet(now_us)) {
                moved = true;
                if (auto why = to->e.receive(p->bytes(), now_us, bye)) {
                    return why;
                }
            }
        }
    }
    return std::nullopt;
}

inline void connect(test_end& a, test_end& b, uint64_t session = 1, uint64_t now_us = 1000,
                    crc_cover cover = crc_cover::packet) {
    ASSERT_TRUE(a.e.attach(session, b.e.received(), now_us, cover));
    ASSERT_TRUE(b.e.attach(session, a.e.received(), now_us, cover));
}

}  // namespace vmsgr::trunk::tests
