#include "proto/routes.hh"

#include <gtest/gtest.h>
#include <string.h>

#include <random>

namespace vmsgr::proto {
namespace {

route_table table(std::string_view text) {
    route_table t;
    EXPECT_TRUE(parse_routes(text, t)) << text;
    return t;
}

base::address at(std::string_view text) { return base::parse_address(text).value(); }

constexpr std::string_view osds = "mon * any 127.0.0.0/8 3300-3300 posix posix;"
                                  "osds ceph-* any 127.0.0.0/8 6800-7300 direct posix;"
                                  "never * client ::1/128 0-65535 deny fail;"
                                  "far * any * 1-1 direct posix remote";

TEST(routes, compact_text_round_trips) {
    auto t = table(osds);
    ASSERT_EQ(t.count, 4u);
    EXPECT_TRUE(t.routes[2].local);
    EXPECT_FALSE(t.routes[3].local);
    EXPECT_EQ(to_text(t), osds);
    EXPECT_EQ(to_text(route_table{}), "");
}

TEST(routes, what_a_route_does_without_a_trunk_round_trips) {
    auto t = table(
        "a * any * 0-1 trunk fail wait;b * any * 0-1 trunk posix remote fail;c * any * 0-1 trunk posix direct "
        "remote;d * any * 0-1 trunk posix;e * any * 0-1 direct posix wait");
    const without_trunk expected[] = {without_trunk::wait, without_trunk::fail, without_trunk::direct,
                                      without_trunk::unset, without_trunk::wait};
    for (uint32_t i = 0; i < t.count; ++i) {
        EXPECT_EQ(t.routes[i].without_trunk, expected[i]) << i;
        EXPECT_EQ(t.routes[i].only_by_trunk(), i < 2) << i;
    }
    route_table again;
    ASSERT_TRUE(parse_routes(to_text(t), again));
    EXPECT_EQ(to_text(again), to_text(t));
}

TEST(routes, first_match_wins_and_no_match_is_none) {
    auto t = table(osds);
    EXPECT_EQ(t.match("ceph-osd", role::client, at("127.0.0.1:6805")), &t.routes[1]);
    EXPECT_EQ(t.match("ceph-osd", role::client, at("127.0.0.1:3300")), &t.routes[0]);
    EXPECT_EQ(t.match("rados", role::client, at("127.0.0.1:6805")), nullptr);
    EXPECT_EQ(t.match("ceph-osd", role::client, at("10.0.0.1:6805")), nullptr);
    EXPECT_EQ(t.match("ceph-osd", role::client, at("127.0.0.1:6799")), nullptr);
    EXPECT_EQ(t.match("ceph-osd", role::client, at("127.0.0.1:7300")), &t.routes[1]);
    EXPECT_EQ(t.match("curl", role::client, at("[::1]:80")), &t.routes[2]);
    EXPECT_EQ(t.match("curl", role::server, at("[::1]:80")), nullptr);
}

TEST(routes, earlier_of_two_matches_wins) {
    auto t = table("a * any * 0-65535 posix posix;b * any * 0-65535 direct posix");
    EXPECT_EQ(t.match("x", role::client, at("1.2.3.4:5"))->name_text(), "a");
}

TEST(routes, wildcard_listener_matches_every_prefix_of_its_family) {
    auto v4 = table("a * server 10.0.0.0/8 0-65535 direct posix");
    EXPECT_NE(v4.match("x", role::server, at("0.0.0.0:80")), nullptr);
    EXPECT_NE(v4.match("x", role::server, at("[::]:80")), nullptr);
    EXPECT_EQ(v4.match("x", role::server, at("11.0.0.1:80")), nullptr);
    EXPECT_EQ(v4.match("x", role::client, at("0.0.0.0:80")), nullptr);
    auto v6 = table("a * server fd00::/8 0-65535 direct posix");
    EXPECT_NE(v6.match("x", role::server, at("[::]:80")), nullptr);
    EXPECT_EQ(v6.match("x", role::server, at("0.0.0.0:80")), nullptr);
}

TEST(routes, mapped_peer_is_the_ipv4_address_that_it_is) {
    auto t = table("a * client 127.0.0.0/8 0-65535 direct posix");
    EXPECT_NE(t.match("x", role::client, at("[::ffff:127.0.0.1]:80")), nullptr);
}

TEST(routes, concerns_programs_that_a_route_other_than_posix_may_meet) {
    auto t = table("a rados any * 0-65535 posix posix;b ceph-osd any * 0-65535 direct posix");
    EXPECT_TRUE(t.concerns("ceph-osd"));
    EXPECT_FALSE(t.concerns("rados"));
    EXPECT_FALSE(t.concerns("ceph-os"));
    EXPECT_FALSE(route_table{}.concerns("x"));
}

TEST(routes, broken_text_is_refused) {
    const std::string long_name(route_name_bytes, 'a');
    const std::string bad[] = {
        "a",
        "a * any * 0-65535 direct",
        "a * any * 0-65535 direct posix more",
        "a * any * 65536-65536 direct posix",
        "a * any * 80 direct posix",
        "a * any * 0- direct posix",
        "a * any * -1 direct posix",
        "a * all * 0-1 direct posix",
        "a * any 10/8 0-1 direct posix",
        "a * any * 0-1 driect posix",
        "a * any * 0-1 direct never",
        "a * any * 0-1 trunk posix wait fail",
        "a * any * 0-1 trunk posix remote remote",
        "a * any * 0-1 trunk posix default",
        "a  * any * 0-1 direct posix",
        " ",
        ";",
        long_name + " * any * 0-1 direct posix",
    };
    for (const auto& text : bad) {
        route_table t;
        EXPECT_FALSE(parse_routes(text, t)) << text;
    }
}

TEST(routes, table_is_bounded) {
    std::string text;
    for (size_t i = 0; i <= routes_max; ++i) {
        route_table t;
        EXPECT_EQ(parse_routes(text, t), i <= routes_max) << i;
        text += (text.empty() ? "r" : ";r") + std::to_string(i) + " * any * 0-65535 direct posix";
    }
    route_table t;
    EXPECT_FALSE(parse_routes(text, t));
}

TEST(routes, random_text_never_harms) {
    const unsigned seed = std::random_device{}();
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 rng(seed);
    route_table t;
    for (int i = 0; i < 100'000; ++i) {
        std::string text(osds);
        for (unsigned n = rng() % 4 + 1; n != 0; --n) {
            text[rng() % text.size()] = char(rng());
        }
        if (parse_routes(text, t)) {
            route_table again;
            EXPECT_TRUE(parse_routes(to_text(t), again)) << text;
            EXPECT_EQ(to_text(again), to_text(t));
        }
    }
}

}  // namespace
}  // namespace vmsgr::proto
