#include "shm/bell.hh"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace vmsgr::shm {
namespace {

short events(int fd) {
    pollfd p{fd, POLLIN | POLLOUT | POLLRDHUP, 0};
    return ::poll(&p, 1, 0) < 0 ? short(-1) : p.revents;
}

TEST(bell, this_kernel_counts_as_the_protocol_needs) {
    auto limits = measure_bell();
    ASSERT_TRUE(limits) << limits.error().text;
    EXPECT_TRUE(limits->usable()) << limits->until_unwritable << " until not writable, " << limits->until_refused
                                  << " until refused";
}

TEST(bell, tokens_show_as_in_and_out) {
    auto p = make_bell();
    ASSERT_TRUE(p);
    bell a(p->program.get()), b(p->other.get());
    EXPECT_EQ(events(a.fd()), POLLOUT);
    EXPECT_EQ(events(b.fd()), POLLOUT);
    ASSERT_TRUE(a.send_token());
    EXPECT_EQ(events(a.fd()), POLLOUT) << "one token leaves the end writable";
    EXPECT_EQ(events(b.fd()), POLLIN | POLLOUT);
    while (a.writable()) {
        ASSERT_TRUE(a.send_token());
    }
    EXPECT_EQ(events(a.fd()), 0);
    while (!a.writable()) {
        ASSERT_EQ(b.take_tokens(1), 1u);
    }
    EXPECT_EQ(events(b.fd()), POLLIN | POLLOUT) << "writable again before the last token was taken";
}

TEST(bell, each_token_is_an_edge) {
    auto p = make_bell();
    ASSERT_TRUE(p);
    bell a(p->program.get()), b(p->other.get());
    base::unique_fd ep(::epoll_create1(EPOLL_CLOEXEC));
    epoll_event e{};
    e.events = EPOLLIN | EPOLLET;
    ASSERT_EQ(::epoll_ctl(ep.get(), EPOLL_CTL_ADD, b.fd(), &e), 0);
    for (int i = 0; i < 3; ++i) {
        ASSERT_TRUE(a.send_token());
        EXPECT_EQ(::epoll_wait(ep.get(), &e, 1, 0), 1) << i;
        EXPECT_EQ(::epoll_wait(ep.get(), &e, 1, 0), 0) << i;
    }
}

TEST(bell, relief_is_an_edge_for_the_sender) {
    auto p = make_bell();
    ASSERT_TRUE(p);
    bell a(p->program.get()), b(p->other.get());
    unsigned sent = 0;
    while (a.writable()) {
        ASSERT_TRUE(a.send_token());
        ++sent;
    }
    base::unique_fd ep(::epoll_create1(EPOLL_CLOEXEC));
    epoll_event e{};
    e.events = EPOLLOUT | EPOLLET;
    ASSERT_EQ(::epoll_ctl(ep.get(), EPOLL_CTL_ADD, a.fd(), &e), 0);
    EXPECT_EQ(::epoll_wait(ep.get(), &e, 1, 0), 0);
    EXPECT_EQ(b.take_tokens(sent - 1), sent - 1);
    EXPECT_EQ(::epoll_wait(ep.get(), &e, 1, 0), 1);
}

TEST(bell, close_hangs_up_when_the_last_holder_is_gone) {
    auto p = make_bell();
    ASSERT_TRUE(p);
    base::unique_fd copy(::dup(p->other.get()));
    int err = 0;
    p->other.reset();
    EXPECT_EQ(look_at_bell(p->program.get(), false, err), bell_look::nothing);
    EXPECT_EQ(err, EAGAIN);
    copy.reset();
    EXPECT_EQ(look_at_bell(p->program.get(), false, err), bell_look::hangup);
    EXPECT_TRUE(events(p->program.get()) & POLLHUP);
}

TEST(bell, close_with_unread_tokens_is_a_hangup_too) {
    auto p = make_bell();
    ASSERT_TRUE(p);
    ASSERT_TRUE(bell(p->program.get()).send_token());
    p->other.reset();
    int err = 0;
    EXPECT_EQ(look_at_bell(p->program.get(), false, err), bell_look::hangup);
    EXPECT_FALSE(bell(p->program.get()).writable());
}

TEST(bell, urgent_tokens_are_taken_as_others_are) {
    auto p = make_bell();
    ASSERT_TRUE(p);
    bell b(p->program.get());
    ASSERT_TRUE(b.send_token());
    ASSERT_TRUE(b.send_urgent_token());
    ASSERT_TRUE(b.send_token());
    pollfd q{p->other.get(), POLLPRI, 0};
    if (::poll(&q, 1, 0) != 1) {
        GTEST_SKIP() << "no urgent data on this kernel's unix sockets";
    }
    EXPECT_EQ(bell(p->other.get()).unread(), 3u);
    EXPECT_EQ(bell(p->other.get()).take_tokens(2), 2u);
    EXPECT_EQ(::poll(&q, 1, 0), 0) << "it was the second";
    EXPECT_EQ(bell(p->other.get()).take_tokens(bell_tokens_max), 1u);
}

TEST(bell, foreign_bytes_are_noticed) {
    auto p = make_bell();
    ASSERT_TRUE(p);
    bell b(p->other.get());
    ASSERT_EQ(::write(p->program.get(), "hi", 2), 2);
    EXPECT_EQ(b.take_tokens(bell_tokens_max), 2u);
    EXPECT_TRUE(b.foreign());
}

TEST(bell, program_end_carries_its_key) {
    auto p = make_bell();
    ASSERT_TRUE(p);
    prepare_bell(p->program.get(), 0x123456789abcdef0);
    EXPECT_EQ(mark_of_bell(p->program.get()), 0x123456789abcdef0u);
    EXPECT_EQ(mark_of_bell(p->other.get()), 0u);
    base::unique_fd copy(::dup(p->program.get())), null(::open("/dev/null", O_RDONLY));
    base::unique_fd tcp(::socket(AF_INET, SOCK_STREAM, 0));
    EXPECT_EQ(mark_of_bell(copy.get()), 0x123456789abcdef0u);
    EXPECT_EQ(mark_of_bell(null.get()), 0u);
    EXPECT_EQ(mark_of_bell(tcp.get()), 0u);
}

TEST(bell, resident_token_makes_a_sudden_end_show_err) {
    for (bool orderly : {false, true}) {
        auto p = make_bell();
        ASSERT_TRUE(p);
        prepare_bell(p->program.get(), 1);
        if (orderly) {
            bell(p->other.get()).take_tokens(bell_tokens_max);
        }
        p->other.reset();
        EXPECT_EQ((events(p->program.get()) & POLLERR) != 0, !orderly);
        EXPECT_TRUE(events(p->program.get()) & POLLHUP);
    }
}

TEST(bell, resident_tokens_are_not_counted_as_unread) {
    auto p = make_bell();
    ASSERT_TRUE(p);
    prepare_bell(p->program.get(), 1);
    bell other(p->other.get(), resident_tokens);
    EXPECT_EQ(other.unread(), 0u);
    bell(p->program.get()).send_token();
    EXPECT_EQ(other.unread(), 1u);
}

// The program is to see the reset, by poll and SO_ERROR.
TEST(bell, taking_all_leaves_the_error_of_a_reset) {
    auto p = make_bell();
    ASSERT_TRUE(p);
    bell(p->other.get()).send_token();
    bell(p->program.get()).send_token();  // unread at the other end, which makes its close a reset
    p->other.reset();
    bell(p->program.get()).drain();
    EXPECT_TRUE(events(p->program.get()) & POLLERR);
}

TEST(bell, taking_from_nothing_takes_nothing) {
    auto p = make_bell();
    ASSERT_TRUE(p);
    EXPECT_EQ(bell(p->other.get()).take_tokens(5), 0u);
}

}  // namespace
}  // namespace vmsgr::shm
