// Listening sockets: accepted by the daemon, taken by the program.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include "daemon_process.hh"
#include "test_client.hh"

namespace vmsgr::test {

TEST(listen, accepted_connection_carries_both_ways) {
    daemon_process d;
    client c(d.socket());
    auto l = tcp_listen();
    auto door = c.listen(l.fd.get());
    auto peer = tcp_connect(l.address);
    ASSERT_TRUE(peer);
    auto program = take_accepted(door);
    ASSERT_TRUE(program);
    EXPECT_EQ(base::to_string(program->local), base::to_string(l.address));
    EXPECT_NE(program->slot, shm::no_slot);
    auto question = random_bytes(300000, 1), answer = random_bytes(400000, 2);
    std::jthread writer([&] { tcp_write_all(peer.get(), question); });
    EXPECT_TRUE(program->receive_exactly(question.size()) == question);
    std::jthread answerer([&] {
        program->send(answer);
        program->close();
    });
    EXPECT_TRUE(tcp_read_all(peer.get()) == answer);
    auto listeners = d.status()["listeners"];
    ASSERT_EQ(listeners.size(), 1u);
    EXPECT_EQ(listeners[0]["accepted"], 1);
    EXPECT_EQ(listeners[0]["address"], base::to_string(l.address));
}

TEST(listen, connections_come_in_the_order_in_which_they_were_made) {
    daemon_process d;
    client c(d.socket());
    auto l = tcp_listen();
    auto door = c.listen(l.fd.get());
    std::vector<base::unique_fd> peers;
    for (int i = 0; i < 40; ++i) {
        peers.push_back(tcp_connect(l.address));
        tcp_write_all(peers.back().get(), {static_cast<unsigned char>(i)});
    }
    for (int i = 0; i < 40; ++i) {
        auto program = take_accepted(door);
        ASSERT_TRUE(program) << i;
        EXPECT_EQ(program->receive_exactly(1)[0], i);
    }
}

TEST(listen, program_that_does_not_accept_stops_only_its_own_accepting) {
    daemon_process d;
    client c(d.socket());
    auto l = tcp_listen(AF_INET, 8);
    auto door = c.listen(l.fd.get(), 8);
    std::vector<base::unique_fd> peers;
    for (int i = 0; i < 2000; ++i) {
        base::unique_fd s(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
        sockaddr_storage ss;
        socklen_t len = base::to_sockaddr(l.address, ss);
        ::connect(s.get(), reinterpret_cast<sockaddr*>(&ss), len);
        peers.push_back(std::move(s));
    }
    ::poll(nullptr, 0, 300);
    uint64_t accepted = d.status()["listeners"][0]["accepted"];
    EXPECT_LT(accepted, 1500u);
    double cpu = d.cpu_s();
    ::poll(nullptr, 0, 500);
    EXPECT_LT(d.cpu_s() - cpu, 0.1) << "waits without spinning";
    // Another listener works.
    auto l2 = tcp_listen();
    auto door2 = c.listen(l2.fd.get());
    auto peer = tcp_connect(l2.address);
    EXPECT_TRUE(take_accepted(door2));
    // And this one goes on once connections are taken.
    for (uint64_t i = 0; i <= accepted; ++i) {
        ASSERT_TRUE(take_accepted(door)) << i << " of " << accepted;
    }
}

TEST(listen, closing_the_lifeline_frees_the_port_at_once) {
    daemon_process d;
    client c(d.socket());
    auto l = tcp_listen();
    auto door = c.listen(l.fd.get());
    auto untaken = tcp_connect(l.address);
    ::poll(nullptr, 0, 50);
    l.fd.reset();  // the program's own copy
    door = {};
    char byte;
    EXPECT_LT(::recv(untaken.get(), &byte, 1, 0), 0) << "a connection never taken is reset";
    EXPECT_EQ(errno, ECONNRESET);
    ::poll(nullptr, 0, 20);
    EXPECT_FALSE(tcp_connect(l.address));
    EXPECT_EQ(errno, ECONNREFUSED);
}

TEST(listen, daemon_hangs_up_after_the_socket_is_closed) {
    daemon_process d;
    client c(d.socket());
    auto l = tcp_listen();
    auto door = c.listen(l.fd.get());
    l.fd.reset();
    ::shutdown(door.lifeline.get(), SHUT_WR);
    pollfd p{door.lifeline.get(), 0, 0};
    ASSERT_EQ(::poll(&p, 1, 2000), 1);
    EXPECT_NE(p.revents & POLLHUP, 0);
    base::unique_fd again(::socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_storage ss;
    socklen_t len = base::to_sockaddr(l.address, ss);
    EXPECT_EQ(::bind(again.get(), reinterpret_cast<sockaddr*>(&ss), len), 0) << "the port is free by now";
}

TEST(listen, daemon_that_is_killed_is_told_by_a_knock) {
    daemon_process d;
    client c(d.socket());
    auto l = tcp_listen();
    auto door = c.listen(l.fd.get());
    pollfd knock{door.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&knock, 1, 50), 0);
    d.kill();
    EXPECT_EQ(::poll(&knock, 1, 2000), 1);
    base::unique_fd silent(::accept4(door.get(), nullptr, nullptr, SOCK_CLOEXEC));
    char byte;
    EXPECT_EQ(::recv(silent.get(), &byte, 1, 0), 0) << "without a word";
    pollfd p{door.lifeline.get(), 0, 0};
    EXPECT_EQ(::poll(&p, 1, 0), 1);
}

TEST(listen, daemon_that_stops_leaves_the_kernel_socket_listening) {
    daemon_process d;
    client c(d.socket());
    auto l = tcp_listen();
    auto door = c.listen(l.fd.get());
    EXPECT_EQ(d.stop(), 0);
    pollfd p{door.lifeline.get(), 0, 0};
    EXPECT_EQ(::poll(&p, 1, 1000), 1);
    pollfd knock{door.get(), POLLIN, 0};
    EXPECT_EQ(::poll(&knock, 1, 1000), 1) << "whoever waits in accept() is told";
    EXPECT_TRUE(tcp_connect(l.address));
    EXPECT_TRUE(tcp_accept(l));
}

}  // namespace vmsgr::test
