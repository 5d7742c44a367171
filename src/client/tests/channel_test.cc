// Messages through one process's pair of channels: order, boundaries, wrapping, full rings, ends.
#include <algorithm>
#include <cstring>
#include <random>
#include <span>
#include <thread>

#include "client/tests/channel_pair.hh"

namespace vmsgr::client {
namespace {

using test::bytes_of;
using test::pair;

std::string next(channel& c, int timeout_ms = 1000) {
    const std::byte* at = nullptr;
    size_t n = 0;
    if (int e = c.peek(timeout_ms, at, n); e != 0) {
        return "errno " + std::to_string(e);
    }
    std::string s(reinterpret_cast<const char*>(at), n);
    c.release();
    return s;
}
int say(channel& c, std::string_view s, int timeout_ms = 1000, bool more = false) {
    return c.send(s.data(), s.size(), more, timeout_ms);
}
std::string error(int e) { return "errno " + std::to_string(e); }

TEST(channel, keeps_messages_apart_and_in_order) {
    pair p;
    p.greet();
    ASSERT_EQ(say(*p.a, "one"), 0);
    ASSERT_EQ(say(*p.a, ""), 0);
    ASSERT_EQ(say(*p.a, "three 33"), 0);
    ASSERT_EQ(say(*p.b, "back"), 0);
    EXPECT_EQ(next(*p.b), "one");
    EXPECT_EQ(next(*p.b), "");
    EXPECT_EQ(next(*p.b), "three 33");
    EXPECT_EQ(next(*p.b, 0), error(EAGAIN));
    EXPECT_EQ(next(*p.a), "back");
}

TEST(channel, agrees_on_the_smaller_maximum) {
    pair p(65536, {.max_message_bytes = 8192});
    p.make_b({.max_message_bytes = 2048});
    ASSERT_EQ(p.a->greet(1000), 0);
    ASSERT_EQ(p.b->greet(1000), 0);
    std::string most(2048, 'x');
    EXPECT_EQ(p.a->largest_out(), 2048u);
    EXPECT_EQ(p.b->largest_out(), 2048u);
    EXPECT_EQ(say(*p.a, most), 0);
    EXPECT_EQ(say(*p.a, most + "y"), EMSGSIZE);
    EXPECT_EQ(next(*p.b), most);
}

TEST(channel, writes_and_reads_in_place_across_the_rings_end) {
    pair p(8192, {.max_message_bytes = 4096 - 16});
    p.make_b({.max_message_bytes = 4096 - 16});
    ASSERT_EQ(p.a->greet(1000), 0);
    ASSERT_EQ(p.b->greet(1000), 0);
    for (unsigned i = 0; i < 200; ++i) {
        auto wanted = bytes_of((i * 37) % 4081, i);
        std::byte* to = nullptr;
        ASSERT_EQ(p.a->reserve(wanted.size(), 0, to), 0) << i;
        ASSERT_EQ(reinterpret_cast<uintptr_t>(to) % 8, 0u);
        std::ranges::copy(wanted, to);  // the first has none
        ASSERT_EQ(p.a->commit(wanted.size(), false), 0);
        const std::byte* at = nullptr;
        size_t n = 0;
        ASSERT_EQ(p.b->peek(0, at, n), 0) << i;
        ASSERT_EQ(n, wanted.size());
        ASSERT_EQ(reinterpret_cast<uintptr_t>(at) % 8, 0u);
        ASSERT_TRUE(std::ranges::equal(wanted, std::span(at, n)));
        const std::byte* again = nullptr;
        ASSERT_EQ(p.b->peek(0, again, n), 0);
        ASSERT_EQ(again, at);
        ASSERT_EQ(p.b->release(), 0);
        ASSERT_EQ(p.b->release(), EINVAL);
    }
}

TEST(channel, commit_needs_a_reservation_that_is_as_large) {
    pair p;
    p.greet();
    std::byte* to = nullptr;
    EXPECT_EQ(p.a->commit(0, false), EINVAL);
    ASSERT_EQ(p.a->reserve(8, 0, to), 0);
    EXPECT_EQ(p.a->commit(9, false), EINVAL);
    memcpy(to, "abc", 3);
    EXPECT_EQ(p.a->commit(3, false), 0);
    EXPECT_EQ(p.a->commit(3, false), EINVAL);
    EXPECT_EQ(next(*p.b), "abc");
}

TEST(channel, holds_back_what_more_follows_until_a_flush) {
    pair p;
    p.greet();
    ASSERT_EQ(say(*p.a, "a", 0, true), 0);
    ASSERT_EQ(say(*p.a, "b", 0, true), 0);
    EXPECT_EQ(next(*p.b, 0), error(EAGAIN));
    p.a->flush();
    EXPECT_EQ(next(*p.b, 0), "a");
    EXPECT_EQ(next(*p.b, 0), "b");
    ASSERT_EQ(say(*p.a, "c", 0, true), 0);
    p.a->finish();
    EXPECT_EQ(next(*p.b, 0), "c");
    EXPECT_EQ(next(*p.b, 0), error(ENODATA));
}

TEST(channel, says_again_when_the_ring_is_full_and_shows_room_by_its_descriptor) {
    pair p(4096, {.max_message_bytes = 1024});
    p.make_b({.max_message_bytes = 1024});
    ASSERT_EQ(p.a->greet(1000), 0);
    ASSERT_EQ(p.b->greet(1000), 0);
    std::string m(1000, 'm');
    unsigned sent = 0;
    int e = 0;
    while ((e = say(*p.a, m, 0)) == 0) {
        ++sent;
    }
    EXPECT_EQ(e, EAGAIN);
    EXPECT_EQ(sent, 4u);
    pollfd q{p.a->fd(), POLLOUT, 0};
    EXPECT_EQ(::poll(&q, 1, 0), 0);
    EXPECT_EQ(say(*p.a, m, 20), ETIMEDOUT);
    for (unsigned i = 0; i < sent; ++i) {
        EXPECT_EQ(next(*p.b, 0), m);
    }
    EXPECT_EQ(next(*p.b, 0), error(EAGAIN));
    EXPECT_EQ(::poll(&q, 1, 0), 1);
    EXPECT_EQ(say(*p.a, m, 0), 0);
    EXPECT_EQ(next(*p.b, 0), m);
}

TEST(channel, descriptor_is_readable_after_again_once_a_message_comes) {
    pair p;
    p.greet();
    for (int i = 0; i < 20; ++i) {
        EXPECT_EQ(next(*p.b, 0), error(EAGAIN));
        pollfd q{p.b->fd(), POLLIN, 0};
        EXPECT_EQ(::poll(&q, 1, 0), 0);
        ASSERT_EQ(say(*p.a, "x"), 0);
        ASSERT_EQ(say(*p.a, "y"), 0);
        EXPECT_EQ(::poll(&q, 1, 0), 1);
        EXPECT_EQ(next(*p.b, 0), "x");
        EXPECT_EQ(::poll(&q, 1, 0), 1);  // who waits for levels sees the second one as well
        EXPECT_EQ(next(*p.b, 0), "y");
    }
}

TEST(channel, a_close_is_told_after_the_last_message) {
    pair p;
    p.greet();
    ASSERT_EQ(say(*p.a, "last"), 0);
    p.a.reset();
    EXPECT_EQ(next(*p.b), "last");
    EXPECT_EQ(next(*p.b), error(ENODATA));
    EXPECT_EQ(p.b->ended(), channel_end::finished);
    EXPECT_EQ(p.b->unsendable(), 0);
    EXPECT_EQ(say(*p.b, "x"), EPIPE);
    EXPECT_EQ(p.b->unsendable(), EPIPE);
}

TEST(channel, a_full_ring_still_has_room_for_the_goodbye) {
    pair p(4096, {.max_message_bytes = 1024});
    p.make_b({.max_message_bytes = 1024});
    ASSERT_EQ(p.a->greet(1000), 0);
    ASSERT_EQ(p.b->greet(1000), 0);
    unsigned sent = 0;
    while (say(*p.a, "", 0) == 0) {
        ++sent;
    }
    p.a.reset();
    for (; sent != 0; --sent) {
        ASSERT_EQ(next(*p.b), "");
    }
    EXPECT_EQ(next(*p.b), error(ENODATA));
}

TEST(channel, finish_ends_one_direction) {
    pair p;
    p.greet();
    p.a->finish();
    EXPECT_EQ(say(*p.a, "no"), EPIPE);
    EXPECT_EQ(next(*p.b), error(ENODATA));
    EXPECT_EQ(say(*p.b, "still"), 0);
    EXPECT_EQ(next(*p.a), "still");
}

TEST(channel, a_vanished_end_is_no_orderly_one) {
    pair p;
    p.greet();
    ASSERT_EQ(say(*p.b, "before"), 0);
    // As a kill: nothing is said, the descriptor closes.
    ::shutdown(p.b->fd(), SHUT_RDWR);
    EXPECT_EQ(next(*p.a), "before");
    EXPECT_EQ(next(*p.a), error(ECONNRESET));
    EXPECT_EQ(p.a->ended(), channel_end::cut);
    EXPECT_EQ(say(*p.a, "x"), ECONNRESET);
}

TEST(channel, an_end_that_never_met_the_other_is_no_orderly_one) {
    pair p;
    p.make_b();
    EXPECT_EQ(p.a->greet(1000), 0);
    EXPECT_EQ(say(*p.a, "lost"), 0);
    p.b.reset();  // a listener that gives it up
    EXPECT_EQ(next(*p.a), error(ECONNRESET));
    EXPECT_EQ(p.a->ended(), channel_end::cut);
}

TEST(channel, a_sender_learns_that_nobody_is_there) {
    pair p;
    p.greet();
    EXPECT_EQ(next(*p.b, 0), error(EAGAIN));  // waits
    ::shutdown(p.b->fd(), SHUT_RDWR);
    EXPECT_EQ(say(*p.a, "lost"), 0);
    EXPECT_EQ(say(*p.a, "x"), ECONNRESET);
    EXPECT_EQ(p.a->unsendable(), ECONNRESET);
}

TEST(channel, look_never_arms) {
    pair p;
    p.greet();
    const std::byte* at = nullptr;
    size_t n = 0;
    EXPECT_EQ(p.b->look(at, n), EAGAIN);
    auto sent = p.words(0).tokens_sent.load();
    p.words(0).consumer_waits.store(0);
    EXPECT_EQ(p.b->look(at, n), EAGAIN);
    ASSERT_EQ(say(*p.a, "m"), 0);
    EXPECT_EQ(p.b->look(at, n), 0);
    EXPECT_EQ(n, 1u);
    EXPECT_EQ(p.words(0).tokens_sent.load(), sent);
}

// Everything at once: two threads a channel, both directions, sizes and waits at random, small rings.
void exchange(uint32_t ring_bytes, uint32_t spin_us, unsigned count, unsigned seed) {
    const uint32_t max = 1024;
    pair p(ring_bytes, {.max_message_bytes = max, .spin_us = spin_us});
    p.make_b({.max_message_bytes = max, .spin_us = spin_us});
    ASSERT_EQ(p.a->greet(1000), 0);
    ASSERT_EQ(p.b->greet(1000), 0);
    auto size_of = [&](unsigned i) { return size_t((i * 2654435761u) >> 8) % (max + 1); };
    std::atomic<unsigned> wrong{0};
    auto send_all = [&](channel& c) {
        std::minstd_rand random(seed);
        for (unsigned i = 0; i < count; ++i) {
            auto m = bytes_of(size_of(i), i);
            int e = EAGAIN;
            while (e == EAGAIN) {
                const bool waits = random() % 4 != 0;
                e = c.send(m.data(), m.size(), random() % 8 != 0, waits ? -1 : 0);
                if (e == EAGAIN) {
                    pollfd q{c.fd(), POLLOUT, 0};
                    ::poll(&q, 1, -1);
                }
            }
            wrong += e != 0;
            if (random() % 64 == 0) {
                c.flush();
                std::this_thread::sleep_for(std::chrono::microseconds(random() % 50));
            }
        }
        c.finish();
    };
    auto receive_all = [&](channel& c) {
        std::minstd_rand random(seed + 1);
        for (unsigned i = 0; i <= count; ++i) {
            const std::byte* at = nullptr;
            size_t n = 0;
            int e = EAGAIN;
            while (e == EAGAIN) {
                e = c.peek(random() % 4 != 0 ? -1 : 0, at, n);
                if (e == EAGAIN) {
                    pollfd q{c.fd(), POLLIN, 0};
                    ::poll(&q, 1, -1);
                }
            }
            if (i == count) {
                wrong += e != ENODATA;
                return;
            }
            auto wanted = bytes_of(size_of(i), i);
            if (e != 0 || !std::ranges::equal(wanted, std::span(at, n))) {
                ++wrong;
                return;
            }
            c.release();
            if (random() % 64 == 0) {
                std::this_thread::sleep_for(std::chrono::microseconds(random() % 50));
            }
        }
    };
    std::thread threads[] = {std::thread([&] { send_all(*p.a); }), std::thread([&] { receive_all(*p.b); }),
                             std::thread([&] { send_all(*p.b); }), std::thread([&] { receive_all(*p.a); })};
    for (auto& t : threads) {
        t.join();
    }
    EXPECT_EQ(wrong.load(), 0u) << "seed " << seed;
}

TEST(channel, threads_exchange_messages_of_all_sizes) {
    const unsigned seed = std::random_device{}();
    exchange(4096, 0, 20000, seed);
    exchange(4096, 20, 20000, seed);
    exchange(65536, 20, 20000, seed);
}

}  // namespace
}  // namespace vmsgr::client
