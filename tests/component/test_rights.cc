// Who may have what of a connection: whoever holds its descriptor, and nobody who only knows its number.
#include <errno.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "daemon_process.hh"
#include "test_client.hh"

namespace vmsgr::test {

class rights : public ::testing::Test {
protected:
    daemon_process d;
    echo_server server;
    client owner{d.socket()}, stranger{d.socket()};

    conn connected(client& c) {
        conn made = c.connect(server.address());
        EXPECT_EQ(made.wait_connected(), 0);
        return made;
    }
    static proto::request_msg ask(proto::kind what) {
        proto::request_msg m;
        m.what = what;
        return m;
    }
};

TEST_F(rights, borrowed_socket_is_the_connection_itself) {
    auto c = connected(owner);
    base::unique_fd tcp(owner.borrow(c.id, c.fd.get()));
    ASSERT_TRUE(tcp);
    int on = 1;
    EXPECT_EQ(::setsockopt(tcp.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), 0);
    base::unique_fd again(owner.borrow(c.id, c.fd.get()));
    int value = 0;
    socklen_t len = sizeof value;
    ::getsockopt(again.get(), IPPROTO_TCP, TCP_NODELAY, &value, &len);
    EXPECT_EQ(value, 1);
    EXPECT_EQ(owner.borrow(c.id + 2, c.fd.get()), -ENOENT);
    // Whoever was given the descriptor has the right, whatever session asks.
    base::unique_fd lent(stranger.borrow(c.id, c.fd.get()));
    EXPECT_TRUE(lent);
}

TEST_F(rights, accepted_connection_is_borrowed_by_its_doorbell) {
    auto l = tcp_listen();
    auto door = owner.listen(l.fd.get());
    auto peer = tcp_connect(l.address);
    auto c = take_accepted(door);
    ASSERT_TRUE(c);
    base::unique_fd tcp(owner.borrow(c->id, c->fd.get()));
    ASSERT_TRUE(tcp);
    sockaddr_in in{};
    socklen_t len = sizeof in;
    EXPECT_EQ(::getsockname(tcp.get(), reinterpret_cast<sockaddr*>(&in), &len), 0);
    EXPECT_EQ(ntohs(in.sin_port), l.address.port);
}

TEST_F(rights, nobody_borrows_by_a_number) {
    auto victim = connected(owner);
    auto mine = connected(stranger);
    auto pair = std::move(shm::make_bell().value());
    auto tcp = tcp_connect(server.address());
    auto unix_listener = owner.listen(tcp_listen().fd.get());
    for (int shown : {mine.fd.get(), pair.program.get(), pair.other.get(), tcp.get(), unix_listener.get()}) {
        EXPECT_EQ(stranger.borrow(victim.id, shown), -ENOENT) << shown;
    }
    // The doorbell's own name, made again: not the same socket.
    base::unique_fd(owner.borrow(victim.id, victim.fd.get()));
    sockaddr_un un{};
    socklen_t len = sizeof un;
    ASSERT_EQ(::getpeername(victim.fd.get(), reinterpret_cast<sockaddr*>(&un), &len), 0);
    auto fake = std::move(shm::make_bell().value());
    EXPECT_NE(::bind(fake.other.get(), reinterpret_cast<sockaddr*>(&un), len), 0) << "taken";
    EXPECT_EQ(stranger.borrow(victim.id, fake.program.get()), -ENOENT);
    EXPECT_FALSE(stranger.closed(20));
    EXPECT_FALSE(owner.closed(20));
}

TEST_F(rights, a_descriptor_has_to_be_shown) {
    auto c = connected(owner);
    for (auto what : {proto::kind::borrow, proto::kind::adopt, proto::kind::deposit, proto::kind::unlist}) {
        client bad(d.socket());
        auto m = ask(what);
        m.id = c.id;
        proto::send_with_fds(bad.control.get(), &m, sizeof m, {}, 0);
        EXPECT_TRUE(bad.closed()) << int(what);
    }
}

TEST_F(rights, heir_of_the_same_user_gets_what_was_left_for_the_descriptor_it_shows) {
    auto c = connected(owner);
    auto memory = new_memory(4096);
    auto page = std::move(shm::create_mapped("page", 4096).value());
    auto m = ask(proto::kind::deposit);
    memcpy(m.data, "where", 5);
    int fds[] = {c.fd.get(), memory.fd.get(), page.fd.get()};
    proto::send_with_fds(owner.control.get(), &m, sizeof m, fds, 0);
    EXPECT_EQ(owner.request(ask(proto::kind::settled), {}).reply.status, 0);

    auto found = stranger.request(ask(proto::kind::adopt), {c.fd.get()});
    EXPECT_EQ(found.reply.status, 0);
    ASSERT_EQ(found.got.fd_count, 2u);
    EXPECT_EQ(memcmp(found.reply.data, "where", 5), 0);
    EXPECT_TRUE(shm::open_arena(found.got.fds[0].get(), shm::ring_bytes_max));

    auto other = connected(owner);
    EXPECT_EQ(stranger.request(ask(proto::kind::adopt), {other.fd.get()}).reply.status, ENOENT);
    base::unique_fd copy(::dup(c.fd.get()));
    EXPECT_EQ(stranger.request(ask(proto::kind::adopt), {copy.get()}).reply.status, 0) << "the same open socket";
}

TEST_F(rights, what_was_left_ends_with_its_session) {
    auto c = connected(owner);
    auto leaving = std::make_unique<client>(d.socket());
    auto m = ask(proto::kind::deposit);
    auto memory = new_memory(4096);
    int fds[] = {c.fd.get(), memory.fd.get()};
    proto::send_with_fds(leaving->control.get(), &m, sizeof m, fds, 0);
    EXPECT_EQ(leaving->request(ask(proto::kind::settled), {}).reply.status, 0);
    leaving.reset();
    EXPECT_EQ(stranger.request(ask(proto::kind::adopt), {c.fd.get()}).reply.status, 0) << "an heir has time to ask";
    bool gone = false;
    for (int i = 0; i < 50 && !gone; ++i) {
        ::poll(nullptr, 0, 100);
        gone = stranger.request(ask(proto::kind::adopt), {c.fd.get()}).reply.status == ENOENT;
    }
    EXPECT_TRUE(gone);
}

TEST_F(rights, numbers_are_of_the_session_that_made_them) {
    auto victim = connected(owner);
    auto memory = new_memory(4096);
    auto bell = std::move(shm::make_bell().value());
    auto tcp = tcp_connect(server.address());
    stranger.post_connect(0, victim.id, server.address(), {bell.other.get(), tcp.get(), memory.fd.get()});
    EXPECT_TRUE(stranger.closed());
    EXPECT_EQ(d.faults("bad_job"), 1u);
    auto m = random_bytes(1000, 1);
    victim.send(m);
    EXPECT_EQ(victim.receive_exactly(m.size()), m);
}

TEST_F(rights, listener_is_listed_with_a_door_until_it_is_unlisted) {
    auto l = tcp_listen();
    auto door = owner.listen(l.fd.get());
    ASSERT_EQ(door.status, 0);
    EXPECT_EQ(d.status()["listeners"].size(), 1u);
    auto m = ask(proto::kind::unlist);
    int fds[] = {door.get()};
    proto::send_with_fds(owner.control.get(), &m, sizeof m, fds, 0);
    EXPECT_EQ(owner.request(ask(proto::kind::settled), {}).reply.status, 0);
    auto peer = tcp_connect(l.address);
    EXPECT_TRUE(take_accepted(door)) << "by TCP it is reached as before";
}

}  // namespace vmsgr::test
