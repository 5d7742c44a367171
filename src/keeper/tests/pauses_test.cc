#include "keeper/pauses.hh"

#include <gtest/gtest.h>

namespace vmsgr::keeper {

TEST(pauses, a_worker_that_worked_is_followed_at_once) {
    pauses p;
    for (int64_t now = 1000; now < 100'000; now += 1000) {
        EXPECT_EQ(p.after_end(now, now - pauses::quick_ms), 0);
    }
}

TEST(pauses, workers_that_end_at_once_come_later_and_later_and_then_no_more) {
    pauses p;
    int64_t last = -1;
    for (size_t i = 0; i < pauses::pause_ms.size(); ++i) {
        const auto pause = p.after_end(int64_t(i) * 5000, std::nullopt);
        ASSERT_TRUE(pause);
        EXPECT_GT(*pause, last);
        last = *pause;
    }
    EXPECT_FALSE(p.after_end(50'000, std::nullopt));
}

TEST(pauses, ready_for_a_moment_is_no_work) {
    pauses p;
    for (size_t i = 0; i < pauses::pause_ms.size(); ++i) {
        EXPECT_TRUE(p.after_end(1000 * int64_t(i), 1000 * int64_t(i) - pauses::quick_ms + 1));
    }
    EXPECT_FALSE(p.after_end(9000, 9000));
}

TEST(pauses, one_that_worked_forgives_those_before) {
    pauses p;
    for (int round = 0; round < 3; ++round) {
        for (size_t i = 0; i < pauses::pause_ms.size(); ++i) {
            EXPECT_TRUE(p.after_end(100'000 * round, std::nullopt));
        }
        EXPECT_EQ(p.after_end(100'000 * round + 5000, 100'000 * round), 0);
    }
}

TEST(pauses, who_is_killed_by_others_is_not_to_blame) {
    pauses p;
    p.after_end(0, std::nullopt, true);
    p.after_end(0, std::nullopt);
    EXPECT_EQ(p.blamed(), 1u);
    p.after_end(1000, 1000 - pauses::quick_ms, true);
    EXPECT_EQ(p.blamed(), 0u);
}

TEST(pauses, so_many_in_a_window_are_too_many_however_they_lived) {
    pauses p;
    for (unsigned i = 0; i < pauses::ends_max; ++i) {
        ASSERT_TRUE(p.after_end(i, int64_t(i) - pauses::quick_ms));
    }
    EXPECT_FALSE(p.after_end(1000, 0));
    EXPECT_TRUE(p.after_end(pauses::window_ms + 1, 0));
}

}  // namespace vmsgr::keeper
