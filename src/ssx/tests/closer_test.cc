// Closing on helper threads: nobody who hands something over waits, and nobody's closes wait for another user's.
#include "ssx/closer.hh"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <thread>
#include <vector>

#include "base/sockets.hh"

using namespace vmsgr;
using namespace std::chrono_literals;
using ssx::closer;
using ssx::closing_account;

namespace {

template <typename Condition>
bool within(std::chrono::milliseconds limit, Condition c) {
    const auto until = std::chrono::steady_clock::now() + limit;
    while (!c()) {
        if (std::chrono::steady_clock::now() > until) {
            return false;
        }
        std::this_thread::sleep_for(1ms);
    }
    return true;
}

// A connected TCP socket whose peer reads nothing, so that its last close waits for an hour.
struct lingering {
    base::unique_fd listener, peer, fd;
    lingering() {
        sockaddr_in at{};
        at.sin_family = AF_INET;
        at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t len = sizeof at;
        auto* sa = reinterpret_cast<sockaddr*>(&at);
        listener.reset(::socket(AF_INET, SOCK_STREAM, 0));
        const int small = 4096;
        ::setsockopt(listener.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        EXPECT_EQ(::bind(listener.get(), sa, len), 0);
        EXPECT_EQ(::listen(listener.get(), 1), 0);
        EXPECT_EQ(::getsockname(listener.get(), sa, &len), 0);
        fd.reset(::socket(AF_INET, SOCK_STREAM, 0));
        EXPECT_EQ(::connect(fd.get(), sa, len), 0);
        peer.reset(::accept(listener.get(), nullptr, nullptr));
        std::vector<char> bytes(65536);
        while (::send(fd.get(), bytes.data(), bytes.size(), MSG_DONTWAIT) > 0) {
        }
        const linger hour{1, 3600};
        EXPECT_EQ(::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &hour, sizeof hour), 0);
    }
};

TEST(closer, closes_a_socket_that_lingers_for_an_hour) {
    closer c(16);
    closing_account who;
    lingering l;
    base::unique_fd fd(std::move(l.fd));
    ASSERT_TRUE(c.close(fd, who));
    EXPECT_FALSE(fd);
    EXPECT_TRUE(within(5s, [&] { return who.waiting == 0 && c.waiting() == 0; }));
    EXPECT_EQ(c.closed(), 1u);
}

TEST(closer, closes_a_socket_that_holds_one_that_lingers) {
    closer c(16);
    closing_account who;
    int pair[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    base::unique_fd mine(pair[0]), other(pair[1]);
    {
        lingering l;
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
        char byte = 0;
        iovec iov{&byte, 1};
        msghdr m{};
        m.msg_iov = &iov;
        m.msg_iovlen = 1;
        m.msg_control = control;
        m.msg_controllen = sizeof control;
        auto* h = CMSG_FIRSTHDR(&m);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN(sizeof(int));
        const int fd = l.fd.get();
        memcpy(CMSG_DATA(h), &fd, sizeof fd);
        ASSERT_EQ(::sendmsg(other.get(), &m, 0), 1);
    }  // not the last holder
    ASSERT_TRUE(c.close(mine, who));
    EXPECT_TRUE(within(5s, [&] { return who.waiting == 0; }));
}

TEST(closer, knows_what_may_wait_without_end) {
    base::unique_fd memory(::memfd_create("m", MFD_CLOEXEC)), file(::open("/proc/self/exe", O_RDONLY)),
        socket(::socket(AF_INET, SOCK_STREAM, 0));
    EXPECT_TRUE(closer::ends_soon(memory.get()));
    EXPECT_TRUE(closer::ends_soon(socket.get()));
    EXPECT_FALSE(closer::ends_soon(file.get()));
    EXPECT_FALSE(closer::ends_soon(-1));
}

TEST(closer, closes_files_of_all_users_in_time_and_takes_no_more_than_it_may) {
    closer c(64);
    std::vector<closing_account> users(40);
    const auto before = base::unique_fd(::dup(0)).get();
    for (int round = 0; round < 20; ++round) {
        for (auto& u : users) {
            base::unique_fd fd(::open("/proc/self/exe", O_RDONLY));
            while (!c.close(fd, u)) {
                EXPECT_EQ(c.waiting(), 64u);
                EXPECT_TRUE(fd);
                std::this_thread::yield();
            }
        }
    }
    EXPECT_TRUE(within(20s, [&] { return c.waiting() == 0; }));
    EXPECT_EQ(c.closed(), 800u);
    for (auto& u : users) {
        EXPECT_EQ(u.waiting, 0u);
    }
    EXPECT_EQ(base::unique_fd(::dup(0)).get(), before) << "descriptors are left";
}

TEST(closer, is_used_from_several_threads) {
    closer c(4);  // so few that a slow thread is overtaken by all others
    closing_account who;
    {
        std::vector<std::jthread> shards;
        for (int i = 0; i < 3; ++i) {
            shards.emplace_back([&] {
                for (int k = 0; k < 2000; ++k) {
                    base::unique_fd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
                    while (!c.close(fd, who)) {
                        std::this_thread::yield();
                    }
                }
            });
        }
    }
    EXPECT_TRUE(within(10s, [&] { return who.waiting == 0 && c.waiting() == 0; }));
    EXPECT_EQ(c.closed(), 6000u);
}

}  // namespace
