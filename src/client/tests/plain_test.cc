// Plain mode where a process is killed that shares the connection with this one.
#include <gtest/gtest.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <initializer_list>
#include <string>
#include <thread>

#include "client/kept_fds.hh"
#include "client/streams/stream.hh"
#include "shm/bell.hh"

namespace vmsgr::client {
namespace {

constexpr uint32_t ring_bytes = 1u << 20;

// A child gets the locks, does `then`, and is killed.
template <typename Then>
void kill_a_holder(std::initializer_list<pthread_mutex_t*> locks, Then&& then) {
    const pid_t child = ::fork();
    if (child == 0) {
        for (auto* m : locks) {
            pthread_mutex_lock(m);
        }
        then();
        ::kill(::getpid(), SIGKILL);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
}

void nothing() {}

class plain : public testing::Test {
protected:
    shm::bell_pair _bell = std::move(shm::make_bell().value());
    held_memory _slot = take_slot(1, ring_bytes).value();
    stream _a;

    void SetUp() override {
        set_fd_rules({.replace = [](int fd, int by) { ::dup2(by, fd); }});
        ::alarm(20);
    }
    void TearDown() override { ::alarm(0); }

    int a() const { return _bell.program.get(); }
    int b() const { return _bell.other.get(); }
    stream end(unsigned which, far_end other) {
        auto slot = join_slot(base::unique_fd(::fcntl(_slot.fd(), F_DUPFD_CLOEXEC, 3)), _slot.index());
        return stream::create(std::move(slot.value()), take_page().value(), phase::up, 1, which, other);
    }
    int unread_at_b() const {
        int n = 0;
        ::ioctl(b(), FIONREAD, &n);
        return n;
    }
};

class plain_and_direct : public plain {
protected:
    void SetUp() override {
        plain::SetUp();
        _a = end(0, far_end::daemon);
        std::jthread daemon([this] {
            while ((_a.flags().load() & shm::end_plain) == 0) {
                std::this_thread::yield();
            }
            _a.flags().fetch_or(shm::end_agreed);
        });
        ASSERT_TRUE(_a.become_plain(a(), base::deadline(5000), proto::plain_cause::none));
        daemon.join();
        shm::bell(b()).drain();
        // The daemon has brought 500 bytes one way and 300 the other.
        _a.header().ring[0].head = 500;
        _a.header().ring[1].head = 300;
        _a.header().ring[1].tail = 300;
    }
    void expect_untouched() {
        const auto& rings = _a.header().ring;
        EXPECT_EQ(rings[0].head.load(), 500u);
        EXPECT_EQ(rings[1].tail.load(), 300u);
        EXPECT_EQ(rings[0].flags.load() & (shm::ring_inexact | shm::ring_reset), 0u);
        EXPECT_EQ(unread_at_b(), 0);
    }
};

TEST_F(plain_and_direct, a_sender_that_is_killed_leaves_the_ring_to_the_daemon) {
    kill_a_holder({&_a.page().send_lock}, nothing);
    EXPECT_EQ(_a.shutdown(a(), SHUT_WR), 0);
    expect_untouched();
}

TEST_F(plain_and_direct, a_receiver_that_is_killed_leaves_the_ring_to_the_daemon) {
    kill_a_holder({&_a.page().recv_lock}, nothing);
    _a.leave_to_look(true);
    EXPECT_TRUE(_a.settle(a()));
    expect_untouched();
    EXPECT_EQ(::send(b(), "bytes", 5, 0), 5);
    char got[16];
    const iovec to{got, sizeof got};
    EXPECT_EQ(_a.receive(a(), &to, 1, MSG_DONTWAIT), 5);
}

class plain_and_local : public plain {
protected:
    stream _b;

    void SetUp() override {
        plain::SetUp();
        _a = end(0, far_end::program);
        _b = end(1, far_end::program);
    }
    static ssize_t send(stream& s, int fd, const std::string& text) {
        const iovec from{const_cast<char*>(text.data()), text.size()};
        return s.send(fd, &from, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    // Until nothing more comes; then errno, or 0 for an end of file.
    static std::string receive_all(stream& s, int fd, int& how_it_ends) {
        std::string all, piece(65536, '\0');
        for (;;) {
            const iovec to{piece.data(), piece.size()};
            const ssize_t n = s.receive(fd, &to, 1, MSG_DONTWAIT);
            if (n <= 0) {
                how_it_ends = n < 0 ? errno : 0;
                return all;
            }
            all.append(piece, 0, size_t(n));
        }
    }
};

TEST_F(plain_and_local, one_that_is_killed_while_it_asks_is_a_reset) {
    ASSERT_EQ(send(_b, b(), "bytes that the other end would send again"), 41);
    kill_a_holder({&_a.page().recv_lock, &_a.page().send_lock},
                  [this] { _a.flags().fetch_or(shm::end_plain | shm::end_reads_plain); });
    int end = 0;
    EXPECT_EQ(receive_all(_a, a(), end), "");
    EXPECT_EQ(end, ECONNRESET);
    receive_all(_b, b(), end);
    EXPECT_EQ(end, ECONNRESET);
}

TEST_F(plain_and_local, bytes_whose_sender_was_killed_do_not_go_twice) {
    const std::string text(900'000, 'x');
    ASSERT_EQ(send(_a, a(), text), ssize_t(text.size()));
    _a.bound_buffers({.send = 4096});  // from now on: the doorbell will not take it at once
    std::jthread asks([this] { _b.become_plain(b(), base::deadline(5000), proto::plain_cause::none); });
    int end = 0;
    while (!_a.is_plain()) {
        receive_all(_a, a(), end);
        ASSERT_EQ(end, EAGAIN);
    }
    asks.join();
    ASSERT_TRUE(_b.is_plain() && _a.page().owes.load() != 0);
    const int moved = unread_at_b();
    kill_a_holder({&_a.page().send_lock}, [this] { _a.page().moving = 1; });
    EXPECT_EQ(receive_all(_b, b(), end).size(), size_t(moved));
    EXPECT_EQ(end, EAGAIN);
    EXPECT_TRUE(_a.pay(a()));
    EXPECT_EQ(send(_a, a(), "more"), -1);
    EXPECT_EQ(receive_all(_b, b(), end), "");
    EXPECT_EQ(end, ECONNRESET);
}

// Another one has left a token that nobody counted. It must not be taken for a byte.
TEST_F(plain_and_local, after_a_kill_in_the_ring_it_moves) {
    kill_a_holder({&_a.page().send_lock}, nothing);
    ASSERT_EQ(send(_a, a(), "by the ring, "), 13);
    ASSERT_TRUE(_a.become_plain(a(), base::deadline(5000), proto::plain_cause::none));
    ASSERT_EQ(::send(a(), "and plainly", 11, 0), 11);
    int end = 0;
    EXPECT_EQ(receive_all(_b, b(), end), "by the ring, and plainly");
    EXPECT_EQ(end, EAGAIN);
    ASSERT_EQ(send(_b, b(), "answer"), 6);
    char got[16];
    EXPECT_EQ(::recv(a(), got, sizeof got, MSG_DONTWAIT), 6);
}

// The same where the other end asks: that one takes what was counted, this one cannot.
TEST_F(plain_and_local, after_a_kill_among_the_readers_it_is_reset_for_who_asks) {
    ASSERT_EQ(send(_b, b(), "bytes"), 5);
    kill_a_holder({&_a.page().recv_lock}, nothing);
    _a.set_low_mark(a(), 1);
    std::jthread asks([this] { _b.become_plain(b(), base::deadline(5000), proto::plain_cause::none); });
    int end = EAGAIN;
    while (end == EAGAIN) {
        receive_all(_a, a(), end);
    }
    EXPECT_EQ(end, ECONNRESET);
    asks.join();
}

}  // namespace
}  // namespace vmsgr::client
