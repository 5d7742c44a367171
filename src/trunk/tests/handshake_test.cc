#include "trunk/handshake.hh"

#include <gtest/gtest.h>

namespace vmsgr::trunk {
namespace {

const session_terms a{.node = 1,
                      .name = "a",
                      .packet_bytes = 8192,
                      .outage_ms = 30000,
                      .keepalive_ms = 500,
                      .replay_bytes = 1 << 20,
                      .channels_max = 10};
const session_terms b{.node = 2,
                      .name = "b",
                      .packet_bytes = 4096,
                      .outage_ms = 20000,
                      .keepalive_ms = 900,
                      .replay_bytes = 2 << 20,
                      .channels_max = 20};
const known_session seventh{7, 40, 1024};

// What arrives is what was sent.
hello sent(const hello& h) { return to_hello(to_packet(h)).value(); }

TEST(handshake, a_new_session_gets_the_smaller_of_both_wishes) {
    auto asked = sent(ask(a, 3, nullptr, below::tcp));
    EXPECT_EQ(asked.session, 0u);
    EXPECT_EQ(asked.body.lane, 3u);
    EXPECT_STREQ(asked.body.name, "a");
    ASSERT_EQ(judge_request(asked, {}), hello_verdict::welcome);
    known_session made{99, 0, agreed_packet_bytes(b, asked)};
    auto answered = sent(answer(b, asked, hello_verdict::welcome, &made, below::tcp));
    EXPECT_EQ(judge_answer(asked, answered), answer_kind::begins);
    EXPECT_EQ(answered.session, 99u);
    EXPECT_EQ(answered.body.packet_bytes, 4096u);
    EXPECT_EQ(answered.body.node, 2u);
    EXPECT_EQ(answered.body.lane, 3u);
    EXPECT_EQ(agreed_outage_ms(a, answered), 20000u);
    EXPECT_EQ(agreed_outage_ms(b, asked), 20000u);
}

TEST(handshake, settings_are_this_sides_own_but_for_the_size_of_packets) {
    auto s = settings_of(side::acceptor, b, sent(ask(a, 0, nullptr, below::tcp)), 1024);
    EXPECT_EQ(s.which, side::acceptor);
    EXPECT_EQ(s.packet_bytes, 1024u);
    EXPECT_EQ(s.replay_bytes, 2u << 20);
    EXPECT_EQ(s.channels_max, 20u);
    EXPECT_EQ(s.keepalive_ms, 900u);
}

TEST(handshake, a_session_has_what_both_sides_know) {
    const auto asked = sent(ask(a, 0, nullptr, below::tcp));
    const known_session made{99, 0, 1024};
    const auto answered = sent(answer(b, asked, hello_verdict::welcome, &made, below::tcp));
    EXPECT_TRUE(settings_of(side::acceptor, b, asked, 1024).urgent);
    EXPECT_TRUE(settings_of(side::initiator, a, answered, 1024).urgent);
    hello older = asked;  // its word for what it knows is zero
    older.body.features = 0;
    EXPECT_FALSE(settings_of(side::acceptor, b, sent(older), 1024).urgent);
    hello newer = asked;
    newer.body.features = ~0u & ~feature_urgent;
    EXPECT_FALSE(settings_of(side::acceptor, b, sent(newer), 1024).urgent);
}

TEST(handshake, the_crc_covers_the_payload_unless_both_ends_of_a_connection_have_tls) {
    const known_session made{99, 0, 1024};
    for (auto mine : {below::tcp, below::tls}) {
        for (auto theirs : {below::tcp, below::tls}) {
            const auto asked = sent(ask(a, 0, nullptr, mine));
            const auto answered = sent(answer(b, asked, hello_verdict::welcome, &made, theirs));
            const bool both = mine == below::tls && theirs == below::tls;
            EXPECT_EQ(crc_cover_of(asked, answered), both ? crc_cover::header : crc_cover::packet);
        }
    }
}

TEST(handshake, a_session_goes_on_where_both_say_they_are) {
    auto asked = sent(ask(a, 0, &seventh, below::tcp));
    EXPECT_EQ(asked.session, 7u);
    EXPECT_EQ(asked.ack, 40u);
    EXPECT_EQ(judge_request(asked, {.knows_session = true}), hello_verdict::welcome);
    known_session there{7, 55, 1024};
    auto answered = sent(answer(b, asked, hello_verdict::welcome, &there, below::tcp));
    EXPECT_EQ(judge_answer(asked, answered), answer_kind::continues);
    EXPECT_EQ(answered.ack, 55u);
    EXPECT_EQ(answered.body.packet_bytes, 1024u) << "the size agreed at the session's beginning";
}

TEST(handshake, a_session_that_is_not_known_is_lost) {
    auto asked = sent(ask(a, 0, &seventh, below::tcp));
    ASSERT_EQ(judge_request(asked, {}), hello_verdict::unknown_session);
    auto answered = sent(answer(b, asked, hello_verdict::unknown_session, nullptr, below::tcp));
    EXPECT_EQ(answered.session, 0u);
    EXPECT_EQ(judge_answer(asked, answered), answer_kind::lost);
    // Who asked for a new one has none to lose.
    EXPECT_EQ(judge_answer(ask(a, 0, nullptr, below::tcp), answered), answer_kind::refused);
}

TEST(handshake, limits_and_a_stop_refuse) {
    auto fresh = ask(a, 0, nullptr, below::tcp), old = ask(a, 0, &seventh, below::tcp);
    EXPECT_EQ(judge_request(fresh, {.has_room = false}), hello_verdict::too_many);
    EXPECT_EQ(judge_request(old, {.knows_session = true, .has_room = false}), hello_verdict::welcome);
    EXPECT_EQ(judge_request(fresh, {.stopping = true}), hello_verdict::stopping);
    EXPECT_EQ(judge_request(old, {.stopping = true, .knows_session = true}), hello_verdict::stopping);
    for (auto why : {hello_verdict::too_many, hello_verdict::stopping, hello_verdict::not_allowed, hello_verdict(77)}) {
        EXPECT_EQ(judge_answer(fresh, answer(b, fresh, why, nullptr, below::tcp)), answer_kind::refused);
        EXPECT_EQ(judge_answer(old, answer(b, old, why, nullptr, below::tcp)), answer_kind::refused);
    }
}

TEST(handshake, an_answer_that_no_honest_peer_gives_is_wrong) {
    auto fresh = ask(a, 0, nullptr, below::tcp), old = ask(a, 0, &seventh, below::tcp);
    known_session made{99, 0, 4096};
    auto good = answer(b, fresh, hello_verdict::welcome, &made, below::tcp);
    ASSERT_EQ(judge_answer(fresh, good), answer_kind::begins);
    auto h = good;
    h.session = 0;
    EXPECT_EQ(judge_answer(fresh, h), answer_kind::wrong);
    h = good;
    h.ack = 1;
    EXPECT_EQ(judge_answer(fresh, h), answer_kind::wrong) << "it acknowledges what never left";
    h = good;
    h.body.packet_bytes = 2 * a.packet_bytes;
    EXPECT_EQ(judge_answer(fresh, h), answer_kind::wrong) << "larger than asked for";
    EXPECT_EQ(judge_answer(old, good), answer_kind::wrong) << "another session";
}

TEST(handshake, bytes_that_are_no_hello_have_their_reason) {
    auto p = to_packet(ask(a, 0, nullptr, below::tcp));
    EXPECT_EQ(to_hello(std::span(p).first(hello_bytes - 1)).error(), packet_fault::truncated);
    p[100] ^= std::byte(1);
    EXPECT_EQ(to_hello(p).error(), packet_fault::crc);
}

}  // namespace
}  // namespace vmsgr::trunk
