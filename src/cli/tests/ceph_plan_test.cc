// What `vmsgr ceph plan` writes for clusters of several hosts.
#include <gtest/gtest.h>

#include "cli/ceph.hh"
#include "conf/config.hh"

namespace vmsgr::cli {
namespace {

base::address at(const char* text) { return *base::parse_address(text); }

ceph_osd osd(int id, const char* host, std::initializer_list<const char*> addresses) {
    ceph_osd o{.id = id, .up = true, .addresses = {}, .host = host};
    for (const char* a : addresses) {
        o.addresses.push_back(at(a));
    }
    return o;
}

ceph_view three_hosts() {
    return {{osd(0, "a", {"10.0.0.1:6800", "10.1.0.1:6804"}), osd(1, "a", {"10.0.0.1:6810"}),
             osd(2, "b", {"10.0.0.2:6800", "10.1.0.2:6801"}), osd(3, "c", {"10.0.0.3:6800"})},
            {{"a", {at("10.0.0.1:3300"), at("10.0.0.1:6789")}}},
            {6800, 7300},
            {at("127.0.0.1"), at("10.0.0.1"), at("10.1.0.1")},
            "a"};
}

conf::daemon_config planned(const ceph_view& v, const ceph_options& c) {
    const auto text = ceph_plan(v, c);
    EXPECT_TRUE(text) << text.error().text;
    const auto config = conf::parse_daemon_config(*text, "plan");
    EXPECT_TRUE(config) << config.error().text;
    return *config;
}

proto::via way(const conf::daemon_config& c, const char* to) {
    const auto* r = c.routes.match("ceph-osd", proto::role::client, at(to));
    return r == nullptr ? proto::via::posix : r->way;
}

TEST(ceph_plan, osds_of_this_host_are_carried_and_others_are_not) {
    const auto c = planned(three_hosts(), {});
    EXPECT_EQ(way(c, "10.0.0.1:6805"), proto::via::local);
    EXPECT_EQ(way(c, "10.1.0.1:7300"), proto::via::local);
    EXPECT_EQ(way(c, "10.0.0.2:6800"), proto::via::posix);
    EXPECT_EQ(way(c, "10.0.0.1:3300"), proto::via::posix);
    EXPECT_EQ(way(c, "10.0.0.1:22"), proto::via::posix);
    EXPECT_TRUE(c.trunks.peers.empty());
}

TEST(ceph_plan, trunks_to_the_other_hosts) {
    ceph_options o;
    o.between = "trunk";
    const auto c = planned(three_hosts(), o);
    EXPECT_EQ(way(c, "10.0.0.1:6805"), proto::via::local);
    EXPECT_EQ(way(c, "10.0.0.2:6800"), proto::via::trunk);
    EXPECT_EQ(way(c, "10.1.0.2:6801"), proto::via::trunk);
    EXPECT_EQ(way(c, "10.0.0.3:6999"), proto::via::trunk);
    EXPECT_EQ(way(c, "10.0.0.1:6789"), proto::via::posix);
    ASSERT_EQ(c.trunks.peers.size(), 2u);
    EXPECT_EQ(c.trunks.peers[0].name, "b");
}

TEST(ceph_plan, direct_between_hosts) {
    ceph_options o;
    o.between = "direct";
    EXPECT_EQ(way(planned(three_hosts(), o), "10.0.0.2:6800"), proto::via::direct);
}

TEST(ceph_plan, a_monitor_at_a_port_of_osds_stays_plain) {
    auto v = three_hosts();
    v.monitors.push_back({"b", {at("10.0.0.1:6850")}});
    const auto c = planned(v, {});
    EXPECT_EQ(way(c, "10.0.0.1:6850"), proto::via::posix);
    EXPECT_EQ(way(c, "10.0.0.1:6851"), proto::via::local);
}

TEST(ceph_plan, ipv6) {
    ceph_view v{
        {osd(0, "a", {"[fd00::1]:6800"}), osd(1, "b", {"[fd00::2]:6800"})}, {}, {6800, 7568}, {at("[fd00::1]:0")}, "a"};
    ceph_options o;
    o.between = "trunk";
    const auto c = planned(v, o);
    EXPECT_EQ(way(c, "[fd00::1]:7568"), proto::via::local);
    EXPECT_EQ(way(c, "[fd00::2]:6800"), proto::via::trunk);
}

TEST(ceph_plan, names_that_no_route_may_have) {
    auto v = three_hosts();
    v.osds[2].host = "b; a name of some length, with spaces and an umlaut \xc3\xbc";
    v.osds[3].host = "";
    ceph_options o;
    o.between = "trunk";
    EXPECT_EQ(way(planned(v, o), "10.0.0.2:6800"), proto::via::trunk);
}

TEST(ceph_plan, a_host_without_osds_says_so) {
    auto v = three_hosts();
    v.here = {at("10.0.0.9")};
    const auto text = ceph_plan(v, {});
    ASSERT_FALSE(text);
    EXPECT_NE(text.error().text.view().find("no OSD of the cluster has an address of this host"),
              std::string_view::npos);
}

TEST(ceph_plan, more_hosts_than_routes) {
    auto v = three_hosts();
    for (int i = 0; i < 100; ++i) {
        const auto address = "10.2.0." + std::to_string(i + 1) + ":6800", host = "host" + std::to_string(i);
        v.osds.push_back(osd(10 + i, host.c_str(), {address.c_str()}));
    }
    EXPECT_EQ(way(planned(v, {}), "10.0.0.1:6800"), proto::via::local);
    ceph_options o;
    o.between = "direct";
    const auto text = ceph_plan(v, o);
    ASSERT_FALSE(text);
    EXPECT_NE(text.error().text.view().find("by hand"), std::string_view::npos);
}

}  // namespace
}  // namespace vmsgr::cli
