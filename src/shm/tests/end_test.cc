// How one end waits: what wakes it, what ends the wait, and what it says of the other side.
#include "shm/end.hh"

#include "shm/arena.hh"

#include <errno.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "shm/tests/ends.hh"

namespace vmsgr::shm {
namespace {

struct user {
    const end* of = nullptr;
    std::atomic<int> unlocked{0};
    int broke = 0, gone = 0;
    bool ends = false;
    int looks_left = 0;
    bool looks() { return looks_left-- > 0; }
    void unlock() { ++unlocked; }
    bool over() const { return ends; }
    void broke_rules() { ++broke; }
    void left() { ++gone; }
    // For another thread: it sleeps now, or will not.
    void await_sleep() const {
        while (unlocked.load() == 0) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    }
};

// Both ends in one process.
struct pair {
    new_arena arena = std::move(create_arena(1, ring_bytes_min).value());
    conduit memory = arena.memory.at(0);
    bell_pair bells = std::move(make_bell().value());
    tx_state tx[2];
    rx_state rx[2];

    pair() { renew(memory.header()); }
    end of(unsigned which) {
        auto& m = memory;
        return {m.header(), m.ring_data(0), m.ring_data(1), m.capacity,
                which,      tx[which],      rx[which],      which == 0 ? bells.program.get() : bells.other.get()};
    }
    void put(unsigned which, size_t n) {
        auto e = of(which);
        size_t room = 0;
        EXPECT_EQ(e.out.free_bytes(room), look::ok);
        ASSERT_GE(room, n);
        e.out.publish(n);
        e.sent();
    }
};

TEST(end, each_produces_what_the_other_consumes) {
    pair p;
    p.put(0, 3);
    p.put(1, 5);
    size_t n = 0;
    EXPECT_EQ(p.of(1).in.data_bytes(n), look::ok);
    EXPECT_EQ(n, 3u);
    EXPECT_EQ(p.of(0).in.data_bytes(n), look::ok);
    EXPECT_EQ(n, 5u);
}

TEST(end, reader_is_woken_by_data) {
    pair p;
    auto e = p.of(1);
    user u;
    waiting w;
    std::jthread writer([&] {
        u.await_sleep();
        p.put(0, 1);
    });
    for (const base::deadline until(10'000); !e.in.has_data();) {
        ASSERT_EQ(e.wait_readable(u, w, until), woken::look);
    }
    EXPECT_EQ(u.unlocked, 1);
    EXPECT_FALSE(w.hung_up);
}

TEST(end, reader_with_data_does_not_sleep) {
    pair p;
    p.put(0, 1);
    auto e = p.of(1);
    user u;
    waiting w;
    ::alarm(10);
    EXPECT_EQ(e.wait_readable(u, w, base::deadline(-1)), woken::look);
    ::alarm(0);
}

TEST(end, deadlines_end_a_wait) {
    pair p;
    auto e = p.of(1);
    user u;
    waiting w;
    const base::deadline brief(5);
    for (const base::deadline& until : {base::deadline(0), brief, brief}) {
        EXPECT_EQ(e.wait_readable(u, w, until), woken::failed);
        EXPECT_EQ(w.errnum, ETIMEDOUT);
    }
}

TEST(end, waits_as_the_descriptor_does_where_no_deadline_is_given) {
    pair p;
    auto e = p.of(1);
    user u;
    waiting w;
    const timeval brief{0, 5000};
    ASSERT_EQ(::setsockopt(p.bells.other.get(), SOL_SOCKET, SO_RCVTIMEO, &brief, sizeof brief), 0);
    EXPECT_EQ(e.wait_readable(u, w, std::nullopt), woken::failed);
    EXPECT_EQ(w.errnum, EAGAIN);
}

TEST(end, its_user_may_look_instead) {
    pair p;
    auto e = p.of(1);
    user u;
    u.looks_left = 2;
    waiting w;
    EXPECT_EQ(e.wait_readable(u, w, base::deadline(-1)), woken::look);
    EXPECT_EQ(e.wait_writable(u, w, ring_bytes_min, base::deadline(-1)), woken::look);
    EXPECT_EQ(u.unlocked, 0);
    EXPECT_EQ(e.wait_readable(u, w, base::deadline(0)), woken::failed);
}

TEST(end, its_user_may_end_a_wait_before_it_sleeps) {
    pair p;
    auto e = p.of(1);
    user u;
    u.ends = true;
    waiting w;
    EXPECT_EQ(e.wait_readable(u, w, std::nullopt), woken::over);
    EXPECT_EQ(u.unlocked, 0);
}

TEST(end, reader_learns_of_a_hang_up_after_one_more_look) {
    pair p;
    auto e = p.of(1);
    user u;
    waiting w;
    p.bells.program.reset();
    EXPECT_EQ(e.wait_readable(u, w, base::deadline(-1)), woken::look);
    EXPECT_TRUE(w.hung_up);
    EXPECT_EQ(u.gone, 0);
    EXPECT_EQ(e.wait_readable(u, w, base::deadline(-1)), woken::look);
    EXPECT_EQ(u.gone, 1);
}

TEST(end, bytes_that_are_no_tokens_break_the_rules) {
    pair p;
    auto e = p.of(1);
    user u;
    waiting w;
    p.put(0, 1);  // its token is counted
    char stranger = 'x', token = 0;
    ASSERT_EQ(::recv(p.bells.other.get(), &token, 1, 0), 1);
    ASSERT_EQ(::send(p.bells.program.get(), &stranger, 1, 0), 1);
    e.in.consume(1);
    e.wait_readable(u, w, base::deadline(0));
    EXPECT_EQ(u.broke, 1);
}

TEST(end, a_look_without_taking_tells_tokens_from_other_bytes) {
    pair p;
    auto e = p.of(1);
    ASSERT_TRUE(e.emptied());
    EXPECT_FALSE(e.holds_foreign_bytes());
    p.put(0, 1);
    EXPECT_FALSE(e.holds_foreign_bytes()) << "it is counted";
    ASSERT_TRUE(bell(p.bells.program.get()).send_token());
    EXPECT_TRUE(e.holds_foreign_bytes()) << "and this one is not";
    p.of(0).out.count_token();
    EXPECT_FALSE(e.holds_foreign_bytes());
    const char stranger = 'x';
    ASSERT_EQ(::send(p.bells.program.get(), &stranger, 1, 0), 1);
    p.of(0).out.count_token();
    EXPECT_TRUE(e.holds_foreign_bytes());
}

TEST(end, resident_tokens_are_not_foreign) {
    pair p;
    ASSERT_TRUE(bell(p.bells.program.get()).send_token());
    auto& m = p.memory;
    end e(m.header(), m.ring_data(0), m.ring_data(1), m.capacity, 1, p.tx[1], p.rx[1], p.bells.other.get(), 1);
    EXPECT_FALSE(e.holds_foreign_bytes());
    EXPECT_TRUE(p.of(1).holds_foreign_bytes()) << "where none is resident";
}

TEST(end, counted_tokens_are_taken_and_no_others) {
    pair p;
    auto e = p.of(1);
    ASSERT_TRUE(e.emptied());
    p.put(0, 1);
    ASSERT_TRUE(bell(p.bells.program.get()).send_token());
    EXPECT_TRUE(e.in.take_counted(e.doorbell));
    EXPECT_EQ(e.doorbell.unread(), 1u);
    p.of(0).out.count_token();
    p.of(0).out.count_token();
    EXPECT_FALSE(e.in.take_counted(e.doorbell)) << "one is under way";
    EXPECT_EQ(e.doorbell.unread(), 0u);
    e.in.take_those_here(e.doorbell);
    EXPECT_EQ(p.rx[1].tokens_taken, 2u) << "it does not count what is not here";
    e.in.skip_counted();
    EXPECT_TRUE(e.in.take_counted(e.doorbell));
}

TEST(end, a_full_ring_makes_the_doorbell_unwritable_until_there_is_room) {
    pair p;
    auto writer = p.of(0);
    auto reader = p.of(1);
    EXPECT_FALSE(writer.awaits_room());
    p.put(0, ring_bytes_min);
    EXPECT_TRUE(writer.awaits_room());
    EXPECT_FALSE(writer.doorbell.writable());
    size_t n = 0;
    ASSERT_EQ(reader.in.data_bytes(n), look::ok);
    reader.in.consume(ring_bytes_min / 2);
    reader.freed();
    EXPECT_TRUE(writer.doorbell.writable());
    EXPECT_FALSE(writer.awaits_room());
}

TEST(end, tokens_for_nothing_without_end_break_the_rules) {
    pair p;
    auto e = p.of(1);
    user u;
    waiting w;
    ASSERT_TRUE(bell(p.bells.program.get()).send_token());  // not counted: nobody takes it
    int waits = 0;
    while (u.broke == 0 && ++waits < 5000) {
        ASSERT_EQ(e.wait_readable(u, w, base::deadline(-1)), woken::look);
    }
    EXPECT_EQ(u.broke, 1);
    EXPECT_GT(waits, 100) << "now and then one is spurious";
}

TEST(end, writer_is_woken_by_room) {
    pair p;
    p.put(0, ring_bytes_min);
    auto e = p.of(0);
    user u;
    waiting w;
    std::jthread reader([&] {
        u.await_sleep();
        auto r = p.of(1);
        size_t n = 0;
        EXPECT_EQ(r.in.data_bytes(n), look::ok);
        r.in.consume(n);
        r.emptied();
    });
    size_t free = 0;
    for (const base::deadline until(10'000); free == 0;) {
        ASSERT_EQ(e.wait_writable(u, w, 1, until), woken::look);
        ASSERT_EQ(e.out.free_bytes(free), look::ok);
    }
    EXPECT_EQ(u.unlocked, 1);
    EXPECT_EQ(u.gone, 0);
}

TEST(end, writer_gives_up_at_its_deadline) {
    pair p;
    p.put(0, ring_bytes_min);
    auto e = p.of(0);
    user u;
    waiting w;
    for (int ms : {0, 5}) {
        EXPECT_EQ(e.wait_writable(u, w, 1, base::deadline(ms)), woken::failed);
        EXPECT_EQ(w.errnum, ETIMEDOUT);
    }
}

TEST(end, writer_learns_that_the_other_end_is_gone) {
    pair p;
    p.put(0, ring_bytes_min);
    p.bells.other.reset();
    auto e = p.of(0);
    user u;
    waiting w;
    EXPECT_EQ(e.wait_writable(u, w, 1, base::deadline(-1)), woken::look);
    EXPECT_EQ(u.gone, 1);
}

TEST(end, closed_descriptor_fails_a_wait_for_room) {
    pair p;
    p.put(0, ring_bytes_min);
    p.bells.program.reset();
    auto& m = p.memory;
    end e(m.header(), m.ring_data(0), m.ring_data(1), m.capacity, 0, p.tx[0], p.rx[0], 1'000'000);
    user u;
    waiting w;
    EXPECT_EQ(e.wait_writable(u, w, 1, base::deadline(-1)), woken::failed);
    EXPECT_EQ(w.errnum, EBADF);
}

// --- spinning ---

constexpr int64_t limit_ns = 20'000;

// Waits until the account spins again.
int skipped(spin_account& a) {
    int n = 0;
    while (!a.pays()) {
        ++n;
    }
    return n;
}

TEST(spin_account, failures_keep_it_away_for_longer_and_longer) {
    spin_account a;
    int before = 0;
    for (int trial = 0; trial < 20; ++trial) {
        EXPECT_TRUE(a.pays());
        int failures = 0, away = 0;
        while (away == 0 && ++failures < 100) {
            a.note(limit_ns, 0, limit_ns);
            away = skipped(a);
        }
        EXPECT_LE(failures, 8);
        EXPECT_GE(away, before);
        EXPECT_LE(away, int(spin_account::pause_longest));
        before = away;
    }
    EXPECT_EQ(before, int(spin_account::pause_longest));
}

TEST(spin_account, successes_that_save_what_they_cost_go_on_for_ever) {
    spin_account a;
    for (int i = 0; i < 10'000; ++i) {
        a.note(limit_ns, limit_ns, limit_ns);
        ASSERT_TRUE(a.pays());
    }
}

TEST(spin_account, successes_that_cost_more_than_they_save_stop) {
    spin_account a;
    int n = 0;
    while (a.pays() && ++n < 1000) {
        a.note(limit_ns, limit_ns / 4, limit_ns);
    }
    EXPECT_LT(n, 10);
}

TEST(spin_account, a_good_one_forgives_some_failures) {
    spin_account a;
    for (int i = 0; i < 100; ++i) {
        a.note(0, limit_ns, limit_ns);
    }
    for (int i = 0; i < 4; ++i) {
        a.note(limit_ns, 0, limit_ns);
        EXPECT_TRUE(a.pays());
    }
}

TEST(look_until, ends_when_it_found_something_or_its_time_is_over) {
    int looks = 0;
    auto r = look_until(tight, 1'000'000'000, [&] { return ++looks == 100; });
    EXPECT_TRUE(r.found);
    EXPECT_EQ(looks, 100);
    const int64_t began = base::now_ns();
    r = look_until(tight, 2'000'000, [] { return false; });
    EXPECT_FALSE(r.found);
    EXPECT_GE(r.took_ns, 2'000'000);
    EXPECT_GE(base::now_ns() - began, r.took_ns);
}

TEST(look_until, sees_that_it_was_not_running) {
    const auto r = look_until(system_calls, 20'000'000, [] {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return false;
    });
    EXPECT_TRUE(r.lost_processor);
}

TEST(patience, gathering_in_vain_stops_at_once) {
    patience p;
    ASSERT_TRUE(p.pays(limit_ns));
    p.gather(limit_ns, [] { return false; }, [] { return false; });
    EXPECT_FALSE(p.pays(limit_ns));
}

TEST(patience, no_budget_never_pays) {
    patience p;
    EXPECT_FALSE(p.pays(0));
}

TEST(patience, who_has_sent_awaits_an_answer) {
    patience p;
    EXPECT_FALSE(p.awaits_answer(0));
    EXPECT_TRUE(p.awaits_answer(10));
    EXPECT_FALSE(p.awaits_answer(10));
}

}  // namespace
}  // namespace vmsgr::shm
