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

TEST(error, a_text_is_made_of_its_parts) {
    const auto e =
        fail(EINVAL, "shared memory of ", uint64_t(1) << 40, std::string(" bytes, expected "), -1, ".").error();
    EXPECT_EQ(e.errnum, EINVAL);
    EXPECT_EQ(e.text, "shared memory of 1099511627776 bytes, expected -1.");
}

TEST(error, an_errno_that_the_kernel_does_not_have_is_named) {
    errno = 99999;
    EXPECT_EQ(os_error("x").text, "x: error 99999");
}

TEST(error, what_is_too_long_loses_its_beginning) {
    error_text whole(std::string(error_text::bytes_max, 'a'));
    EXPECT_EQ(whole, std::string(error_text::bytes_max, 'a'));
    whole += "; the next step";
    EXPECT_EQ(whole.view().size(), error_text::bytes_max);
    EXPECT_TRUE(whole.view().starts_with("...a"));
    EXPECT_TRUE(whole.view().ends_with("a; the next step"));
    EXPECT_EQ(whole.c_str()[error_text::bytes_max], 0);
    const error_text longer(std::string(4 * error_text::bytes_max, 'b') + "end");
    EXPECT_EQ(longer.view().size(), error_text::bytes_max);
    EXPECT_TRUE(longer.view().starts_with("...b"));
    EXPECT_TRUE(longer.view().ends_with("bend"));
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
