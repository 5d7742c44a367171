#include "conf/config.hh"

#include <errno.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <random>

namespace vmsgr::conf {
namespace {

std::string refusal(std::string_view text) {
    auto c = parse_daemon_config(text, "f");
    return c ? "accepted" : c.error().text;
}

std::string route_refusal(const std::string& lines) {
    return refusal("routes:\n  - name: a\n    via: direct\n" + lines);
}

constexpr std::string_view whole = R"(
socket: /tmp/x.sock
shards: 2
memory: 256M
access:
  mode: 0600
  group: root
  uids: [0, root, 4711]
  gids: [0]
limits:
  sessions: 1
  connections: 2
  connections_per_session: 3
  listeners: 4
  ring_bytes: 64K
  orphan_ms: 5
  flush_ms: 6
  memory: 4M
  per_user: {sessions: 1, connections: 2, listeners: 3, descriptors: 9, memory: 1M}
network_namespaces: shared
poll_mode: busy
idle_poll_us: 7
reactor_backend: linux-aio
cpuset: 0-1,3
log_level: debug
routes:
  - name: ceph-osds
    program: "ceph-osd"
    role: client
    address: 127.0.0.0/8
    ports: 6800-7300
    via: direct
    fallback: fail
  - {name: all, ports: 80, via: deny}
)";

TEST(config, every_key_is_read) {
    auto c = parse_daemon_config(whole, "f");
    ASSERT_TRUE(c) << c.error().text;
    EXPECT_EQ(c->socket, "/tmp/x.sock");
    EXPECT_EQ(c->shards, 2u);
    EXPECT_EQ(c->memory_bytes, 256u << 20);
    EXPECT_EQ(c->access.mode, 0600u);
    EXPECT_EQ(c->access.group, "root");
    EXPECT_EQ(c->access.uids, (std::vector<uid_t>{0, 0, 4711}));
    EXPECT_EQ(c->access.gids, (std::vector<gid_t>{0}));
    EXPECT_EQ(c->limits.sessions, 1u);
    EXPECT_EQ(c->limits.connections, 2u);
    EXPECT_EQ(c->limits.connections_per_session, 3u);
    EXPECT_EQ(c->limits.listeners, 4u);
    EXPECT_EQ(c->limits.ring_bytes, 65536u);
    EXPECT_EQ(c->limits.orphan_ms, 5u);
    EXPECT_EQ(c->limits.flush_ms, 6u);
    EXPECT_EQ(c->limits.memory, 4u << 20);
    EXPECT_EQ(c->limits.per_user.sessions, 1u);
    EXPECT_EQ(c->limits.per_user.connections, 2u);
    EXPECT_EQ(c->limits.per_user.listeners, 3u);
    EXPECT_EQ(c->limits.per_user.descriptors, 9u);
    EXPECT_EQ(c->limits.per_user.memory, 1u << 20);
    EXPECT_EQ(c->networks, namespaces::shared);
    EXPECT_EQ(c->polling, poll_mode::busy);
    EXPECT_EQ(c->idle_poll_us, 7u);
    EXPECT_EQ(to_text(c->backend), "linux-aio");
    EXPECT_EQ(c->cpuset, "0-1,3");
    EXPECT_EQ(c->log_level, "debug");
    EXPECT_EQ(proto::to_text(c->routes),
              "ceph-osds ceph-osd client 127.0.0.0/8 6800-7300 direct fail;all * any * 80-80 deny posix");
}

TEST(config, defaults_hold_without_keys) {
    auto c = parse_daemon_config("routes: []", "f");
    ASSERT_TRUE(c) << c.error().text;
    EXPECT_EQ(c->socket, proto::default_socket);
    EXPECT_GE(c->shards, 1u);
    EXPECT_LE(c->shards, shards_default_max);
    EXPECT_EQ(c->memory_bytes, memory_bytes_per_shard_default * c->shards);
    EXPECT_EQ(c->access.mode, 0660u);
    EXPECT_EQ(c->limits.ring_bytes, 1u << 20);
    EXPECT_EQ(c->routes.count, 0u);
    auto three = parse_daemon_config("shards: 3", "f");
    ASSERT_TRUE(three);
    EXPECT_EQ(three->memory_bytes, memory_bytes_per_shard_default * 3);
}

struct bad {
    const char* text;
    const char* says;
};

class refused : public testing::TestWithParam<bad> {};

TEST_P(refused, names_line_key_and_expectation) {
    std::string text = refusal(GetParam().text);
    EXPECT_EQ(text, GetParam().says);
    EXPECT_EQ(std::ranges::count(text, '\n'), 0);
}

INSTANTIATE_TEST_SUITE_P(
    daemon, refused,
    testing::Values(
        bad{"", "f: is empty; expected at least a 'routes:' list"},
        bad{"# nothing\n", "f: is empty; expected at least a 'routes:' list"},
        bad{"hello", "f:1: expected keys such as 'socket:' and 'routes:', found 'hello'"},
        bad{"- a", "f:1: expected keys such as 'socket:' and 'routes:', found a list"},
        bad{"a: [\n", "f:2: not valid YAML: end of sequence flow not found"},
        bad{",shards: 1", "f:1: not valid YAML: unexpected ',shards: 1'"},
        bad{"shards: 1\n]\nmemory: 1G", "f:2: not valid YAML: illegal flow end"},
        bad{"shards: 1\n---\nshards: 2\n", "f:2: a second YAML document begins here; expected one"},
        bad{"sokcet: /x", "f:1: sokcet: unknown key; did you mean 'socket'?"},
        bad{"limits:\n  sesions: 1", "f:2: limits.sesions: unknown key; did you mean 'sessions'?"},
        bad{"shards: 1\nshards: 2", "f:2: shards: stands here a second time; the first is in line 1"},
        bad{"shards:", "f:1: shards: has no value, expected a number from 1 to 256"},
        bad{"shards: 0", "f:1: shards: '0' is not a number from 1 to 256"},
        bad{"shards: -1", "f:1: shards: '-1' is not a number from 1 to 256"},
        bad{"shards: two", "f:1: shards: 'two' is not a number from 1 to 256"},
        bad{"shards: [1]", "f:1: shards: is a list, expected a number from 1 to 256"},
        bad{"shards: 99999999999999999999", "f:1: shards: '99999999999999999999' is not a number from 1 to 256"},
        bad{"memory: 1Q", "f:1: memory: '1Q' is not a size; expected one such as 64K, 256M or 1G"},
        bad{"memory: 18446744073709551615G", "f:1: memory: '18446744073709551615G' is not within 32M and 1048576G"},
        bad{"shards: 4\nmemory: 64M", "f:2: memory: '64M' is too little for 4 shards; expected at least 128M"},
        bad{"cpuset: 0-1\nshards: 3", "f:2: shards: 3 is more than the 2 processors of cpuset '0-1'"},
        bad{"cpuset: 3-1", "f:1: cpuset: '3-1' is not a set of processors such as 0-3,8"},
        bad{"socket: x.sock",
            "f:1: socket: 'x.sock' is not an absolute path of a socket, such as /run/vmsgr/vmsgrd.sock"},
        bad{"socket: \"/x\\ny\"", "f:1: socket: '/x\\x0ay' holds a control character, expected an absolute path"},
        bad{"access:\n  mode: 0999", "f:2: access.mode: '0999' is not an octal mode such as 0660"},
        bad{"access:\n  group: no-such-group", "f:2: access.group: no group 'no-such-group' on this machine"},
        bad{"access:\n  uids: [0, no-such-user]", "f:2: access.uids[1]: no user 'no-such-user' on this machine"},
        bad{"access:\n  uids: 0", "f:2: access.uids: is '0', expected a list of users such as [0, ceph]"},
        bad{"limits:\n  ring_bytes: 300000",
            "f:2: limits.ring_bytes: '300000' is not a power of two; the next one is 512K"},
        bad{"limits:\n  ring_bytes: 128M", "f:2: limits.ring_bytes: '128M' is not within 4K and 64M"},
        bad{"poll_mode: bussy", "f:1: poll_mode: 'bussy' is not one of adaptive, busy; did you mean 'busy'?"},
        bad{"log_level: verbose", "f:1: log_level: 'verbose' is not one of error, warn, info, debug, trace"},
        bad{"routes: a", "f:1: routes: is 'a', expected a list of routes"},
        bad{"routes:\n  - a", "f:2: routes[0]: is 'a', expected a mapping of keys"},
        bad{"routes:\n  - via: direct",
            "f:2: routes[0]: 'name' is missing; every route has one, so that it can be spoken of"},
        bad{"trunk:\n  probe: {peers: 3}",
            "f:2: trunk.probe: 'port' is missing; expected where daemons of other hosts listen for trunks, such as "
            "6790"},
        bad{"trunk:\n  probe: {port: 0}", "f:2: trunk.probe.port: '0' is not a number from 1 to 65535"},
        bad{"routes:\n  - {name: a, via: local, local: no}",
            "f:2: routes[0]: via: local and local: no leave nothing to carry; write via: posix"},
        bad{"routes:\n  - {name: a, via: local, fallback: fail}",
            "f:2: routes[0]: fallback: fail is for routes that carry everything; via: local leaves other hosts to TCP"},
        bad{"routes:\n  - name: a",
            "f:2: routes[0]: 'via' is missing; expected one of posix, local, direct, trunk, deny"},
        bad{"routes:\n  - name: a\n    via: driect",
            "f:3: routes[0].via: 'driect' is not one of posix, local, direct, trunk, deny; did you mean 'direct'?"},
        bad{"routes:\n  - {name: a, via: posix}\n  - {name: a, via: deny}",
            "f:3: routes[1]: name 'a' is taken by routes[0]; give it another"}));

TEST(config, bad_values_of_a_route_are_refused) {
    EXPECT_EQ(route_refusal("    address: 10.1.0.0/8"),
              "f:4: routes[0].address: '10.1.0.0/8' has bits set beyond its prefix; write 10.0.0.0/8 for the "
              "network, or 10.1.0.0 for the one address");
    EXPECT_EQ(route_refusal("    address: 10.0.0.0/33"),
              "f:4: routes[0].address: '10.0.0.0/33' has a bad prefix length; expected 0 to 32");
    EXPECT_EQ(route_refusal("    address: 10.0.0.1:80"),
              "f:4: routes[0].address: '10.0.0.1:80' is not a prefix such as 10.0.0.0/8, fd00::/8 or a whole "
              "address; ports have their own key, 'ports'");
    EXPECT_EQ(route_refusal("    ports: 7300-6800"),
              "f:4: routes[0].ports: '7300-6800' ends before it begins; write 6800-7300");
    EXPECT_EQ(route_refusal("    ports: 70000"), "f:4: routes[0].ports: '70000': ports end at 65535");
    for (const char* ports : {"http", "80-", "-80", "80,81", "1-2-3", "0x50"}) {
        EXPECT_EQ(route_refusal("    ports: \"" + std::string(ports) + "\""),
                  "f:4: routes[0].ports: '" + std::string(ports) + "' is not a port or a range such as 6800-7300");
    }
    EXPECT_EQ(route_refusal("    program: /usr/bin/ceph-osd"),
              "f:4: routes[0].program: '/usr/bin/ceph-osd' is a path; routes match names, write 'ceph-osd'");
    EXPECT_EQ(refusal("routes:\n  - name: a b"),
              "f:2: routes[0].name: 'a b' holds a space, ';' or control character, expected a name without spaces");
    EXPECT_EQ(refusal("routes:\n  - name: " + std::string(32, 'n')),
              "f:2: routes[0].name: '" + std::string(32, 'n') + "' has 32 characters, at most 31 are allowed");
}

TEST(config, one_route_too_many_is_refused) {
    std::string text = "routes:\n";
    for (size_t i = 0; i < proto::routes_max; ++i) {
        text += "  - {name: r" + std::to_string(i) + ", via: direct}\n";
    }
    EXPECT_EQ(refusal(text), "accepted");
    EXPECT_EQ(refusal(text + "  - {name: last, via: direct}\n"),
              "f:66: routes[64]: is one route too many; 64 are allowed");
}

TEST(config, ports_take_numbers_and_strings) {
    for (const char* ports : {"80", "\"80\"", "'80-80'"}) {
        auto t = parse_routes_file("routes: [{name: a, via: direct, ports: " + std::string(ports) + "}]", "f");
        ASSERT_TRUE(t) << t.error().text;
        EXPECT_EQ(t->routes[0].port_first, 80);
        EXPECT_EQ(t->routes[0].port_last, 80);
    }
}

TEST(config, route_file_may_be_a_whole_configuration) {
    auto t = parse_routes_file(whole, "f");
    ASSERT_TRUE(t) << t.error().text;
    EXPECT_EQ(t->count, 2u);
    auto none = parse_routes_file("shards: 1", "f");
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().text, "f:1: 'routes:' is missing; expected a list of routes");
}

