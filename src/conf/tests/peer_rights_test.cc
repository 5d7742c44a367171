#include "conf/peer_rights.hh"

#include <gtest/gtest.h>

#include "conf/config.hh"

namespace vmsgr::conf {
namespace {

trunk_config trunks(const std::string& text) {
    auto c = parse_daemon_config("routes: []\n" + text, "f");
    EXPECT_TRUE(c) << c.error().text;
    return c ? c->trunks : trunk_config{};
}

base::address at(std::string_view text) { return base::parse_address(text).value(); }

constexpr std::string_view two_peers = R"(
trunk: {listen: "10.0.0.9:1", serves: [10.0.0.9]}
trunks:
  - {name: a, connect: "10.0.0.1:1", addresses: [10.1.0.0/16], serves: [10.0.0.8]}
  - {name: b, sources: [10.2.0.0/16, "fd00::/64"]}
)";

TEST(peer_rights, without_tls_a_peer_is_its_address) {
    const auto c = trunks(std::string(two_peers));
    const peer_identity a{{}, at("10.0.0.1:5"), false}, b{{}, at("10.2.3.4:5"), false},
        other{{}, at("10.9.9.9:5"), false};
    EXPECT_TRUE(is_named(c, a) && is_named(c, b));
    EXPECT_FALSE(is_named(c, other));
    EXPECT_TRUE(may_claim(c, a, at("10.1.2.3:4")) && may_claim(c, a, at("10.0.0.1:4")));
    EXPECT_FALSE(may_claim(c, a, at("10.2.3.4:4")));
    EXPECT_TRUE(may_claim(c, b, at("10.2.0.1:4")) && may_claim(c, b, at("[fd00::1]:4")));
    EXPECT_FALSE(may_claim(c, b, at("10.1.2.3:4")));
}

TEST(peer_rights, a_peer_that_is_not_named_claims_the_address_that_it_has) {
    const auto c = trunks(std::string(two_peers));
    const peer_identity who{{}, at("10.9.9.9:5"), false};
    EXPECT_TRUE(may_claim(c, who, at("10.9.9.9:6")) && may_claim(c, who, at("[::ffff:10.9.9.9]:6")));
    EXPECT_FALSE(may_claim(c, who, at("10.9.9.8:6")));
    const std::string names[] = {"z"};
    EXPECT_FALSE(may_claim(c, {names, at("10.0.0.1:5"), true}, at("10.1.2.3:4"))) << "an address is no name";
}

TEST(peer_rights, with_tls_a_peer_is_the_name_in_its_certificate) {
    const auto c = trunks(std::string(two_peers));
    const std::string names[] = {"x", "A"};
    const peer_identity a{names, at("10.9.9.9:5"), true};
    EXPECT_TRUE(may_claim(c, a, at("10.1.2.3:4")));
    EXPECT_FALSE(may_claim(c, a, at("10.9.9.9:4"))) << "its entry says what it may claim";
    EXPECT_TRUE(may_reach(c, a, at("10.0.0.8:1")));
}

TEST(peer_rights, an_entrys_own_list_takes_the_place_of_the_one_for_all) {
    const auto c = trunks(std::string(two_peers));
    const peer_identity a{{}, at("10.0.0.1:5"), false}, b{{}, at("10.2.3.4:5"), false},
        other{{}, at("10.9.9.9:5"), false};
    EXPECT_TRUE(may_reach(c, a, at("10.0.0.8:1")));
    EXPECT_FALSE(may_reach(c, a, at("10.0.0.9:1")));
    for (auto& who : {b, other}) {
        EXPECT_TRUE(may_reach(c, who, at("10.0.0.9:1")));
        EXPECT_FALSE(may_reach(c, who, at("10.0.0.8:1")));
    }
    EXPECT_TRUE(may_reach(trunks("trunk: {listen: \"10.0.0.9:1\", accept_from: [\"*\"]}"), other, at("10.7.7.7:1")));
}

TEST(peer_rights, no_list_gives_what_means_another_host_or_none) {
    const auto c = trunks("trunks: [{name: a, connect: \"10.0.0.1:1\", addresses: [\"*\"], serves: [\"*\"]}]");
    const peer_identity a{{}, at("10.0.0.1:5"), false};
    for (auto text : {"127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "0.0.0.0:1", "[::]:1",
                      "224.0.0.1:1", "[ff02::1]:1", "255.255.255.255:1", "[::ffff:0.0.0.0]:1"}) {
        EXPECT_FALSE(may_claim(c, a, at(text))) << text;
        EXPECT_FALSE(may_reach(c, a, at(text))) << text;
    }
    EXPECT_TRUE(may_claim(c, a, at("10.3.3.3:1")));
}

TEST(peer_rights, with_tls_a_route_that_says_nothing_goes_by_trunk_alone) {
    const std::string tls = "trunk: {tls: {ca: /etc/hostname, certificate: /etc/hostname, key: /etc/hostname}}\n";
    auto routes = [](const std::string& text) {
        auto c = parse_daemon_config(text, "f");
        EXPECT_TRUE(c) << c.error().text;
        return c ? c->routes.routes[0] : proto::route{};
    };
    const std::string bare = "routes: [{name: a, via: trunk}]\n";
    EXPECT_EQ(routes(tls + bare).without_trunk, proto::without_trunk::wait);
    EXPECT_EQ(routes(tls + bare).without_daemon, proto::fallback::fail);
    EXPECT_EQ(routes(bare).without_trunk, proto::without_trunk::unset);
    EXPECT_EQ(routes(bare).without_daemon, proto::fallback::posix);
    EXPECT_EQ(routes("routes: [{name: a, via: trunk, without_trunk: fail}]\n").without_daemon, proto::fallback::fail);
    EXPECT_EQ(routes("routes: [{name: a, via: trunk, without_trunk: fail, fallback: posix}]\n").without_daemon,
              proto::fallback::posix);
    EXPECT_EQ(routes(tls + "routes: [{name: a, via: trunk, without_trunk: direct}]\n").without_daemon,
              proto::fallback::posix);
    auto c = parse_daemon_config("routes: [{name: a, via: direct, without_trunk: wait}]\n", "f");
    ASSERT_FALSE(c);
    EXPECT_EQ(c.error().text,
              "f:1: routes[0]: 'without_trunk' is for routes with via: trunk; this one has via: direct");
}

TEST(reload, what_cannot_change_keeps_its_value_and_is_named) {
    const auto present = parse_daemon_config("shards: 1\nmemory: 64M\nroutes: []\n", "f").value();
    auto fresh =
        parse_daemon_config("shards: 2\nmemory: 64M\nlog_level: debug\nseccomp: no\nroutes: []\n", "f").value();
    EXPECT_EQ(keep_fixed(present, fresh), (std::vector<std::string>{"shards", "seccomp"}));
    EXPECT_EQ(fresh.shards, 1u);
    EXPECT_TRUE(fresh.seccomp);
    EXPECT_EQ(fresh.log_level, "debug");
}

}  // namespace
}  // namespace vmsgr::conf
