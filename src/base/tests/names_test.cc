#include "base/names.hh"

#include <errno.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <string.h>

#include "base/unique_fd.hh"

namespace vmsgr::base {
namespace {

TEST(names, are_the_kernels) {
    unique_fd fd(::socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_storage ss;
    socklen_t len = to_sockaddr(loopback(AF_INET, 0), ss);
    ASSERT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&ss), len), 0);
    const address own = local_name(fd.get());
    EXPECT_TRUE(own.is_loopback());
    EXPECT_NE(own.port, 0);
    EXPECT_EQ(peer_name(fd.get()), address{});
    EXPECT_EQ(local_name(-1), address{});
    unique_fd unix_socket(::socket(AF_UNIX, SOCK_STREAM, 0));
    EXPECT_EQ(local_name(unix_socket.get()), address{});
}

TEST(names, are_given_as_the_kernel_gives_them) {
    const address a = *parse_address("[2001:db8::1]:443");
    sockaddr_in6 in6{};
    socklen_t len = sizeof in6;
    EXPECT_EQ(give_name(a, reinterpret_cast<sockaddr*>(&in6), &len), 0);
    EXPECT_EQ(len, sizeof in6);
    EXPECT_EQ(from_sockaddr(reinterpret_cast<sockaddr*>(&in6), len), a);
}

TEST(names, fit_the_place_that_the_caller_has) {
    const address a = *parse_address("10.0.0.1:80");
    unsigned char place[sizeof(sockaddr_in)];
    memset(place, 0x55, sizeof place);
    socklen_t len = 4;
    EXPECT_EQ(give_name(a, reinterpret_cast<sockaddr*>(place), &len), 0);
    EXPECT_EQ(len, sizeof(sockaddr_in)) << "the whole length, so that the caller sees what is missing";
    EXPECT_NE(place[3], 0x55);
    EXPECT_EQ(place[4], 0x55);
    len = 0;
    EXPECT_EQ(give_name(a, reinterpret_cast<sockaddr*>(place), &len), 0);
    len = socklen_t(-1);
    EXPECT_EQ(give_name(a, reinterpret_cast<sockaddr*>(place), &len), -1);
    EXPECT_EQ(errno, EINVAL);
    EXPECT_EQ(give_name(a, nullptr, &len), -1);
    EXPECT_EQ(errno, EFAULT);
    errno = 0;
    EXPECT_EQ(give_name(a, reinterpret_cast<sockaddr*>(place), nullptr), -1);
    EXPECT_EQ(errno, EFAULT);
}

}  // namespace
}  // namespace vmsgr::base
