#include "conn/budget.hh"

#include <gtest/gtest.h>

namespace vmsgr::conn {

namespace {

// As session::has_room() of the client library judges.
bool sees_room(const shm::load& l) { return l.enough == 0 || l.used.load() < l.enough; }

TEST(budget, a_share_of_nothing_is_seen_as_such) {
    shm::load shown{};
    usage u(100);
    u.show_in(shown);
    EXPECT_TRUE(sees_room(shown));
    EXPECT_TRUE(u.show_room(0));
    EXPECT_FALSE(sees_room(shown)) << "nothing used, and no room";
    EXPECT_FALSE(u.show_room(1));
    EXPECT_TRUE(sees_room(shown));
    EXPECT_TRUE(u.take());
    EXPECT_FALSE(sees_room(shown));
    EXPECT_FALSE(u.show_room(1000));
    EXPECT_EQ(shown.enough, 1 + 100 - margin_of(100)) << "its own limit is nearer";
}

TEST(budget, another_limit_is_shown_in_the_same_way) {
    shm::load shown{};
    usage u(100);
    u.show_in(shown);
    for (const uint64_t limit : std::initializer_list<uint64_t>{0, 1, 7, 8, 100, 100'000}) {
        u.set_limit(limit);
        const uint64_t room = u.room();
        for (uint64_t i = 0; i < room; ++i) {
            ASSERT_TRUE(sees_room(shown)) << limit;
            ASSERT_TRUE(u.take());
        }
        EXPECT_FALSE(sees_room(shown)) << limit;
        EXPECT_EQ(u.room(), 0u);
        u.give(room);
    }
}

TEST(budget, a_lease_is_of_both_or_of_neither) {
    usage all(10), own(3);
    auto a = lease::take(all, own, 3);
    ASSERT_TRUE(a);
    EXPECT_FALSE(lease::take(all, own));
    EXPECT_EQ(all.used(), 3u);
    usage other(100);
    EXPECT_FALSE(lease::take(all, other, 8));
    EXPECT_EQ(other.used(), 0u);
    a.reset();
    EXPECT_EQ(all.used() + own.used(), 0u);
}

}  // namespace

}  // namespace vmsgr::conn
