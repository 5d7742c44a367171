// Bytes arrive: whole, in order, both ways, however slow the other end is.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>

#include "daemon_process.hh"
#include "test_client.hh"

namespace vmsgr::test {

class carry : public ::testing::TestWithParam<int> {};

TEST_P(carry, ten_megabytes_come_back_unchanged) {
    daemon_process d;
    echo_server server(GetParam());
    client c(d.socket());
    auto conn = c.connect(server.address());
    ASSERT_EQ(conn.wait_connected(), 0);
    EXPECT_EQ(base::to_string(conn.header().peer), base::to_string(server.address()));
    auto sent = random_bytes(10 << 20, 1);
    bytes got;
    std::jthread reader([&] { got = conn.receive_all(); });
    conn.send(sent);
    conn.shut_write();
    reader.join();
    EXPECT_TRUE(got == sent) << got.size();
    auto totals = d.status()["totals"];
    EXPECT_EQ(totals["bytes_out"], sent.size());
    EXPECT_EQ(totals["bytes_in"], sent.size());
}
INSTANTIATE_TEST_SUITE_P(families, carry, ::testing::Values(AF_INET, AF_INET6));

TEST(carry, many_small_messages_keep_their_order_over_many_sleeps) {
    daemon_process d;
    echo_server server;
    client c(d.socket());
    auto conn = c.connect(server.address());
    ASSERT_EQ(conn.wait_connected(), 0);
    for (unsigned i = 0; i < 300; ++i) {
        auto m = random_bytes(1 + i * 7 % 500, i);
        conn.send(m);
        ASSERT_EQ(conn.receive_exactly(m.size()), m) << i;
        ::poll(nullptr, 0, i % 3 == 0 ? 2 : 0);  // the daemon sleeps in between
    }
}

TEST(carry, smallest_rings_work) {
    daemon_process d;
    echo_server server;
    client c(d.socket());
    auto conn = c.connect(server.address(), shm::ring_bytes_min);
    ASSERT_EQ(conn.wait_connected(), 0);
    auto sent = random_bytes(1 << 20, 2);
    bytes got;
    std::jthread reader([&] { got = conn.receive_all(); });
    conn.send(sent);
    conn.shut_write();
    reader.join();
    EXPECT_TRUE(got == sent);
}

TEST(carry, full_ring_holds_the_sender_until_the_peer_reads) {
    daemon_process d;
    auto server = tcp_listen();
    client c(d.socket());
    auto conn = c.connect(server.address);
    ASSERT_EQ(conn.wait_connected(), 0);
    auto peer = tcp_accept(server);
    auto sent = random_bytes(32 << 20, 3);
    std::jthread writer([&] { conn.send(sent); });
    ::poll(nullptr, 0, 300);
    uint64_t held = d.status()["totals"]["bytes_out"];
    EXPECT_LT(held, sent.size());
    ::poll(nullptr, 0, 100);
    EXPECT_EQ(d.status()["totals"]["bytes_out"], held) << "still held";
    EXPECT_TRUE(tcp_read_exactly(peer.get(), sent.size()) == sent);
}

TEST(carry, reader_that_pauses_holds_the_peer_and_loses_nothing) {
    daemon_process d;
    auto server = tcp_listen();
    client c(d.socket());
    auto conn = c.connect(server.address);
    ASSERT_EQ(conn.wait_connected(), 0);
    auto peer = tcp_accept(server);
    auto sent = random_bytes(32 << 20, 4);
    std::jthread writer([&] {
        tcp_write_all(peer.get(), sent);
        peer.reset();
    });
    ::poll(nullptr, 0, 300);
    EXPECT_NE(conn.poll(POLLIN, 0) & POLLIN, 0);
    EXPECT_TRUE(conn.receive_all() == sent);
}

TEST(carry, more_flag_holds_a_piece_back_and_the_next_sends_both) {
    daemon_process d;
    auto server = tcp_listen();
    client c(d.socket());
    auto conn = c.connect(server.address);
    ASSERT_EQ(conn.wait_connected(), 0);
    auto peer = tcp_accept(server);
    auto one = random_bytes(100, 5), two = random_bytes(200, 6);
    conn.end().out.set_more(true);
    conn.send(one);
    pollfd p{peer.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&p, 1, 50), 0) << "the kernel holds a corked segment for 200 ms";
    conn.end().out.set_more(false);
    conn.send(two);
    auto both = tcp_read_exactly(peer.get(), 300);
    one.insert(one.end(), two.begin(), two.end());
    EXPECT_EQ(both, one);
}

TEST(carry, connections_spread_over_the_shards) {
    daemon_process d;
    echo_server server;
    client c(d.socket());
    std::vector<conn> all;
    for (int i = 0; i < 16; ++i) {
        all.push_back(c.connect(server.address()));
        ASSERT_EQ(all.back().wait_connected(), 0);
    }
    auto doc = d.status();
    ASSERT_EQ(doc["connections"].size(), 16u);
    int on_first = 0;
    for (auto& row : doc["connections"]) {
        on_first += row["shard"] == 0;
        EXPECT_EQ(row["role"], "client");
        EXPECT_EQ(row["state"], "established");
        EXPECT_EQ(row["route"], "all");
        EXPECT_EQ(row["peer"], base::to_string(server.address()));
    }
    EXPECT_EQ(on_first, 8);
    EXPECT_EQ(doc["sessions"][0]["connections"], 16);
}

}  // namespace vmsgr::test
