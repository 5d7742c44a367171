// The other end's bytes are its own: whatever it writes, this channel ends with a reason and nothing else happens.
#include <algorithm>
#include <random>
#include <span>
#include <thread>

#include "client/tests/channel_pair.hh"

namespace vmsgr::client {
namespace {

using test::pair;

struct against {
    pair p{65536, {.max_message_bytes = 4096, .spin_us = 0}};
    const std::byte* at = nullptr;
    size_t n = 0;

    int peek(int timeout_ms = 0) { return p.a->peek(timeout_ms, at, n); }
    against& greeted() {
        p.write_hello();
        EXPECT_EQ(p.a->greet(1000), 0);
        return *this;
    }
    void refuses(frame_fault fault, int errnum = EPROTO) {
        EXPECT_EQ(peek(), errnum);
        EXPECT_EQ(p.a->ended(), channel_end::bad_frame);
        EXPECT_EQ(p.a->fault(), fault);
        EXPECT_EQ(peek(), errnum);
        EXPECT_EQ(p.a->send("x", 1, false, 0), errnum);
    }
};

TEST(hostile, a_stranger_that_speaks_something_else) {
    against t;
    t.p.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27);
    EXPECT_EQ(t.p.a->greet(1000), EPROTO);
    EXPECT_EQ(t.p.a->fault(), frame_fault::not_a_channel);
}

TEST(hostile, a_stranger_that_says_nothing_and_one_that_stops_in_a_word) {
    against t;
    EXPECT_EQ(t.p.a->greet(0), EAGAIN);
    t.p.write("VMS", 3);
    EXPECT_EQ(t.p.a->greet(10), ETIMEDOUT);
}

TEST(hostile, another_version_is_named) {
    against t;
    t.p.write_hello({.version = 9, .max_message_bytes = 4096});
    EXPECT_EQ(t.p.a->greet(1000), EPROTONOSUPPORT);
    EXPECT_EQ(t.p.a->fault(), frame_fault::other_version);
    EXPECT_EQ(t.p.a->other_version(), 9);
}

TEST(hostile, a_hello_of_another_magic_or_without_room) {
    against t;
    t.p.write_hello({.magic = 1, .max_message_bytes = 4096});
    EXPECT_EQ(t.p.a->greet(1000), EPROTO);
    against u;
    u.p.write_hello({.max_message_bytes = 0});
    EXPECT_EQ(u.p.a->greet(1000), EPROTO);
}

TEST(hostile, a_longer_hello_of_the_same_version_is_taken) {
    against t;
    hello_body body{.max_message_bytes = 2048};
    t.p.write(frame_header{.bytes = sizeof body + 8, .kind = frame_kind::hello});
    t.p.write(body);
    t.p.write(uint64_t{5});
    EXPECT_EQ(t.p.a->greet(1000), 0);
    EXPECT_EQ(t.p.a->largest_out(), 2048u);
}

TEST(hostile, bad_headers_end_the_channel) {
    auto header = [](frame_header h) {
        against t;
        t.greeted().p.write(h);
        return t;
    };
    header({.bytes = 4097}).refuses(frame_fault::too_long);
    header({.bytes = 0xffffffff}).refuses(frame_fault::too_long);
    header({.bytes = 8, .magic = 0}).refuses(frame_fault::no_frame);
    header({.bytes = 8, .kind = frame_kind(77)}).refuses(frame_fault::no_frame);
    header({.bytes = 8, .flags = 1}).refuses(frame_fault::no_frame);
    header({.bytes = 24, .kind = frame_kind::hello}).refuses(frame_fault::out_of_place);
    header({.bytes = 8, .kind = frame_kind::bye}).refuses(frame_fault::out_of_place);
}

TEST(hostile, a_message_before_the_hello) {
    against t;
    t.p.write(frame_header{.bytes = 0});
    EXPECT_EQ(t.p.a->greet(1000), EPROTO);
    EXPECT_EQ(t.p.a->fault(), frame_fault::out_of_place);
}

TEST(hostile, a_length_that_changes_after_the_check) {
    against t;
    t.greeted();
    const uint64_t begin = t.p.words(1).head.load();
    t.p.write(frame_header{.bytes = 8});
    t.p.write(uint64_t{1});
    ASSERT_EQ(t.peek(), 0);
    ASSERT_EQ(t.n, 8u);
    // Grows while the message is read: what was checked counts, and the next frame begins where it was to begin.
    store_header(t.p.ring(1) + begin, {.bytes = 4000});
    ASSERT_EQ(t.peek(), 0);
    EXPECT_EQ(t.n, 8u);
    ASSERT_EQ(t.p.a->release(), 0);
    t.p.write(frame_header{.bytes = 0});
    ASSERT_EQ(t.peek(), 0);
    EXPECT_EQ(t.n, 0u);
}

TEST(hostile, a_length_that_changes_while_the_rest_is_awaited) {
    against t;
    t.greeted();
    const uint64_t begin = t.p.words(1).head.load();
    t.p.write(frame_header{.bytes = 16});
    EXPECT_EQ(t.peek(), EAGAIN);  // gathered
    store_header(t.p.ring(1) + begin, {.bytes = 4000000});
    t.p.write(uint64_t{1});
    EXPECT_EQ(t.peek(), EAGAIN);
    t.p.write(uint64_t{2});
    ASSERT_EQ(t.peek(), 0);
    EXPECT_EQ(t.n, 16u);
}

TEST(hostile, indices_out_of_range) {
    for (uint64_t jump : {uint64_t{65537}, uint64_t{1} << 40, ~uint64_t{0}}) {
        against t;
        t.greeted();
        t.p.words(1).head.fetch_add(jump);
        EXPECT_EQ(t.peek(), EPROTO) << jump;
        EXPECT_EQ(t.p.a->ended(), channel_end::bad_index);
    }
    against t;
    t.greeted();
    t.p.words(0).tail.store(uint64_t{1} << 50);
    std::vector<std::byte> m(4096);
    int e = 0;
    for (int i = 0; i < 100 && e == 0; ++i) {
        e = t.p.a->send(m.data(), m.size(), false, 0);
    }
    EXPECT_EQ(e, EPROTO);
    EXPECT_EQ(t.p.a->ended(), channel_end::bad_index);
}

TEST(hostile, tokens_without_end_and_bytes_that_are_none) {
    against t;
    t.greeted();
    ASSERT_EQ(t.peek(), EAGAIN);
    for (int i = 0; i < 8; ++i) {
        shm::bell(t.p.bell.other.get()).send_token();
    }
    EXPECT_EQ(t.peek(1000), EPROTO);
    EXPECT_EQ(t.p.a->ended(), channel_end::bad_bell);

    against u;
    u.greeted();
    ASSERT_EQ(u.peek(), EAGAIN);
    ::send(u.p.bell.other.get(), "x", 1, MSG_DONTWAIT);
    u.p.words(1).tokens_sent.fetch_add(1);
    EXPECT_EQ(u.peek(1000), EPROTO);
    EXPECT_EQ(u.p.a->ended(), channel_end::bad_bell);
}

TEST(hostile, nothing_is_read_after_the_goodbye) {
    against t;
    t.greeted();
    t.p.write(frame_header{.bytes = 0, .kind = frame_kind::bye});
    t.p.write(frame_header{.bytes = 0});
    EXPECT_EQ(t.peek(), ENODATA);
    EXPECT_EQ(t.peek(), ENODATA);
}

TEST(hostile, an_end_without_a_goodbye_even_in_a_message) {
    against t;
    t.greeted();
    t.p.write(frame_header{.bytes = 100});
    t.p.words(1).flags.fetch_or(shm::ring_fin);
    EXPECT_EQ(t.peek(1000), ECONNRESET);
    EXPECT_EQ(t.p.a->ended(), channel_end::cut);
    against u;
    u.greeted();
    u.p.words(1).error.store(ETIMEDOUT);
    u.p.words(1).flags.fetch_or(shm::ring_reset);
    EXPECT_EQ(u.peek(1000), ETIMEDOUT);
}

TEST(hostile, messages_in_pieces_of_any_size) {
    const unsigned seed = std::random_device{}();
    std::minstd_rand random(seed);
    against t;
    std::vector<std::byte> stream;
    auto add = [&](const void* p, size_t n) {
        stream.insert(stream.end(), static_cast<const std::byte*>(p), static_cast<const std::byte*>(p) + n);
    };
    const hello_body hello{.max_message_bytes = 4096};
    const frame_header first{.bytes = sizeof hello, .kind = frame_kind::hello};
    add(&first, sizeof first);
    add(&hello, sizeof hello);
    for (unsigned i = 0; i < 300; ++i) {
        auto m = test::bytes_of((i * 53) % 4097, i);
        const frame_header h{.bytes = uint32_t(m.size())};
        add(&h, sizeof h);
        m.resize(padded(m.size()));
        add(m.data(), m.size());
    }
    unsigned got = 0;
    for (size_t at = 0; at < stream.size();) {
        size_t n = std::min<size_t>(1 + random() % 3000, stream.size() - at);
        t.p.write(&stream[at], n);
        at += n;
        if (!t.p.a->greeted() && t.p.a->greet(0) != 0) {
            continue;
        }
        while (t.peek() == 0) {
            auto wanted = test::bytes_of((got * 53) % 4097, got);
            ASSERT_EQ(t.n, wanted.size()) << got << " seed " << seed;
            ASSERT_TRUE(std::ranges::equal(wanted, std::span(t.at, t.n))) << got << " seed " << seed;
            ASSERT_EQ(reinterpret_cast<uintptr_t>(t.at) % 8, 0u);
            t.p.a->release();
            ++got;
        }
    }
    EXPECT_EQ(got, 300u);
}

// Each byte wakes the reader, more often than tokens for nothing are borne.
TEST(hostile, slow_but_honest_one_is_not_taken_for_a_liar) {
    against t;
    t.greeted();
    constexpr uint32_t bytes = 3000;
    std::vector<std::byte> frame(frame_bytes(bytes));
    store_header(frame.data(), {.bytes = bytes});
    int e = -1;
    std::jthread reader([&] { e = t.peek(60'000); });
    for (std::byte b : frame) {
        while (t.p.words(1).consumer_waits.load() == 0) {
            std::this_thread::yield();
        }
        t.p.write(b);
    }
    reader.join();
    EXPECT_EQ(e, 0);
    EXPECT_EQ(t.n, bytes);
    EXPECT_GT(t.p.a->received().sleeps.load(), 1500u);
}

// Random bytes where frames are expected: any end will do, but one that is told, and no crash (asan looks too).
TEST(hostile, noise) {
    const unsigned seed = std::random_device{}();
    std::minstd_rand random(seed);
    for (int round = 0; round < 300; ++round) {
        against t;
        t.greeted();
        for (int i = 0; i < 20 && t.p.a->ended() == channel_end::open; ++i) {
            frame_header h{.bytes = random() % 3 == 0 ? uint32_t(random()) : uint32_t(random() % 4200)};
            if (random() % 16 == 0) {
                h.kind = frame_kind(random() % 5);
            }
            t.p.write(h);
            t.p.write(&t, random() % 64);
            if (random() % 4 == 0) {
                t.p.words(1).head.fetch_add(random() % 4096);
            }
            for (int k = 0; k < 4 && t.peek() == 0; ++k) {
                t.p.a->release();
            }
        }
    }
}

}  // namespace
}  // namespace vmsgr::client
