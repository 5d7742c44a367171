#include "trunk/admission.hh"

#include <gtest/gtest.h>

namespace vmsgr::trunk {
namespace {

base::address at(const char* text) { return base::parse_address(text).value(); }

// The n-th of many hosts.
base::address host(unsigned n) {
    base::address x = at("10.0.0.0:1");
    x.ip[2] = uint8_t(n / 200);
    x.ip[3] = uint8_t(1 + n % 200);
    return x;
}

TEST(admission, beyond_a_sources_share_its_oldest_leaves) {
    admission a;
    for (unsigned i = 0; i < greetings_per_source_max; ++i) {
        EXPECT_FALSE(a.enter(at("10.0.0.1:1000"), false).leaves);
    }
    EXPECT_EQ(a.enter(at("10.0.0.1:1001"), false).leaves, 1u);
    EXPECT_EQ(a.enter(at("[::ffff:10.0.0.1]:1000"), false).leaves, 2u) << "the same host";
    EXPECT_FALSE(a.enter(at("10.0.0.2:1000"), false).leaves);
    EXPECT_EQ(a.all(), greetings_per_source_max + 1);
}

TEST(admission, a_place_is_free_again_after_leave) {
    admission a;
    std::vector<uint64_t> ids;
    for (unsigned i = 0; i < greetings_per_source_max; ++i) {
        ids.push_back(a.enter(at("10.0.0.1:1000"), false).id);
    }
    a.leave(ids[7]);
    EXPECT_FALSE(a.enter(at("10.0.0.1:1000"), false).leaves);
    const auto gone = a.enter(at("10.0.0.1:1000"), false).leaves;
    ASSERT_EQ(gone, ids[0]);
    a.leave(*gone);  // by whoever was turned away
    EXPECT_EQ(a.all(), greetings_per_source_max);
}

TEST(admission, a_host_with_a_whole_ipv6_network_is_one_source) {
    admission a;
    for (unsigned i = 0; i < greetings_per_source_max; ++i) {
        EXPECT_FALSE(a.enter(at(("[fd00::" + std::to_string(i) + "]:1000").c_str()), false).leaves);
    }
    EXPECT_TRUE(a.enter(at("[fd00::abcd]:1000"), false).leaves);
    EXPECT_FALSE(a.enter(at("[fd00:0:0:1::1]:1000"), false).leaves);
}

TEST(admission, when_all_places_are_taken_the_source_with_the_most_makes_room) {
    admission a;
    for (unsigned i = 0; i < greetings_max; ++i) {
        EXPECT_FALSE(a.enter(host(i < 10 ? 0 : i), false).leaves);
    }
    EXPECT_EQ(a.enter(at("10.9.9.9:1"), false).leaves, 1u);
    EXPECT_EQ(a.enter(at("10.9.9.10:1"), false).leaves, 2u);
    EXPECT_EQ(a.all(), greetings_max);
}

TEST(admission, strangers_take_no_place_of_a_named_host) {
    admission a;
    for (unsigned i = 0; i < 2 * greetings_max; ++i) {
        a.enter(host(i), false);
    }
    const auto named = a.enter(at("10.9.9.9:1"), true);
    EXPECT_FALSE(named.leaves);
    for (unsigned i = 0; i < 2 * greetings_max; ++i) {
        EXPECT_NE(a.enter(host(i), false).leaves, named.id);
    }
    EXPECT_EQ(a.all(), greetings_max + 1);
}

}  // namespace
}  // namespace vmsgr::trunk
