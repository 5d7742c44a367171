// What a spinning and a lazy reader do to the doorbell, step by step.
#include <poll.h>

#include <utility>

#include "shm/tests/ends.hh"

namespace vmsgr::shm {
namespace {

bool readable(int fd) {
    pollfd p{fd, POLLIN, 0};
    return ::poll(&p, 1, 0) == 1;
}

struct spinning : ends {
    int fd = consumer_bell.fd();
    spinning() {
        words().consumer_waits.store(0);
        EXPECT_TRUE(receiver.settle(consumer_bell));
    }
    void send(size_t n) {
        EXPECT_EQ(put(n), n);
        sender.wake(producer_bell);
    }
};

TEST(spin, data_up_to_the_mark_brings_no_token) {
    spinning e;
    spin s = e.receiver.begin_spin(10);
    EXPECT_FALSE(e.receiver.spin_over(s));
    e.send(4);
    EXPECT_TRUE(e.receiver.spin_over(s));
    e.send(6);
    EXPECT_FALSE(readable(e.fd));
    EXPECT_EQ(e.get(10), 10u);
    EXPECT_TRUE(e.receiver.settle(e.consumer_bell));
    EXPECT_EQ(e.words().tokens_sent.load(), 0u);
    e.send(1);
    EXPECT_TRUE(readable(e.fd));
}

TEST(spin, the_first_byte_beyond_the_mark_brings_one) {
    spinning e;
    e.receiver.begin_spin(10);
    e.send(10);
    e.send(1);
    EXPECT_TRUE(readable(e.fd));
    EXPECT_EQ(e.get(10), 10u);
    e.receiver.relieve(e.consumer_bell);
    EXPECT_TRUE(readable(e.fd)) << "a partial read leaves the descriptor readable";
}

TEST(spin, given_up_it_waits_as_any_reader) {
    spinning e;
    e.receiver.begin_spin(10);
    EXPECT_TRUE(e.receiver.settle(e.consumer_bell));
    e.send(1);
    EXPECT_TRUE(readable(e.fd));
}

TEST(spin, given_up_with_data_the_announcement_stays) {
    spinning e;
    e.receiver.begin_spin(10);
    e.send(4);
    EXPECT_FALSE(e.receiver.settle(e.consumer_bell));
    EXPECT_EQ(e.words().consumer_waits.load(), announcement::asleep().word());
}

TEST(spin, only_a_standing_announcement_is_raised) {
    spinning e;
    e.words().consumer_waits.store(0);
    e.receiver.begin_spin(10);
    EXPECT_EQ(e.words().consumer_waits.load(), 0u);
    e.words().consumer_waits.store(announcement::mark(5).word());
    e.receiver.begin_spin(10);
    EXPECT_EQ(e.words().consumer_waits.load(), announcement::mark(5).word()) << "another thread's mark stays";
}

TEST(spin, ends_at_fin_and_reset) {
    for (uint32_t flag : {ring_fin, ring_reset}) {
        spinning e;
        spin s = e.receiver.begin_spin(10), w = e.receiver.watch();
        e.sender.set_more(true);
        EXPECT_FALSE(e.receiver.spin_over(s));
        e.sender.set_flags(flag);
        EXPECT_TRUE(e.receiver.spin_over(s));
        EXPECT_TRUE(e.receiver.spin_over(w));
    }
}

TEST(spin, mark_holds_where_indices_wrap) {
    for (uint64_t at : {uint64_t{0}, (uint64_t{1} << 30) - 5, (uint64_t{1} << 32) - 5, ~uint64_t{0} - 4}) {
        const auto mark = announcement::mark(at + 10);
        EXPECT_TRUE(mark.is_content_with(at));
        EXPECT_TRUE(mark.is_content_with(at + 10));
        EXPECT_FALSE(mark.is_content_with(at + 11));
        EXPECT_FALSE(mark.is_content_with(at + 10 + ring_bytes_max));
        EXPECT_TRUE(announcement::mark(at + ring_bytes_max).is_content_with(at));
    }
    EXPECT_FALSE(announcement::asleep().is_content_with(0));
    EXPECT_FALSE(announcement::deciding().is_content_with(0));
}

TEST(spin, marks_no_further_than_a_ring) {
    spinning e;
    e.receiver.begin_spin(~size_t{0});
    EXPECT_EQ(e.words().consumer_waits.load(), announcement::mark(e.receiver.capacity()).word());
}

TEST(lazy, takes_once_more_than_the_limit_lies_unread) {
    spinning e;
    uint32_t takes = 0, before = 0;
    for (int i = 0; i < 100; ++i) {
        e.send(1);
        EXPECT_EQ(e.words().tokens_sent.load(), uint32_t(i) + 1) << "each hand-over is an edge";
        EXPECT_TRUE(e.producer_bell.writable());
        EXPECT_EQ(e.get(1), 1u);
        EXPECT_TRUE(e.receiver.settle_lazily(e.consumer_bell));
        EXPECT_LE(e.consumer_bell.unread(), lazy_tokens_max);
        takes += e.rx.tokens_taken != before;
        before = e.rx.tokens_taken;
    }
    EXPECT_LE(takes, 100 / (lazy_tokens_max + 1));
    EXPECT_TRUE(e.receiver.settle(e.consumer_bell));
    EXPECT_FALSE(readable(e.fd));
}

// --- who turns the announcement into what: the table at the head of wake.hh ---

constexpr announcement states[] = {announcement::awake(), announcement::asleep(), announcement::mark(10),
                                   announcement::deciding()};

// After one event in a state, and how many tokens were sent in it.
template <typename Event>
std::pair<announcement, uint32_t> after(announcement before, Event&& event) {
    spinning e;
    e.words().consumer_waits.store(before.word());
    event(e);
    return {announcement(e.words().consumer_waits.load()), e.words().tokens_sent.load()};
}

TEST(announcement_table, consumer) {
    for (announcement before : states) {
        using none_sent = std::pair<announcement, uint32_t>;
        EXPECT_EQ(after(before, [](spinning& e) { e.receiver.settle(e.consumer_bell); }),
                  none_sent(announcement::asleep(), 0));
        EXPECT_EQ(after(before, [](spinning& e) { e.receiver.announce_with_data(e.consumer_bell); }),
                  none_sent(announcement::asleep(), 0));
        EXPECT_EQ(after(before, [](spinning& e) { e.receiver.stay_awake(); }), none_sent(announcement::awake(), 0));
        EXPECT_EQ(after(before, [](spinning& e) { e.receiver.begin_spin(7); }),
                  none_sent(before == announcement::asleep() ? announcement::mark(7) : before, 0));
    }
}

TEST(announcement_table, consumer_that_finds_data) {
    auto settle = [](spinning& e) {
        e.put(1);
        e.receiver.settle(e.consumer_bell);
    };
    for (announcement before : states) {
        EXPECT_EQ(after(before, settle).first, before.is_awake() ? announcement::awake() : announcement::asleep());
    }
}

TEST(announcement_table, producer) {
    auto send_one = [](spinning& e) { e.send(1); };
    auto send_beyond = [](spinning& e) { e.send(11); };
    auto send_what_is_taken = [](spinning& e) {
        e.put(11);
        e.get(11);
        e.sender.wake(e.producer_bell);
    };
    using result = std::pair<announcement, uint32_t>;
    for (announcement before : states) {
        const bool awake = before.is_awake(), mark = before.is_mark();
        EXPECT_EQ(after(before, send_one), result(mark ? before : announcement::awake(), awake || mark ? 0 : 1));
        EXPECT_EQ(after(before, send_beyond), result(announcement::awake(), awake ? 0 : 1));
        EXPECT_EQ(after(before, send_what_is_taken),
                  result(awake ? announcement::awake() : announcement::asleep(), 0));
    }
}

}  // namespace
}  // namespace vmsgr::shm
