#include "trunk/tests/ends.hh"

namespace vmsgr::trunk::tests {
namespace {

struct engines : ::testing::Test {
    engine_settings sa{.which = side::initiator, .packet_bytes = 1024, .replay_bytes = 64 << 10};
    engine_settings sb{.which = side::acceptor, .packet_bytes = 1024, .replay_bytes = 64 << 10};
    test_end a{sa}, b{sb};
    void SetUp() override { connect(a, b); }
    test_sink& other(test_sink* s) { return *b.sinks.at(s->id); }
};

TEST_F(engines, an_open_shows_both_addresses_and_is_accepted) {
    auto* s = a.open();
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_TRUE(s->accepted);
    EXPECT_EQ(b.seen_source, base::parse_address("10.0.0.1:4000"));
    EXPECT_EQ(b.seen_destination, base::parse_address("10.0.0.2:80"));
}

TEST_F(engines, a_refusal_brings_its_errno_and_leaves_nothing) {
    for (int err : {ECONNREFUSED, ENETUNREACH}) {
        b.refuse_with = err;
        auto* s = a.open();
        EXPECT_EQ(exchange(a, b), std::nullopt);
        EXPECT_EQ(s->refused, err);
        EXPECT_EQ(a.e.channels() + b.e.channels(), 0u);
    }
}

TEST_F(engines, a_sink_that_refuses_within_its_open_hears_no_more) {
    b.refuse_with = ENETUNREACH;
    auto* s = a.open();
    bool bye = false;
    ASSERT_EQ(b.e.receive(a.e.next_packet(1000)->bytes(), 1000, bye), std::nullopt);
    ASSERT_EQ(b.e.channels(), 1u);  // the refusal has not left
    b.e.end(ECONNRESET);
    EXPECT_EQ(other(s).reset, 0);
}

TEST_F(engines, nothing_is_sent_before_the_accept) {
    b.accept_at_once = false;
    auto* s = a.open();
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(s->send(10), 0u);
    EXPECT_EQ(other(s).send(10), 0u);
    b.e.accept(s->id, 100);
    other(s).granted = 100;
    EXPECT_EQ(other(s).send(10), 10u);  // right behind the accept
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(s->received, 10u);
    EXPECT_EQ(s->send(200), 100u);
}

TEST_F(engines, small_pieces_share_a_packet_and_large_ones_are_cut) {
    auto* s = a.open();
    EXPECT_EQ(exchange(a, b), std::nullopt);
    auto before = a.count.packets_out;
    for (int i = 0; i < 50; ++i) {
        EXPECT_EQ(s->send(10), 10u);
    }
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(a.count.packets_out - before, 1u);
    EXPECT_EQ(s->send(5000), 5000u);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(a.count.packets_out - before, 1u + 6u);
    EXPECT_EQ(other(s).received, 5500u);
    EXPECT_FALSE(other(s).wrong);
}

TEST_F(engines, credit_stops_a_sender_and_a_grant_wakes_it) {
    auto* s = a.open();
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(s->send(20000), 10000u);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(s->writable, 0u);
    other(s).grant(500);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(s->writable, 1u);
    EXPECT_EQ(s->send(1000), 500u);
}

// The peer of one session is away, that of the other is not.
TEST_F(engines, memory_is_shared_so_that_one_peer_that_is_away_holds_up_no_other) {
    sa.replay_bytes = 1 << 20;
    memory_share share{.limit = 64 << 10};
    test_end away(sa, &share), away2(sa, &share), c(sa, &share), away_b{sb}, away2_b{sb}, d{sb};
    away_b.first_credit = away2_b.first_credit = d.first_credit = 1 << 20;
    for (auto [x, y] : {std::pair(&away, &away_b), std::pair(&away2, &away2_b), std::pair(&c, &d)}) {
        connect(*x, *y);
    }
    for (auto [x, y] : {std::pair(&away, &away_b), std::pair(&away2, &away2_b)}) {
        auto* s = x->open();
        ASSERT_NE(s, nullptr);
        EXPECT_EQ(exchange(*x, *y), std::nullopt);
        EXPECT_GE(s->send(1 << 20), 8u << 10);
    }
    EXPECT_LE(away.e.in_flight_bytes(), 33u << 10);
    auto* s = c.open();
    ASSERT_NE(s, nullptr);
    EXPECT_EQ(exchange(c, d), std::nullopt);
    uint64_t sent = 0;
    for (int i = 0; i < 20; ++i) {
        sent += s->send(4000);
        EXPECT_EQ(exchange(c, d), std::nullopt);
        EXPECT_TRUE(d.e.tick(1000));  // acknowledges
        EXPECT_EQ(exchange(c, d), std::nullopt);
    }
    EXPECT_EQ(sent, 80'000u);
    EXPECT_LT(share.used, share.limit);
    // What the first one frees when it is back, the second may have.
    auto* second = away2.sinks.at(1).get();
    EXPECT_EQ(second->send(1 << 20), 0u);
    EXPECT_EQ(exchange(away, away_b), std::nullopt);
    EXPECT_TRUE(away.e.tick(1000) && away_b.e.tick(1000));
    EXPECT_EQ(exchange(away, away_b), std::nullopt);
    EXPECT_EQ(away.e.in_flight_bytes(), 0u);
    EXPECT_EQ(second->writable, 0u);
    EXPECT_TRUE(away2.e.tick(1000));
    EXPECT_EQ(second->writable, 1u);
    EXPECT_GE(second->send(1 << 20), 8u << 10);
}

TEST_F(engines, what_is_owed_leaves_once_others_have_freed_memory) {
    b.accept_at_once = false;
    auto* s = a.open();
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_TRUE(b.e.tick(1000));
    EXPECT_EQ(exchange(a, b), std::nullopt);
    b.share.limit = 0;
    b.e.accept(s->id, 100);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_FALSE(s->accepted);
    b.share.limit = UINT64_MAX;
    b.output = false;
    EXPECT_TRUE(b.e.tick(1000));
    EXPECT_TRUE(b.output);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_TRUE(s->accepted);
}

TEST_F(engines, a_sender_without_credit_learns_that_the_other_end_has_closed) {
    auto* s = a.open();
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(other(s).send(20000), 10000u);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(s->received, 10000u);
    a.e.close(s->id);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(other(s).writable, 1u);
    EXPECT_EQ(other(s).send(10000), 1u);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(other(s).reset, ECONNRESET);
}

TEST_F(engines, one_channel_without_credit_does_not_stop_another) {
    auto *s1 = a.open(), *s2 = a.open();
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(s1->send(20000), 10000u);
    EXPECT_EQ(s2->send(9000), 9000u);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(other(s2).received, 9000u);
}

TEST_F(engines, data_beyond_the_credit_is_dropped_counted_and_resets_the_channel) {
    b.first_credit = 100;
    auto* s = a.open();
    EXPECT_EQ(exchange(a, b), std::nullopt);
    std::vector<std::byte> p(1024);
    put_frame_header(p.data() + header_bytes, s->id, frame_kind::data, 101);
    header h;
    h.session = 1;
    h.sequence = b.e.received() + 1;
    h.payload_bytes = frame_header_bytes + 101;
    seal(p, h, crc_cover::packet);
    bool bye = false;
    EXPECT_EQ(b.e.receive(p, 1000, bye), std::nullopt);
    EXPECT_EQ(b.count.faults[size_t(packet_fault::credit)], 1u);
    EXPECT_EQ(other(s).received, 0u);
    EXPECT_EQ(other(s).reset, ECONNRESET);
}

TEST_F(engines, fin_follows_the_last_byte_and_the_other_direction_goes_on) {
    auto* s = a.open();
    EXPECT_EQ(exchange(a, b), std::nullopt);
    s->send(100);
    a.e.fin(s->id);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(other(s).received, 100u);
    EXPECT_TRUE(other(s).fin_received);
    EXPECT_EQ(other(s).send(50), 50u);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(s->received, 50u);
    a.e.close(s->id);
    b.e.close(s->id);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(a.e.channels() + b.e.channels(), 0u);
    EXPECT_FALSE(s->gone || other(s).gone);
}

TEST_F(engines, data_for_a_closed_end_is_answered_by_a_reset) {
    auto* s = a.open();
    EXPECT_EQ(exchange(a, b), std::nullopt);
    b.e.close(s->id);
    other(s).closed = true;
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_TRUE(s->fin_received);
    s->send(1);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(s->reset, ECONNRESET);
    EXPECT_EQ(a.e.channels() + b.e.channels(), 0u);
}

TEST_F(engines, a_reset_brings_its_errno) {
    auto* s = a.open();
    EXPECT_EQ(exchange(a, b), std::nullopt);
    b.e.reset(s->id, ECONNRESET);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(s->reset, ECONNRESET);
    EXPECT_EQ(a.e.channels() + b.e.channels(), 0u);
}

TEST_F(engines, what_was_not_acknowledged_leaves_again_and_once_is_enough) {
    auto* s = a.open();
    EXPECT_EQ(exchange(a, b), std::nullopt);
    s->send(3000);
    bool bye = false;
    std::vector<packet_ptr> left;
    while (auto p = a.e.next_packet(1000)) {
        left.push_back(p);
    }
    ASSERT_EQ(left.size(), 4u);
    b.e.receive(left[0]->bytes(), 1000, bye);
    b.e.receive(left[1]->bytes(), 1000, bye);
    a.e.detach();
    b.e.detach();
    EXPECT_EQ(a.e.next_packet(1000), nullptr);
    connect(a, b);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(a.count.replayed, 2u);
    EXPECT_EQ(other(s).received, 3000u);
    EXPECT_FALSE(other(s).wrong);
    // A packet that comes again changes nothing.
    EXPECT_EQ(b.e.receive(left[3]->bytes(), 1000, bye), std::nullopt);
    EXPECT_EQ(b.count.duplicates, 1u);
    EXPECT_EQ(other(s).received, 3000u);
}

// As after a change of the configuration: what leaves again is sealed anew.
TEST_F(engines, what_the_crc_covers_is_each_connections_own) {
    a.e.detach();
    b.e.detach();
    connect(a, b, 1, 1000, crc_cover::header);
    auto* s = a.open();
    EXPECT_EQ(exchange(a, b), std::nullopt);
    s->send(3000);
    while (a.e.next_packet(1000)) {
    }
    a.e.detach();
    b.e.detach();
    connect(a, b, 1, 1000, crc_cover::packet);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_GE(a.count.replayed, 3u);
    EXPECT_EQ(other(s).received, 3000u);
    // An end that has not agreed to it refuses such a packet.
    s->send(10);
    a.e.detach();
    ASSERT_TRUE(a.e.attach(1, b.e.received(), 1000, crc_cover::header));
    bool bye = false;
    EXPECT_EQ(b.e.receive(a.e.next_packet(1000)->bytes(), 1000, bye), packet_fault::crc);
}

TEST_F(engines, a_peer_that_claims_what_never_left_is_no_peer) { EXPECT_FALSE(a.e.attach(1, 5, 1000)); }

TEST_F(engines, the_replay_limit_holds_senders_back_until_the_peer_acknowledges) {
    b.first_credit = 10 << 20;
    auto* s = a.open();
    EXPECT_EQ(exchange(a, b), std::nullopt);
    a.e.detach();
    size_t taken = s->send(1 << 20);
    EXPECT_LT(taken, 66u << 10);
    EXPECT_GT(taken, 58u << 10);
    EXPECT_EQ(s->send(1), 0u);
    connect(a, b);
    EXPECT_EQ(exchange(a, b), std::nullopt);
    EXPECT_EQ(other(s).received, taken);
    EXPECT_EQ(s->writable, 1u);
}

// An acknowledgement costs a packet of its own: few, but before the peer can keep no more.
TEST(acknowledgements, come_after_so_many_packets_as_their_size_allows) {
    for (auto [bytes, wanted] : {std::pair(512, 32), {4 << 10, 32}, {8 << 10, 32}, {16 << 10, 16}, {64 << 10, 16}}) {
        const size_t size = size_t(bytes);
        test_end a({.which = side::initiator, .packet_bytes = size});
        test_end b({.which = side::acceptor, .packet_bytes = size});
        a.first_credit = b.first_credit = 64 * size;
        connect(a, b);
        auto* s = a.open();
        ASSERT_EQ(exchange(a, b), std::nullopt);
        bool bye = false;
        int came = 0;
        for (packet_ptr ack; !ack && came < 100; ack = b.e.next_packet(1000)) {
            ASSERT_NE(s->send(1), 0u);
            ASSERT_EQ(b.e.receive(a.e.next_packet(1000)->bytes(), 1000, bye), std::nullopt);
            ++came;
        }
        EXPECT_EQ(came, wanted) << bytes;
    }
}

TEST_F(engines, packets_of_all_sessions_share_a_limit) {
    auto* s = a.open();
    EXPECT_EQ(exchange(a, b), std::nullopt);
    a.share.limit = 2048;
    EXPECT_LE(s->send(9000), 3 * 1024u);
    EXPECT_EQ(exchange(a, b), std::nullopt);
}

TEST_F(engines, wrong_packets_are_refused_by_reason) {
    auto send = [&](header h, size_t size = 1024) {
        std::vector<std::byte> p(size);
        seal(p, h, crc_cover::packet);
        bool bye = false;
        return b.e.receive(p, 1000, bye);
    };
    header good;
    good.session = 1;
    good.sequence = 1;
    header h = good;
    h.session = 2;
    EXPECT_EQ(send(h), packet_fault::cookie);
    h = good;
    h.sequence = 2;
    EXPECT_EQ(send(h), packet_fault::sequence);
    h = good;
    h.ack = 1;
    EXPECT_EQ(send(h), packet_fault::ack);
    h = good;
    h.type = packet_type::hello;
    EXPECT_EQ(send(h), packet_fault::type);
    EXPECT_EQ(send(good, 512), packet_fault::size);
    EXPECT_EQ(send(good), std::nullopt);
    for (auto f :
         {packet_fault::cookie, packet_fault::sequence, packet_fault::ack, packet_fault::type, packet_fault::size}) {
        EXPECT_EQ(b.count.faults[size_t(f)], 1u);
    }
}

TEST_F(engines, frames_for_channels_never_opened_end_the_session) {
    std::vector<std::byte> p(1024);
    header h;
    h.session = 1;
    h.sequence = 1;
    h.payload_bytes = frame_header_bytes;
    put_frame_header(p.data() + header_bytes, 9, frame_kind::fin, 0);
    seal(p, h, crc_cover::packet);
    bool bye = false;
    auto why = b.e.receive(p, 1000, bye);
    ASSERT_EQ(why, packet_fault::channel);
    EXPECT_TRUE(engine::session_is_over(*why));
}

// Each destination is opened by hand, as an honest engine's owner never asks for one that is refused here.
// What a peer says of a channel that stands comes once, and in its order.
TEST_F(engines, frames_at_a_wrong_time_end_the_session) {
    auto says = [](test_end& to, std::initializer_list<frame_kind> kinds) {
        std::vector<std::byte> p(1024);
        size_t at = header_bytes;
        for (auto kind : kinds) {
            const size_t body = kind == frame_kind::accept ? credit_body_bytes : 0;
            put_frame_header(&p[at], 1, kind, uint16_t(body));
            at += frame_header_bytes + body;
        }
        header h;
        h.session = 1;
        h.sequence = to.e.received() + 1;
        h.payload_bytes = uint32_t(at - header_bytes);
        seal(p, h, crc_cover::packet);
        bool bye = false;
        return to.e.receive(p, 1000, bye);
    };
    using enum frame_kind;
    auto* s = a.open();
    // An initiator neither accepts nor refuses.
    bool bye = false;
    while (auto p = a.e.next_packet(1000)) {
        EXPECT_EQ(b.e.receive(p->bytes(), 1000, bye), std::nullopt);
    }
    EXPECT_EQ(says(b, {refuse}), packet_fault::channel);
    EXPECT_EQ(says(b, {accept}), packet_fault::channel);
    EXPECT_EQ(says(a, {fin}), packet_fault::channel);
    EXPECT_FALSE(s->fin_received);
    EXPECT_EQ(says(a, {accept, accept}), packet_fault::channel);
    EXPECT_EQ(says(a, {refuse}), packet_fault::channel);
    EXPECT_EQ(s->refused, 0);
    EXPECT_EQ(says(a, {fin, fin}), packet_fault::channel);
    EXPECT_TRUE(s->accepted && s->fin_received && !s->gone);
}

TEST_F(engines, destinations_that_name_no_one_host_are_refused_before_the_owner_is_asked) {
    const char* refused[] = {"0.0.0.0:22",
                             "[::]:22",
                             "[::ffff:0.0.0.0]:22",
                             "224.0.0.1:22",
                             "[::ffff:239.1.1.1]:22",
                             "255.255.255.255:22",
                             "[::ffff:255.255.255.255]:22",
                             "[ff02::1]:22"};
    uint64_t channel = 0;
    for (const char* to : refused) {
        test_sink s(a);
        ASSERT_EQ(a.e.open(*base::parse_address("10.0.0.1:4000"), *base::parse_address(to), 100, s), ++channel);
        ASSERT_EQ(exchange(a, b), std::nullopt) << to;
        EXPECT_EQ(s.refused, EHOSTUNREACH) << to;
    }
    EXPECT_TRUE(b.sinks.empty());
    EXPECT_EQ(b.e.channels(), 0u);
    auto* s = a.open();
    ASSERT_EQ(exchange(a, b), std::nullopt);
    EXPECT_TRUE(s->accepted) << "the session goes on";
}

TEST_F(engines, a_mapped_address_comes_as_the_one_that_it_is) {
    test_sink s(a);
    a.e.open(*base::parse_address("[::ffff:10.0.0.1]:4000"), *base::parse_address("[::ffff:10.0.0.2]:80"), 100, s);
    ASSERT_EQ(exchange(a, b), std::nullopt);
    EXPECT_TRUE(s.accepted);
    EXPECT_EQ(b.seen_source, base::parse_address("10.0.0.1:4000"));
    EXPECT_EQ(b.seen_destination, base::parse_address("10.0.0.2:80"));
    a.e.close(s.id);
}

TEST(engine_counters, every_one_is_added) {
    engine_counters one, sum;
    uint64_t n = 1;
    for (auto& c : engine_counter_table) {
        one.*c.member = n++;
    }
    one.count(packet_fault::crc);
    base::add(sum, one, engine_counter_table);
    base::add(sum, one, engine_counter_table);
    n = 1;
    for (auto& c : engine_counter_table) {
        EXPECT_EQ(sum.*c.member, 2 * n++) << c.name;
    }
    EXPECT_EQ(sum.faults[size_t(packet_fault::crc)], 2u);
}

// Who opens beyond the limit is refused; what is owed to one who reads no refusals has an end too.
TEST_F(engines, opens_without_end_end_the_session) {
    sb.channels_max = 3;
    test_end hostile{sa}, small{sb};
    connect(hostile, small);
    for (int i = 0; i < 7; ++i) {
        hostile.open();
    }
    std::optional<packet_fault> why;
    bool bye = false;
    while (!why) {
        auto p = hostile.e.next_packet(1000);
        ASSERT_TRUE(p);
        why = small.e.receive(p->bytes(), 1000, bye);
    }
    EXPECT_EQ(why, packet_fault::channel);
    EXPECT_EQ(small.e.channels(), 6u);
}

TEST_F(engines, an_ended_session_resets_every_channel) {
    auto *s1 = a.open(), *s2 = a.open();
    EXPECT_EQ(exchange(a, b), std::nullopt);
    a.e.end(ECONNRESET);
    EXPECT_EQ(s1->reset, ECONNRESET);
    EXPECT_EQ(s2->reset, ECONNRESET);
    EXPECT_EQ(a.e.channels(), 0u);
}

TEST_F(engines, a_silent_connection_gets_dummies_and_is_found_dead) {
    EXPECT_TRUE(a.e.tick(1'500'000));
    auto p = a.e.next_packet(1'500'000);
    ASSERT_NE(p, nullptr);
    bool bye = false;
    EXPECT_EQ(b.e.receive(p->bytes(), 1'500'100, bye), std::nullopt);
    auto answer = b.e.next_packet(1'500'100);
    ASSERT_NE(answer, nullptr);
    EXPECT_EQ(a.e.receive(answer->bytes(), 1'500'250, bye), std::nullopt);
    EXPECT_EQ(a.e.rtt_us(), 250u);
    EXPECT_EQ(a.e.next_packet(1'500'250), nullptr);
    EXPECT_TRUE(a.e.tick(4'000'000));
    EXPECT_FALSE(a.e.tick(5'000'000));
}

TEST_F(engines, a_bye_is_told) {
    bool bye = false;
    EXPECT_EQ(b.e.receive(a.e.bye(1000)->bytes(), 1000, bye), std::nullopt);
    EXPECT_TRUE(bye);
}

}  // namespace
}  // namespace vmsgr::trunk::tests
