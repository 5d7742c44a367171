#include "keeper/watch.hh"

#include <gtest/gtest.h>

#include <memory>

namespace vmsgr::keeper {

namespace {

struct watched : testing::Test {
    std::unique_ptr<board> b = std::make_unique<board>();
    watch w{2, 2000};
    void beat(size_t shard) { b->shard[shard].beats.fetch_add(1); }
    // The shard that is found silent while 0 beats at each look.
    std::optional<size_t> look_for(int64_t ms, int64_t interval_ms) {
        for (int64_t t = 0; t < ms; t += interval_ms) {
            beat(0);
            if (auto found = w.look(*b, interval_ms)) {
                return found;
            }
        }
        return std::nullopt;
    }
};

}  // namespace

TEST_F(watched, a_shard_that_does_not_move_is_found_after_the_limit_and_not_before) {
    EXPECT_EQ(look_for(1750, w.interval_ms()), std::nullopt);
    EXPECT_EQ(look_for(500, w.interval_ms()), 1u);
}

TEST_F(watched, one_beat_is_enough) {
    EXPECT_EQ(look_for(1750, w.interval_ms()), std::nullopt);
    beat(1);
    EXPECT_EQ(look_for(1750, w.interval_ms()), std::nullopt);
}

TEST_F(watched, time_in_which_the_keeper_itself_was_stopped_does_not_count) {
    EXPECT_EQ(w.look(*b, 3'600'000), std::nullopt);
    EXPECT_EQ(w.look(*b, 3'600'000), std::nullopt);
}

TEST_F(watched, one_that_a_debugger_holds_has_its_time_again) {
    look_for(1750, w.interval_ms());
    w.excuse(1);
    EXPECT_EQ(look_for(1750, w.interval_ms()), std::nullopt);
    EXPECT_EQ(look_for(500, w.interval_ms()), 1u);
}

TEST(watch, without_a_limit_nothing_is_found) {
    board b;
    watch w(1, 0);
    EXPECT_EQ(w.interval_ms(), 0);
    EXPECT_EQ(w.look(b, 1'000'000), std::nullopt);
}

TEST(watch, looks_often_enough_for_its_limit) {
    for (int64_t limit_ms : {100, 2000, 60'000}) {
        EXPECT_LE(watch(1, limit_ms).interval_ms() * 4, limit_ms);
    }
}

}  // namespace vmsgr::keeper
