// How connections end: half close, close with and without unread data, reset, death of the program or the daemon.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon_process.hh"
#include "test_client.hh"

namespace vmsgr::test {

namespace {

struct pair {
    conn program;
    base::unique_fd peer;
};

pair make_pair(client& c, uint32_t ring_bytes = shm::ring_bytes_default) {
    auto server = tcp_listen();
    pair p{c.connect(server.address, ring_bytes), {}};
    p.peer = tcp_accept(server);
    EXPECT_EQ(p.program.wait_connected(), 0);
    return p;
}

// 0: an orderly end; else the errno of the break.
int end_of(int fd) {
    char byte;
    pollfd p{fd, POLLIN, 0};
    if (::poll(&p, 1, 5000) == 0) {
        return ETIMEDOUT;
    }
    ssize_t r = ::recv(fd, &byte, 1, 0);
    return r == 0 ? 0 : r < 0 ? errno : EEXIST;
}

bool no_connections(daemon_process& d) {
    for (int i = 0; i < 200; ++i) {
        if (d.status()["connections"].empty()) {
            return true;
        }
        ::poll(nullptr, 0, 5);
    }
    return false;
}

}  // namespace

TEST(ends, half_close_by_the_program_still_receives) {
    daemon_process d;
    client c(d.socket());
    auto [program, peer] = make_pair(c);
    auto question = random_bytes(5000, 1), answer = random_bytes(700000, 2);
    program.send(question);
    program.shut_write();
    EXPECT_EQ(tcp_read_all(peer.get()), question);
    std::jthread writer([&] {
        tcp_write_all(peer.get(), answer);
        ::shutdown(peer.get(), SHUT_WR);
    });
    EXPECT_TRUE(program.receive_all() == answer);
    EXPECT_EQ(program.reset_error(), 0);
    EXPECT_NE(program.poll(POLLIN | POLLRDHUP) & POLLRDHUP, 0);
    EXPECT_TRUE(no_connections(d)) << "both directions are closed";
}

TEST(ends, half_close_by_the_peer_still_sends) {
    daemon_process d;
    client c(d.socket());
    auto [program, peer] = make_pair(c);
    ::shutdown(peer.get(), SHUT_WR);
    EXPECT_NE(program.poll(POLLIN | POLLRDHUP) & POLLRDHUP, 0);
    EXPECT_TRUE(program.receive_all().empty());
    EXPECT_EQ(program.poll(POLLOUT) & (POLLOUT | POLLHUP), POLLOUT);
    auto late = random_bytes(300000, 3);
    std::jthread writer([&] {
        program.send(late);
        program.close();
    });
    EXPECT_TRUE(tcp_read_all(peer.get()) == late);
}

TEST(ends, what_was_sent_before_close_arrives) {
    daemon_process d;
    client c(d.socket());
    auto [program, peer] = make_pair(c);
    auto sent = random_bytes(200000, 4);
    program.send(sent);
    program.close();
    EXPECT_TRUE(tcp_read_all(peer.get()) == sent);
    EXPECT_TRUE(no_connections(d));
}

TEST(ends, what_was_sent_before_close_arrives_though_the_peer_is_slow) {
    daemon_process d(std::string(daemon_process::all_direct) + "limits:\n  ring_bytes: 16M\n");
    client c(d.socket());
    auto [program, peer] = make_pair(c, 16 << 20);  // more than the kernel takes by itself
    int small = 64 << 10;
    ::setsockopt(peer.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    auto sent = random_bytes(32 << 20, 5);
    size_t at = 0;
    for (int quiet = 0; quiet < 50;) {  // until socket and ring are full
        size_t n = program.try_send(sent.data() + at, sent.size() - at);
        at += n;
        quiet = n == 0 ? quiet + 1 : 0;
        ::poll(nullptr, 0, n == 0 ? 2 : 0);
    }
    sent.resize(at);
    program.close();
    ::poll(nullptr, 0, 200);
    EXPECT_EQ(d.status()["totals"]["orphans"], 1) << at;
    EXPECT_TRUE(tcp_read_all(peer.get()) == sent);
    EXPECT_TRUE(no_connections(d));
}

TEST(ends, close_with_unread_data_resets_the_peer) {
    daemon_process d;
    client c(d.socket());
    auto [program, peer] = make_pair(c);
    tcp_write_all(peer.get(), random_bytes(100, 6));
    EXPECT_NE(program.poll(POLLIN) & POLLIN, 0);
    program.close();
    EXPECT_EQ(end_of(peer.get()), ECONNRESET);
}

TEST(ends, close_with_zero_linger_resets_the_peer) {
    daemon_process d;
    client c(d.socket());
    auto [program, peer] = make_pair(c);
    base::unique_fd tcp(c.borrow(program.id, program.fd.get(), proto::borrow_plain));
    linger zero{1, 0};
    ASSERT_EQ(::setsockopt(tcp.get(), SOL_SOCKET, SO_LINGER, &zero, sizeof zero), 0);
    tcp.reset();
    program.close();
    EXPECT_EQ(end_of(peer.get()), ECONNRESET);
}

TEST(ends, linger_time_does_not_hold_the_daemon) {
    daemon_process d;
    client c(d.socket());
    auto [program, peer] = make_pair(c);
    base::unique_fd tcp(c.borrow(program.id, program.fd.get(), proto::borrow_plain));
    linger long_time{1, 20};
    ASSERT_EQ(::setsockopt(tcp.get(), SOL_SOCKET, SO_LINGER, &long_time, sizeof long_time), 0);
    tcp.reset();
    auto sent = random_bytes(100000, 7);
    program.send(sent);
    program.close();
    EXPECT_TRUE(no_connections(d)) << "though the peer has read nothing";
    EXPECT_TRUE(tcp_read_all(peer.get()) == sent);
}

TEST(ends, data_for_a_program_that_left_resets_the_peer) {
    daemon_process d;
    client c(d.socket());
    auto [program, peer] = make_pair(c);
    program.close();
    ASSERT_TRUE(no_connections(d));
    ::send(peer.get(), "x", 1, MSG_NOSIGNAL);
    ::poll(nullptr, 0, 20);
    EXPECT_LT(::send(peer.get(), "x", 1, MSG_NOSIGNAL), 0);
}

TEST(ends, shutdown_of_both_directions_delivers_what_was_sent) {
    daemon_process d;
    client c(d.socket());
    auto [program, peer] = make_pair(c);
    tcp_write_all(peer.get(), random_bytes(100, 8));  // never read
    auto sent = random_bytes(200000, 9);
    program.send(sent);
    program.shut_both();
    EXPECT_TRUE(tcp_read_all(peer.get()) == sent);
    EXPECT_TRUE(no_connections(d));
}

TEST(ends, reset_by_the_peer_reaches_the_program_after_the_data) {
    daemon_process d;
    client c(d.socket());
    auto [program, peer] = make_pair(c);
    auto sent = random_bytes(1000, 10);
    tcp_write_all(peer.get(), sent);
    EXPECT_NE(program.poll(POLLIN) & POLLIN, 0);
    linger zero{1, 0};
    ::setsockopt(peer.get(), SOL_SOCKET, SO_LINGER, &zero, sizeof zero);
    peer.reset();
    EXPECT_NE(program.poll(0) & POLLHUP, 0);
    EXPECT_EQ(program.receive_all(), sent);
    EXPECT_EQ(program.reset_error(), ECONNRESET);
    EXPECT_TRUE(no_connections(d));
}

TEST(ends, reset_after_end_of_file_reaches_the_program) {
    daemon_process d;
    client c(d.socket());
    auto [program, peer] = make_pair(c);
    ::shutdown(peer.get(), SHUT_WR);
    EXPECT_TRUE(program.receive_all().empty());
    tcp_write_all(peer.get(), {});
    program.send(random_bytes(100, 11));  // unread by the peer when it closes: RST
    ::poll(nullptr, 0, 50);
    peer.reset();
    EXPECT_NE(program.poll(0) & POLLHUP, 0);
    EXPECT_NE(program.reset_error(), 0);
}

TEST(ends, refused_connect_tells_the_error_and_gives_the_socket_back) {
    daemon_process d;
    client c(d.socket());
    auto server = tcp_listen();
    auto gone = server.address;
    server.fd.reset();
    std::optional<conn> program;
    try {
        program = c.connect(gone);
    } catch (const std::system_error& e) {
        GTEST_SKIP() << "this kernel refused at once: " << e.what();
    }
    EXPECT_EQ(program->wait_connected(), ECONNREFUSED);
    EXPECT_EQ(program->poll(POLLOUT) & (POLLOUT | POLLERR | POLLHUP), POLLOUT | POLLERR | POLLHUP);
    char token[8];
    proto::received got;
    ASSERT_EQ(proto::receive_with_fds(program->fd.get(), token, sizeof token, MSG_DONTWAIT, got), 0);
    ASSERT_EQ(got.fd_count, 1u);
    int domain = 0;
    socklen_t len = sizeof domain;
    EXPECT_EQ(::getsockopt(got.fds[0].get(), SOL_SOCKET, SO_DOMAIN, &domain, &len), 0);
    EXPECT_EQ(domain, AF_INET);
}

TEST(ends, killed_program_leaves_nothing_within_100_ms) {
    daemon_process d;
    echo_server server;
    {
        client first(d.socket());
    }
    size_t before = d.open_descriptors();
    int said[2];
    ASSERT_EQ(::pipe(said), 0);
    pid_t child = ::fork();
    if (child == 0) {
        client c(d.socket());
        std::vector<conn> all;
        for (int i = 0; i < 50; ++i) {
            all.push_back(c.connect(server.address()));
            all.back().wait_connected();
        }
        auto l = tcp_listen();
        auto door = c.listen(l.fd.get());
        if (::write(said[1], &l.address, sizeof l.address) != ssize_t(sizeof l.address)) {
            ::_exit(1);
        }
        ::pause();
    }
    base::address listening;
    ASSERT_EQ(::read(said[0], &listening, sizeof listening), ssize_t(sizeof listening));
    EXPECT_TRUE(tcp_connect(listening));
    EXPECT_GE(d.open_descriptors(), before + 100);
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    double ms = d.until_descriptors(before);
    EXPECT_GE(ms, 0) << d.open_descriptors() << " against " << before;
    EXPECT_LT(ms, 100);
    EXPECT_FALSE(tcp_connect(listening)) << "its port refuses";
    EXPECT_TRUE(d.status()["sessions"].empty());
}

TEST(ends, stop_by_sigterm_flushes_and_resets) {
    daemon_process d;
    client c(d.socket());
    auto [program, peer] = make_pair(c);
    auto sent = random_bytes(100000, 12);
    program.send(sent);
    auto socket = d.socket();
    EXPECT_EQ(d.stop(), 0) << d.log();
    EXPECT_TRUE(tcp_read_exactly(peer.get(), sent.size()) == sent);
    EXPECT_NE(program.poll(0) & POLLHUP, 0);
    EXPECT_EQ(program.reset_error(), ECONNRESET);
    EXPECT_NE(::access(socket.c_str(), F_OK), 0) << "the socket file is removed";
}

TEST(ends, stop_does_not_wait_longer_than_the_flush_limit) {
    daemon_process d(std::string(daemon_process::all_direct) + "limits:\n  flush_ms: 300\n");
    client c(d.socket());
    auto [program, peer] = make_pair(c);
    auto sent = random_bytes(32 << 20, 13);
    for (int quiet = 0; quiet < 20;) {
        quiet = program.try_send(sent.data(), sent.size()) == 0 ? quiet + 1 : 0;
        ::poll(nullptr, 0, 1);
    }
    auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(d.stop(), 0);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

}  // namespace vmsgr::test
