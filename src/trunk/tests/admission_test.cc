#include "trunk/admission.hh"

#include <gtest/gtest.h>

namespace vmsgr::trunk {
namespace {

base::address at(const char* text) { return base::parse_address(text).value(); }

TEST(admission, one_source_cannot_keep_the_others_out) {
    admission a;
    for (unsigned i = 0; i < greetings_per_source_max; ++i) {
        EXPECT_TRUE(a.enter(at("10.0.0.1:1000")));
    }
    EXPECT_FALSE(a.enter(at("10.0.0.1:1001")));
    EXPECT_FALSE(a.enter(at("[::ffff:10.0.0.1]:1000"))) << "the same host";
    EXPECT_TRUE(a.enter(at("10.0.0.2:1000")));
    a.leave(at("[::ffff:10.0.0.1]:9"));
    EXPECT_TRUE(a.enter(at("10.0.0.1:1001")));
    EXPECT_FALSE(a.enter(at("10.0.0.1:1001")));
}

TEST(admission, a_host_with_a_whole_ipv6_network_is_one_source) {
    admission a;
    for (unsigned i = 0; i < greetings_per_source_max; ++i) {
        EXPECT_TRUE(a.enter(at(("[fd00::" + std::to_string(i) + "]:1000").c_str())));
    }
    EXPECT_FALSE(a.enter(at("[fd00::abcd]:1000")));
    EXPECT_TRUE(a.enter(at("[fd00:0:0:1::1]:1000")));
}

TEST(admission, all_together_have_a_limit) {
    admission a;
    auto from = [](unsigned i) {
        base::address x = at("10.0.0.0:1");
        x.ip[2] = uint8_t(i / 200);
        x.ip[3] = uint8_t(1 + i % 200);
        return x;
    };
    for (unsigned i = 0; i < greetings_max; ++i) {
        EXPECT_TRUE(a.enter(from(i)));
    }
    EXPECT_FALSE(a.enter(at("10.9.9.9:1")));
    EXPECT_EQ(a.all(), greetings_max);
    a.leave(from(5));
    EXPECT_TRUE(a.enter(at("10.9.9.9:1")));
}

}  // namespace
}  // namespace vmsgr::trunk
