#include "conf/words.hh"

#include <gtest/gtest.h>

namespace vmsgr::conf {
namespace {

constexpr std::string_view commands[] = {"run", "status", "conns", "routes", "explain"};

TEST(words, nearest_finds_typing_mistakes) {
    EXPECT_EQ(nearest("stauts", commands), "status");
    EXPECT_EQ(nearest("conn", commands), "conns");
    EXPECT_EQ(nearest("explian", commands), "explain");
    EXPECT_EQ(nearest("rnu", commands), "run");
    EXPECT_EQ(nearest("frobnicate", commands), "");
    EXPECT_EQ(nearest("", commands), "");
    EXPECT_EQ(nearest(std::string(100'000, 'x'), commands), "");
}

TEST(words, quote_stays_one_short_line) {
    EXPECT_EQ(quote("a\nb"), "'a\\x0ab'");
    EXPECT_EQ(quote("\xff"), "'\\xff'");
    EXPECT_LT(quote(std::string(10'000, 'x')).size(), 100u);
}

TEST(words, sizes_use_the_largest_whole_unit) {
    EXPECT_EQ(size_text(262144), "256K");
    EXPECT_EQ(size_text(1ull << 30), "1G");
    EXPECT_EQ(size_text(1000), "1000");
    EXPECT_EQ(size_text(0), "0");
}

}  // namespace
}  // namespace vmsgr::conf