TEST(config, what_cannot_be_read_is_named) {
    auto c = load_daemon_config("/nonexistent/vmsgrd.yaml");
    ASSERT_FALSE(c);
    EXPECT_EQ(c.error().errnum, ENOENT);
    EXPECT_EQ(c.error().text, "/nonexistent/vmsgrd.yaml: cannot be read: No such file or directory");
    auto d = load_routes("/proc");
    ASSERT_FALSE(d);
    EXPECT_EQ(d.error().text, "/proc: is a directory, expected a file");
}

// The longest text: the key stands in it as a path and as a word, each byte as four, before all keys that there are.
TEST(config, a_mistake_in_a_long_key_names_the_file) {
    const auto c = parse_daemon_config(std::string(200, '\xd5') + ": 1\n", "f.yaml");
    ASSERT_FALSE(c);
    EXPECT_TRUE(c.error().text.view().starts_with("f.yaml:1: ")) << c.error().text;
    EXPECT_TRUE(c.error().text.view().contains("watchdog_ms")) << c.error().text;
}

TEST(config, broken_bytes_never_harm) {
    const unsigned seed = std::random_device{}();
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 rng(seed);
    for (int i = 0; i < 2000; ++i) {
        std::string text(whole);
        for (unsigned n = rng() % 8 + 1; n != 0; --n) {
            text[rng() % text.size()] = char(rng());
        }
        auto c = parse_daemon_config(text, "f");
        if (!c) {
            EXPECT_EQ(std::ranges::count(c.error().text.view(), '\n'), 0);
            EXPECT_LT(c.error().text.view().size(), 400u);
        }
    }
}

}  // namespace
}  // namespace vmsgr::conf
