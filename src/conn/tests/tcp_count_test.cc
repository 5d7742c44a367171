#include "conn/tcp_count.hh"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "base/names.hh"
#include "base/unique_fd.hh"

namespace vmsgr::conn {

namespace {

struct tcp_pair : testing::Test {
    base::unique_fd a, b;  // a has connected

    void SetUp() override {
        const base::unique_fd l(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in at{};
        at.sin_family = AF_INET;
        at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t len = sizeof at;
        ASSERT_EQ(::bind(l.get(), reinterpret_cast<sockaddr*>(&at), len), 0);
        ASSERT_EQ(::listen(l.get(), 1), 0);
        ASSERT_EQ(::getsockname(l.get(), reinterpret_cast<sockaddr*>(&at), &len), 0);
        a.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        ASSERT_EQ(::connect(a.get(), reinterpret_cast<sockaddr*>(&at), len), 0);
        b.reset(::accept4(l.get(), nullptr, nullptr, SOCK_CLOEXEC));
        ASSERT_TRUE(b);
    }
    static tcp_count count(const base::unique_fd& s) {
        const auto c = count_tcp(s.get());
        EXPECT_TRUE(c) << c.error();
        return c.value_or(tcp_count{});
    }
    static void send(const base::unique_fd& s, size_t n, int flags = 0) {
        const std::string text(n, 'x');
        ASSERT_EQ(::send(s.get(), text.data(), n, flags), ssize_t(n));
    }
    static void read(const base::unique_fd& s, size_t n) {
        std::string text(n, 0);
        ASSERT_EQ(::recv(s.get(), text.data(), n, MSG_WAITALL), ssize_t(n));
    }
    static void await(const base::unique_fd& s, short events) {
        pollfd p{s.get(), events, 0};
        ASSERT_EQ(::poll(&p, 1, 5000), 1);
    }
};

}  // namespace

TEST_F(tcp_pair, counts_from_any_moment_on) {
    for (auto* s : {&a, &b}) {
        auto* other = s == &a ? &b : &a;
        const auto before = count(*s), there = count(*other);
        send(*s, 1000);
        EXPECT_EQ(count(*s).written - before.written, 1000u) << "acknowledged or not";
        await(*other, POLLIN);
        EXPECT_EQ(count(*other).read - there.read, 0u) << "received, and not read";
        read(*other, 300);
        EXPECT_EQ(count(*other).read - there.read, 300u);
        read(*other, 700);
        EXPECT_EQ(count(*s).written - before.written, 1000u);
    }
}

TEST_F(tcp_pair, an_end_of_file_is_no_byte) {
    const auto ours = count(a), theirs = count(b);
    send(a, 10);
    ::shutdown(a.get(), SHUT_WR);
    await(b, POLLRDHUP);
    EXPECT_EQ(count(a).written - ours.written, 10u);
    EXPECT_EQ(count(b).read - theirs.read, 0u) << "unread data, and the end behind it";
    read(b, 10);
    EXPECT_EQ(count(b).read - theirs.read, 10u);
    char byte;
    EXPECT_EQ(::recv(b.get(), &byte, 1, 0), 0);
    EXPECT_EQ(count(b).read - theirs.read, 10u) << "the end was read as well";
    send(b, 7);
    EXPECT_EQ(count(b).written - theirs.written, 7u);
    await(a, POLLIN);
    EXPECT_EQ(count(a).read - ours.read, 0u);
    read(a, 7);
    EXPECT_EQ(count(a).read - ours.read, 7u);
}

TEST_F(tcp_pair, an_urgent_byte_hides_nothing_where_it_is_inline) {
    const auto before = count(b);
    send(a, 5);
    send(a, 1, MSG_OOB);
    send(a, 5);
    await(b, POLLPRI);
    const int on = 1;
    ASSERT_EQ(::setsockopt(b.get(), SOL_SOCKET, SO_OOBINLINE, &on, sizeof on), 0);
    ::usleep(20'000);
    EXPECT_EQ(count(b).read - before.read, 0u);
    read(b, 5);
    EXPECT_EQ(count(b).read - before.read, 5u);
    read(b, 1);
    EXPECT_EQ(count(b).read - before.read, 6u);
}

TEST_F(tcp_pair, what_is_reset_is_not_known) {
    const linger zero{1, 0};
    ::setsockopt(a.get(), SOL_SOCKET, SO_LINGER, &zero, sizeof zero);
    a.reset();
    await(b, POLLRDHUP);
    EXPECT_FALSE(count_tcp(b.get()));
}

}  // namespace vmsgr::conn
