#include "proto/control.hh"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <string>

namespace vmsgr::proto {
namespace {

struct pair {
    base::unique_fd a, b;
    pair() {
        int fds[2];
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
        a.reset(fds[0]);
        b.reset(fds[1]);
    }
};

TEST(control, message_arrives_whole_with_its_descriptors) {
    pair p;
    request_msg out, in;
    out.id = 42;
    int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    int fds[] = {null, null};
    ASSERT_EQ(send_with_fds(p.a.get(), &out, sizeof out, fds, 0), 0);
    ::close(null);
    received r;
    ASSERT_EQ(receive_with_fds(p.b.get(), &in, sizeof in, 0, r), 0);
    EXPECT_EQ(r.bytes, sizeof in);
    EXPECT_EQ(in.id, 42u);
    ASSERT_EQ(r.fd_count, 2u);
    EXPECT_FALSE(r.truncated);
    EXPECT_EQ(::fcntl(r.fds[1].get(), F_GETFD), FD_CLOEXEC);
}

TEST(control, longer_message_is_marked_truncated) {
    pair p;
    char out[64] = {}, in[16];
    ASSERT_EQ(send_with_fds(p.a.get(), out, sizeof out, {}, 0), 0);
    received r;
    ASSERT_EQ(receive_with_fds(p.b.get(), in, sizeof in, 0, r), 0);
    EXPECT_TRUE(r.truncated);
}

TEST(control, surplus_descriptors_do_not_leak) {
    pair p;
    int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    // More than fds_max, by hand.
    constexpr size_t many = fds_max + 3;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * many)] = {};
    char byte = 1;
    iovec iov{&byte, 1};
    msghdr h{};
    h.msg_iov = &iov;
    h.msg_iovlen = 1;
    h.msg_control = control;
    h.msg_controllen = sizeof control;
    cmsghdr* c = CMSG_FIRSTHDR(&h);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * many);
    for (size_t i = 0; i < many; ++i) {
        memcpy(CMSG_DATA(c) + i * sizeof(int), &null, sizeof null);
    }
    ASSERT_EQ(::sendmsg(p.a.get(), &h, 0), 1);
    int next = ::dup(null);
    ::close(next);
    {
        received r;
        ASSERT_EQ(receive_with_fds(p.b.get(), &byte, 1, 0, r), 0);
        EXPECT_LE(r.fd_count, fds_max);
    }
    int after = ::dup(null);
    EXPECT_EQ(after, next);
    ::close(after);
    ::close(null);
}

TEST(control, closed_peer_is_zero_bytes_and_epipe) {
    pair p;
    p.a.reset();
    char in[8];
    received r;
    EXPECT_EQ(receive_with_fds(p.b.get(), in, sizeof in, 0, r), 0);
    EXPECT_EQ(r.bytes, 0u);
    EXPECT_EQ(send_with_fds(p.b.get(), in, sizeof in, {}, 0), EPIPE);
}

TEST(control, nothing_there_is_eagain) {
    pair p;
    char in[8];
    received r;
    EXPECT_EQ(receive_with_fds(p.b.get(), in, sizeof in, MSG_DONTWAIT, r), EAGAIN);
}

TEST(control, socket_path_is_bounded) {
    sockaddr_un un;
    uint32_t len = 0;
    EXPECT_EQ(unix_address(std::string(107, 'a').c_str(), &un, len), 0);
    EXPECT_EQ(un.sun_path[107], 0);
    EXPECT_EQ(unix_address(std::string(108, 'a').c_str(), &un, len), ENAMETOOLONG);
}

}  // namespace
}  // namespace vmsgr::proto
