#include "base/text.hh"

#include <errno.h>
#include <gtest/gtest.h>

#include <set>

#include "base/error.hh"
#include "base/random.hh"

namespace vmsgr::base {
namespace {

TEST(text, printable_leaves_one_word_of_visible_characters) {
    EXPECT_EQ(printable("redis-server", 100), "redis-server");
    EXPECT_EQ(printable("redis-server", 5), "redis");
    EXPECT_EQ(printable("a b\tc\nd;e\x7f\x1b[2J", 100), "a?b?c?d?e??[2J");
    EXPECT_EQ(printable("\xc3\xa9", 100), "??");
    EXPECT_EQ(printable("name\0hidden", 11), "name");
    EXPECT_EQ(printable("", 100), "?");
}

TEST(error, os_error_names_the_call_and_the_reason) {
    errno = ENOENT;
    error e = os_error("opening x");
    EXPECT_EQ(e.errnum, ENOENT);
    EXPECT_EQ(e.text, "opening x: No such file or directory");
}

TEST(random, numbers_differ_and_are_not_zero) {
    std::set<uint64_t> seen;
    for (int i = 0; i < 100; ++i) {
        seen.insert(random_u64_nonzero());
    }
    EXPECT_EQ(seen.size(), 100u);
    EXPECT_FALSE(seen.contains(0));
}

}  // namespace
}  // namespace vmsgr::base
