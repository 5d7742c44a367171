// Limits and the administrator's deny: the one request fails with its errno, through the conduit.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include "daemon_process.hh"
#include "test_client.hh"

namespace vmsgr::test {

TEST(rules, denied_connect_fails_with_eacces) {
    daemon_process d("routes:\n  - name: no\n    program: component-*\n    via: deny\n");
    echo_server server;
    client c(d.socket());
    auto conn = c.connect(server.address());
    EXPECT_EQ(conn.wait_connected(), EACCES);
    EXPECT_EQ(d.status()["totals"]["refused"], 1);
    client other(d.socket(), proto::session_kind::program, "another");
    auto allowed = other.connect(server.address());
    EXPECT_EQ(allowed.wait_connected(), 0);
}

TEST(rules, denied_listen_is_told_so) {
    daemon_process d("routes:\n  - name: no\n    role: server\n    via: deny\n");
    client c(d.socket());
    auto l = tcp_listen();
    auto door = c.listen(l.fd.get());
    EXPECT_EQ(door.status, EACCES);
    EXPECT_EQ(door.get(), -1);
    EXPECT_FALSE(c.closed(20));
}

TEST(rules, connections_beyond_the_session_limit_fail_with_eagain) {
    daemon_process d(std::string(daemon_process::all_direct) + "limits:\n  connections_per_session: 2\n");
    echo_server server;
    client c(d.socket());
    auto a = c.connect(server.address()), b = c.connect(server.address());
    EXPECT_EQ(a.wait_connected(), 0);
    EXPECT_EQ(b.wait_connected(), 0);
    EXPECT_EQ(c.connect(server.address()).wait_connected(), EAGAIN);
    client other(d.socket());
    EXPECT_EQ(other.connect(server.address()).wait_connected(), 0);
    a.close();
    for (int i = 0; i < 100 && d.status()["sessions"][0]["connections"] != 1; ++i) {
        ::poll(nullptr, 0, 5);
    }
    EXPECT_EQ(c.connect(server.address()).wait_connected(), 0) << "room again";
}

TEST(rules, larger_rings_than_allowed_fail_with_enobufs) {
    daemon_process d(std::string(daemon_process::all_direct) + "limits:\n  ring_bytes: 64K\n");
    echo_server server;
    client c(d.socket());
    EXPECT_EQ(c.welcome.ring_bytes, 64u << 10);
    EXPECT_EQ(c.connect(server.address(), 128 << 10).wait_connected(), ENOBUFS);
    EXPECT_EQ(c.connect(server.address(), 64 << 10).wait_connected(), 0);
}

}  // namespace vmsgr::test
