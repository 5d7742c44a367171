// What the kernel says of sockets, as base/sockets.hh reads it.
#include "base/sockets.hh"

#include <errno.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>

#include "base/unique_fd.hh"

namespace vmsgr::base {
namespace {

struct packets {
    unique_fd ours, theirs;
    packets() {
        int pair[2];
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        ours.reset(pair[0]);
        theirs.reset(pair[1]);
    }
    void send_right() const {
        alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
        msghdr m{};
        m.msg_control = control.data();
        m.msg_controllen = control.size();
        cmsghdr* c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        *reinterpret_cast<int*>(CMSG_DATA(c)) = theirs.get();
        EXPECT_EQ(::sendmsg(theirs.get(), &m, 0), 0);
    }
};

TEST(sockets, errors_that_only_a_programs_own_fault_brings_end_no_connection) {
    EXPECT_EQ(ending_of_tcp(ETIMEDOUT, EPROTO), ETIMEDOUT);
    for (const int err : {0, -1, EAGAIN, EBADF, EFAULT, EINTR, EINVAL, ENOTSOCK, 4095, 1 << 30}) {
        EXPECT_EQ(ending_of_tcp(err, ECONNRESET), ECONNRESET) << err;
    }
}

TEST(sockets, only_one_that_holds_nothing_is_empty) {
    EXPECT_TRUE(shut_down_empty(packets().ours.get()));
    packets left;
    left.theirs.reset();
    EXPECT_TRUE(shut_down_empty(left.ours.get()));
    packets bytes, none, right;
    EXPECT_EQ(::send(bytes.theirs.get(), "x", 1, 0), 1);
    EXPECT_FALSE(shut_down_empty(bytes.ours.get()));
    EXPECT_EQ(::send(none.theirs.get(), "", 0, 0), 0);
    EXPECT_FALSE(shut_down_empty(none.ours.get()));
    right.send_right();
    EXPECT_FALSE(shut_down_empty(right.ours.get()));
    EXPECT_FALSE(shut_down_empty(-1));
}

TEST(sockets, nothing_comes_after_the_look) {
    packets p;
    EXPECT_TRUE(shut_down_empty(p.ours.get()));
    EXPECT_EQ(::send(p.theirs.get(), "x", 1, MSG_NOSIGNAL), -1);
    EXPECT_EQ(errno, EPIPE);
}

TEST(sockets, the_kernel_tells_what_the_peer_has_not_read) {
    packets p;
    EXPECT_EQ(unread_by_peer(p.ours.get()), 0u);
    p.send_right();
    EXPECT_GT(unread_by_peer(p.theirs.get()), 0u);
    char byte;
    EXPECT_EQ(::recv(p.ours.get(), &byte, 1, 0), 0);
    EXPECT_EQ(unread_by_peer(p.theirs.get()), 0u);
    p.send_right();
    p.ours.reset();
    EXPECT_EQ(unread_by_peer(p.theirs.get()), 0u);
}

}  // namespace
}  // namespace vmsgr::base
