#include "shm/wake.hh"

#include <sys/stat.h>

#include <random>

#include "shm/tests/ends.hh"

namespace vmsgr::shm {
namespace {

TEST(ring, bytes_come_out_as_they_went_in) {
    const unsigned seed = std::random_device{}();
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 rng(seed);
    for (uint32_t ring_bytes : {4096u, 65536u}) {
        ends e(ring_bytes);
        uint64_t in = 0, out = 0;
        while (out < 20u << 20) {
            in += e.put(rng() % (2 * ring_bytes));
            out += e.get(rng() % (2 * ring_bytes));
            ASSERT_LE(out, in);
            ASSERT_LE(in - out, ring_bytes);
        }
        out += e.get(ring_bytes);
        EXPECT_EQ(in, out);
    }
}

TEST(ring, full_ring_takes_nothing_and_empty_ring_gives_nothing) {
    ends e;
    EXPECT_EQ(e.get(1), 0u);
    EXPECT_EQ(e.put(5000), 4096u);
    EXPECT_EQ(e.put(1), 0u);
    EXPECT_EQ(e.get(1), 1u);
    EXPECT_EQ(e.put(5000), 1u);
}

TEST(ring, pieces_wrap_at_the_end) {
    std::byte memory[16];
    auto p = ring_pieces(memory, 16, 14, 5);
    EXPECT_EQ(p.count(), 2);
    EXPECT_EQ(p.iov[0].iov_base, memory + 14);
    EXPECT_EQ(p.iov[0].iov_len, 2u);
    EXPECT_EQ(p.iov[1].iov_base, memory);
    EXPECT_EQ(p.iov[1].iov_len, 3u);
    EXPECT_EQ(ring_pieces(memory, 16, 16, 16).count(), 1);
}

TEST(ring, indices_pass_the_end_of_64_bits) {
    ends e;
    const uint64_t near_end = ~0ull - 1000;
    e.tx = {near_end, near_end};
    e.rx = {near_end, near_end, 0};
    e.words().head.store(near_end);
    e.words().tail.store(near_end);
    for (int i = 0; i < 10; ++i) {
        EXPECT_EQ(e.put(700), 700u);
        EXPECT_EQ(e.get(700), 700u);
    }
    EXPECT_LT(e.tx.head, 10'000u);
}

size_t resident_bytes(const ends& e) {
    struct stat st{};
    ::fstat(e.memory.fd.get(), &st);
    return size_t(st.st_blocks) * 512;
}

TEST(ring, what_is_read_as_it_comes_stays_in_few_pages) {
    ends e(1u << 20);
    for (int i = 0; i < 10'000; ++i) {
        ASSERT_EQ(e.put(1000), 1000u);
        ASSERT_EQ(e.get(1000), 1000u);
    }
    EXPECT_LE(resident_bytes(e), size_t(64) << 10);
}

TEST(ring, unread_bytes_keep_their_places) {
    ends e(1u << 20);
    for (int i = 0; i < 10'000; ++i) {
        ASSERT_EQ(e.put(999), 999u);
        ASSERT_EQ(e.get(i % 100 == 0 ? 1'000'000 : 990), i % 100 == 0 ? 999u + 9 * (i == 0 ? 0 : 99) : 990u);
        ASSERT_EQ(e.words().base.load() % cache_line, 0u);
    }
}

TEST(ring, memory_behind_a_burst_goes_back) {
    constexpr uint32_t ring = 8u << 20;
    ends e(ring);
    EXPECT_EQ(e.put(ring), ring);
    EXPECT_EQ(e.get(ring), ring);
    EXPECT_GE(resident_bytes(e), size_t(ring));
    EXPECT_EQ(e.put(10), 10u);
    EXPECT_LE(resident_bytes(e), size_t(ring_bytes_kept) + (64u << 10));
    EXPECT_EQ(e.get(10), 10u);
    // A second one right after it may keep its pages: to give them back each time costs more than it brings.
    EXPECT_EQ(e.put(ring), ring);
    EXPECT_EQ(e.get(ring), ring);
    EXPECT_EQ(e.put(10), 10u);
    EXPECT_EQ(e.get(10), 10u);
}

TEST(ring, holds_no_more_than_both_ends_allow) {
    ends e(65536);
    e.tx.most = {.own = 5000, .reader = 1000};
    EXPECT_EQ(e.put(100'000), 6000u);
    e.receiver.set_window(3000);
    EXPECT_EQ(e.put(100'000), 2000u);
    e.receiver.set_window(1);
    EXPECT_EQ(e.put(100'000), 0u) << "smaller than what lies there";
    EXPECT_EQ(e.get(1000), 1000u);
    EXPECT_EQ(e.put(100'000), 304u) << "a window counts as " << window_min << " at least";
    e.receiver.set_window(~0u);
    EXPECT_EQ(e.put(100'000), 65536u - 7304);
    EXPECT_EQ(e.get(100'000), 65536u);
}

TEST(ring, writer_at_its_bound_shows_no_room_until_something_is_read) {
    ends e(65536);
    e.tx.most = {.own = 3000, .reader = 1000};
    EXPECT_EQ(e.put(4000), 4000u);
    bool room = true;
    EXPECT_EQ(e.sender.await_space(e.producer_bell, room), look::ok);
    EXPECT_FALSE(room);
    EXPECT_FALSE(wait_for(e.producer_bell.fd(), POLLOUT, 0));
    EXPECT_EQ(e.get(1), 1u);
    e.receiver.relieve(e.consumer_bell);
    EXPECT_TRUE(wait_for(e.producer_bell.fd(), POLLOUT, 0));
}

TEST(ring, rejects_head_beyond_capacity) {
    ends e;
    e.put(100);
    size_t n = 0;
    for (uint64_t head : {100ull + 4096, 4097ull, 1ull << 40, ~0ull}) {
        e.words().head.store(head);
        EXPECT_EQ(e.receiver.data_bytes(n), look::bad_index) << head;
    }
    e.words().head.store(4096);
    EXPECT_EQ(e.receiver.data_bytes(n), look::ok);
    EXPECT_EQ(n, 4096u);
}

TEST(ring, rejects_head_that_goes_back) {
    ends e;
    e.put(100);
    size_t n = 0;
    ASSERT_EQ(e.receiver.data_bytes(n), look::ok);
    e.words().head.store(99);
    EXPECT_EQ(e.receiver.data_bytes(n), look::bad_index);
}

TEST(ring, rejects_tail_beyond_head_and_tail_that_goes_back) {
    ends e;
    e.put(100);
    size_t n = 0;
    for (uint64_t tail : {101ull, 1ull << 40, ~0ull}) {
        e.words().tail.store(tail);
        EXPECT_EQ(e.sender.free_bytes(n), look::bad_index) << tail;
    }
    e.words().tail.store(60);
    ASSERT_EQ(e.sender.free_bytes(n), look::ok);
    EXPECT_EQ(n, 4096u - 40);
    e.words().tail.store(59);
    EXPECT_EQ(e.sender.free_bytes(n), look::bad_index);
}

TEST(ring, random_indices_of_a_peer_never_lead_outside) {
    const unsigned seed = std::random_device{}();
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 rng(seed);
    ends e;
    for (int i = 0; i < 200'000; ++i) {
        uint64_t base = rng() % 3 == 0 ? rng() : e.rx.tail + rng() % 10'000 - 5'000;
        e.words().head.store(base);
        e.words().tail.store(base + rng() % 10'000 - 5'000);
        size_t n = 0;
        if (e.receiver.data_bytes(n) == look::ok) {
            ASSERT_LE(n, 4096u);
            auto p = e.receiver.data(n);
            ASSERT_EQ(p.bytes(), n);
            e.receiver.consume(rng() % (n + 1));
        }
        if (e.sender.free_bytes(n) == look::ok) {
            ASSERT_LE(n, 4096u);
            e.sender.publish(rng() % (n + 1));
        }
    }
}

TEST(ring, first_byte_rings_once_and_more_bytes_do_not) {
    ends e;
    e.put(10);
    e.sender.wake(e.producer_bell);
    e.put(10);
    e.sender.wake(e.producer_bell);
    EXPECT_EQ(e.words().tokens_sent.load(), 1u);
    int err = 0;
    EXPECT_EQ(look_at_bell(e.consumer_bell.fd(), false, err), bell_look::token);
}

TEST(ring, descriptor_is_readable_exactly_while_there_is_data) {
    ends e;
    int err = 0;
    for (int round = 0; round < 100; ++round) {
        e.put(10);
        e.sender.wake(e.producer_bell);
        ASSERT_EQ(look_at_bell(e.consumer_bell.fd(), false, err), bell_look::token);
        e.get(4);
        e.receiver.relieve(e.consumer_bell);
        ASSERT_EQ(look_at_bell(e.consumer_bell.fd(), false, err), bell_look::token) << "data left";
        e.get(6);
        ASSERT_TRUE(e.receiver.settle(e.consumer_bell));
        ASSERT_EQ(look_at_bell(e.consumer_bell.fd(), false, err), bell_look::nothing);
    }
}

TEST(ring, full_ring_takes_writability_and_half_free_gives_it_back) {
    ends e;
    bool room = true;
    e.put(4096);
    e.sender.wake(e.producer_bell);
    ASSERT_EQ(e.sender.await_space(e.producer_bell, room), look::ok);
    EXPECT_FALSE(room);
    EXPECT_FALSE(e.producer_bell.writable());
    e.get(1000);
    e.receiver.relieve(e.consumer_bell);
    EXPECT_FALSE(e.producer_bell.writable()) << "a little room is not worth a wake-up";
    e.get(1500);
    e.receiver.relieve(e.consumer_bell);
    EXPECT_TRUE(e.producer_bell.writable());
    int err = 0;
    EXPECT_EQ(look_at_bell(e.consumer_bell.fd(), false, err), bell_look::token) << "data is left";
}

TEST(ring, emptying_a_full_ring_gives_writability_back) {
    ends e;
    bool room = true;
    e.put(4096);
    e.sender.wake(e.producer_bell);
    ASSERT_EQ(e.sender.await_space(e.producer_bell, room), look::ok);
    e.get(4096);
    EXPECT_TRUE(e.receiver.settle(e.consumer_bell));
    EXPECT_TRUE(e.producer_bell.writable());
}

TEST(ring, await_space_sees_room_that_came_meanwhile) {
    ends e;
    bool room = false;
    e.put(4096);
    e.get(1);
    ASSERT_EQ(e.sender.await_space(e.producer_bell, room), look::ok);
    EXPECT_TRUE(room);
    EXPECT_EQ(e.words().tokens_sent.load(), 0u);
}

TEST(ring, awake_consumer_costs_no_token) {
    ends e;
    e.receiver.stay_awake();
    for (int i = 0; i < 100; ++i) {
        e.put(10);
        e.sender.wake(e.producer_bell);
        e.get(10);
    }
    EXPECT_EQ(e.words().tokens_sent.load(), 0u);
}

TEST(ring, flags_and_error_arrive) {
    ends e;
    e.sender.set_more(true);
    EXPECT_EQ(e.receiver.flags(), ring_more);
    e.sender.set_more(false);
    e.sender.set_flags(ring_fin);
    EXPECT_EQ(e.receiver.flags(), ring_fin);
    e.sender.reset(104);
    EXPECT_EQ(e.receiver.flags(), ring_fin | ring_reset);
    EXPECT_EQ(e.receiver.error(), 104);
}

TEST(ring, what_is_held_back_shows_with_the_next_publish_or_when_the_producer_is_gone) {
    ends e;
    size_t there = 0;
    e.receiver.take_what_was_held_back();
    e.sender.hold_back(30);
    EXPECT_EQ(e.sender.held_back(), 30u);
    EXPECT_FALSE(e.receiver.has_data());
    e.sender.show_held_back(10, [] {});
    ASSERT_EQ(e.receiver.data_bytes(there), look::ok);
    EXPECT_EQ(there, 20u);
    e.sender.publish(5);
    ASSERT_EQ(e.receiver.data_bytes(there), look::ok);
    EXPECT_EQ(there, 35u);
    EXPECT_EQ(e.sender.held_back(), 0u);
    e.sender.hold_back(7);
    e.receiver.take_what_was_held_back();
    ASSERT_EQ(e.receiver.data_bytes(there), look::ok);
    EXPECT_EQ(there, 42u);
    e.words().held.store(~uint64_t{0});  // a lie
    e.receiver.take_what_was_held_back();
    ASSERT_EQ(e.receiver.data_bytes(there), look::ok);
    EXPECT_EQ(there, 42u);
}

TEST(ring, reader_with_a_low_mark_is_sent_a_token_with_the_last_byte_of_it) {
    ends e;
    int err = 0;
    const auto shows = [&] { return look_at_bell(e.consumer_bell.fd(), false, err) == bell_look::token; };
    const auto put = [&](size_t n) {
        e.put(n);
        e.sender.wake(e.producer_bell);
    };
    ASSERT_TRUE(e.receiver.settle(e.consumer_bell, 10));
    put(4);
    put(5);
    EXPECT_FALSE(shows());
    put(1);
    EXPECT_TRUE(shows());
    e.get(3);
    ASSERT_TRUE(e.receiver.settle(e.consumer_bell, 10));  // seven are left
    EXPECT_FALSE(shows());
    put(3);
    EXPECT_TRUE(shows());
    // Lowered to what lies there: nobody sends a token for it.
    ASSERT_TRUE(e.receiver.settle(e.consumer_bell, 100));
    EXPECT_FALSE(shows());
    EXPECT_FALSE(e.receiver.settle(e.consumer_bell, 5));
    EXPECT_FALSE(e.receiver.may_have_sent(1, 0));
    put(1);
    EXPECT_TRUE(shows());
}

TEST(ring, token_comes_for_a_mark_that_is_passed_before_its_producer_looks) {
    ends e;
    int err = 0;
    ASSERT_TRUE(e.receiver.settle(e.consumer_bell, 10));
    e.put(12);  // and has not looked yet
    EXPECT_TRUE(e.receiver.settle(e.consumer_bell, 10));
    e.sender.wake(e.producer_bell);
    EXPECT_EQ(look_at_bell(e.consumer_bell.fd(), false, err), bell_look::token);
}

TEST(ring, settle_that_finds_data_withdraws_its_announcement) {
    ends e;
    e.receiver.stay_awake();
    e.put(10);
    EXPECT_FALSE(e.receiver.settle(e.consumer_bell));
    EXPECT_EQ(e.words().consumer_waits.load(), 0u);
    e.sender.wake(e.producer_bell);
    EXPECT_EQ(e.words().tokens_sent.load(), 0u);
}

TEST(ring, counts_are_asked_of_the_socket_after_a_holder_died) {
    ends e;
    int err = 0;
    e.put(10);
    e.words().tokens_sent.fetch_add(7);  // counted, and killed before it was sent
    e.sender.recover(e.producer_bell);
    ASSERT_EQ(look_at_bell(e.consumer_bell.fd(), false, err), bell_look::token);
    for (int round = 0; round < 10; ++round) {
        e.get(10);
        ASSERT_TRUE(e.receiver.settle(e.consumer_bell));
        ASSERT_EQ(look_at_bell(e.consumer_bell.fd(), false, err), bell_look::nothing) << round;
        e.put(10);
        e.sender.wake(e.producer_bell);
        ASSERT_EQ(look_at_bell(e.consumer_bell.fd(), false, err), bell_look::token) << round;
    }
}

TEST(ring, reader_that_lost_a_holder_counts_anew) {
    ends e;
    int err = 0;
    e.put(10);
    e.sender.wake(e.producer_bell);
    e.rx.tokens_taken += 3;  // taken by one that died before it said so
    e.receiver.recover();
    e.get(10);
    ASSERT_TRUE(e.receiver.settle(e.consumer_bell));
    EXPECT_EQ(look_at_bell(e.consumer_bell.fd(), false, err), bell_look::nothing);
}

TEST(ring, token_to_a_dead_peer_is_not_counted) {
    ends e;
    e.bells.other.reset();
    e.put(10);
    e.sender.wake(e.producer_bell);
    EXPECT_EQ(e.words().tokens_sent.load(), 0u);
    EXPECT_EQ(e.words().consumer_waits.load(), 1u);
}

}  // namespace
}  // namespace vmsgr::shm
