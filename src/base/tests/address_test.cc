#include "base/address.hh"

#include <gtest/gtest.h>
#include <netinet/in.h>

#include <random>

#include "base/source.hh"

namespace vmsgr::base {
namespace {

address at(std::string_view text) {
    auto a = parse_address(text);
    EXPECT_TRUE(a.has_value()) << text;
    return a.value_or(address{});
}

prefix in(std::string_view text) {
    auto p = parse_prefix(text);
    EXPECT_TRUE(p.has_value()) << text;
    return p.value_or(prefix{});
}

TEST(address, text_round_trips) {
    for (const char* text : {"127.0.0.1:80", "0.0.0.0:0", "255.255.255.255:65535", "[::1]:6800", "[::]:1",
                             "[fd00::1:2]:443", "[::ffff:127.0.0.1]:80"}) {
        EXPECT_EQ(to_string(at(text)), text);
    }
}

TEST(address, port_may_be_left_out) {
    EXPECT_EQ(at("10.0.0.1").port, 0);
    EXPECT_EQ(at("::1").port, 0);
    EXPECT_EQ(at("[::1]").port, 0);
    EXPECT_EQ(to_string(at("::1")), "[::1]:0");
}

TEST(address, what_is_none_is_refused) {
    for (const char* text : {"", ":", ":80", "localhost", "localhost:80", "10.0.0", "10.0.0.1:", "10.0.0.1:65536",
                             "10.0.0.1:-1", "10.0.0.1: 80", "10.0.0.1:80x", "[::1", "[::1]80", "[::1]:", "1::2::3",
                             "[]:80", "10.0.0.1/8", "::1%lo",
                             "1111:2222:3333:4444:5555:6666:7777:8888:9999:0000:1111:2222:3333:4444"}) {
        EXPECT_FALSE(parse_address(text).has_value()) << text;
    }
}

TEST(address, random_text_never_harms) {
    const unsigned seed = std::random_device{}();
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 rng(seed);
    constexpr std::string_view letters = "0123456789abcdef:.[]/%-* ";
    for (int i = 0; i < 100'000; ++i) {
        std::string text;
        for (auto n = rng() % 24; n != 0; --n) {
            text += letters[rng() % letters.size()];
        }
        if (auto a = parse_address(text)) {
            EXPECT_EQ(parse_address(to_string(*a)), a) << text;
        }
        if (auto p = parse_prefix(text)) {
            EXPECT_EQ(parse_prefix(to_string(*p)), p) << text;
        }
    }
}

TEST(address, none_is_a_dash) { EXPECT_EQ(to_string(address{}), "-"); }

TEST(address, sockaddr_round_trips) {
    for (const char* text : {"127.0.0.1:80", "[fe80::1]:6800"}) {
        address a = at(text);
        a.scope_id = a.family == AF_INET6 ? 3 : 0;
        sockaddr_storage ss;
        socklen_t len = to_sockaddr(a, ss);
        EXPECT_EQ(len, a.family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
        EXPECT_EQ(from_sockaddr(reinterpret_cast<sockaddr*>(&ss), len), a);
    }
}

TEST(address, sockaddr_of_wrong_length_or_family_is_none) {
    sockaddr_storage ss{};
    ss.ss_family = AF_INET;
    auto* sa = reinterpret_cast<sockaddr*>(&ss);
    EXPECT_FALSE(from_sockaddr(nullptr, 16));
    EXPECT_FALSE(from_sockaddr(sa, 0));
    EXPECT_FALSE(from_sockaddr(sa, 1));
    EXPECT_FALSE(from_sockaddr(sa, sizeof(sockaddr_in) - 1));
    EXPECT_FALSE(from_sockaddr(sa, sizeof(sockaddr_storage) + 1));
    EXPECT_TRUE(from_sockaddr(sa, sizeof(sockaddr_in)));
    ss.ss_family = AF_INET6;
    EXPECT_FALSE(from_sockaddr(sa, sizeof(sockaddr_in)));
    EXPECT_TRUE(from_sockaddr(sa, sizeof(sockaddr_in6) - 4));  // without a scope: the kernel takes it too
    ss.ss_family = AF_UNIX;
    EXPECT_FALSE(from_sockaddr(sa, sizeof ss));
    EXPECT_EQ(to_sockaddr(address{}, ss), 0u);
}

TEST(prefix, contains_what_it_covers) {
    EXPECT_TRUE(in("127.0.0.0/8").contains(at("127.255.0.1")));
    EXPECT_FALSE(in("127.0.0.0/8").contains(at("128.0.0.1")));
    EXPECT_TRUE(in("10.1.2.0/23").contains(at("10.1.3.255")));
    EXPECT_FALSE(in("10.1.2.0/23").contains(at("10.1.4.0")));
    EXPECT_TRUE(in("10.0.0.1").contains(at("10.0.0.1")));
    EXPECT_FALSE(in("10.0.0.1").contains(at("10.0.0.2")));
    EXPECT_TRUE(in("0.0.0.0/0").contains(at("1.2.3.4")));
    EXPECT_FALSE(in("0.0.0.0/0").contains(at("::1")));
    EXPECT_TRUE(in("fd00::/8").contains(at("fdff::1")));
    EXPECT_FALSE(in("fd00::/8").contains(at("fe00::1")));
    EXPECT_TRUE(in("::/0").contains(at("::1")));
    EXPECT_TRUE(in("*").contains(at("::1")));
    EXPECT_TRUE(in("").contains(at("1.2.3.4")));
}

TEST(prefix, mapped_address_is_matched_as_ipv4) {
    EXPECT_TRUE(in("127.0.0.0/8").contains(at("::ffff:127.0.0.1")));
    EXPECT_FALSE(in("10.0.0.0/8").contains(at("::ffff:127.0.0.1")));
    EXPECT_TRUE(in("::ffff:0:0/96").contains(at("::ffff:127.0.0.1")));
    EXPECT_FALSE(in("127.0.0.0/8").contains(at("::7f00:1")));  // compatible, not mapped
}

TEST(prefix, what_is_none_is_refused) {
    for (const char* text : {"/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "::/129", "10.0.0.0/8/8", "10/8",
                             "localhost", "10.0.0.0/8 ", "**"}) {
        EXPECT_FALSE(parse_prefix(text).has_value()) << text;
    }
}

TEST(address, wildcards_multicast_and_broadcast_name_no_host) {
    for (const char* text : {"0.0.0.0:80", "[::]:80", "[::ffff:0.0.0.0]:80", "224.0.0.1:80", "239.255.255.255:80",
                             "[::ffff:224.0.0.1]:80", "255.255.255.255:80", "[::ffff:255.255.255.255]:80",
                             "[ff02::1]:80"}) {
        EXPECT_FALSE(parse_address(text).value().names_one_host()) << text;
    }
    EXPECT_FALSE(address{}.names_one_host());
    for (const char* text : {"10.0.0.1:80", "127.0.0.1:80", "223.255.255.255:80", "240.0.0.1:80", "[::1]:80",
                             "[::ffff:10.0.0.1]:80", "[fe80::1]:80", "[fd00::]:80"}) {
        EXPECT_TRUE(parse_address(text).value().names_one_host()) << text;
    }
}

TEST(address, own_addresses_are_the_hosts_and_nobody_elses) {
    for (const char* text : {"127.0.0.1:0", "127.1.2.3:0", "[::ffff:127.0.0.1]:0"}) {
        EXPECT_TRUE(is_own_address(parse_address(text).value())) << text;
    }
    for (const char* text : {"192.0.2.1:0", "0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0", "255.255.255.255:0",
                             "224.0.0.1:0", "127.255.255.255:0", "[2001:db8::1]:0"}) {
        EXPECT_FALSE(is_own_address(parse_address(text).value())) << text;
    }
    EXPECT_FALSE(is_own_address({}));
}

}  // namespace
}  // namespace vmsgr::base
