#include <fcntl.h>
#include <gtest/gtest.h>

#include "base/unique_fd.hh"

namespace vmsgr::base {
namespace {

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) != -1; }

TEST(unique_fd, closes_once_and_moves) {
    int raw = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    {
        unique_fd a(raw);
        unique_fd b(std::move(a));
        EXPECT_FALSE(a);
        EXPECT_EQ(b.get(), raw);
        unique_fd& same = b;
        b = std::move(same);
        EXPECT_TRUE(is_open(raw));
    }
    EXPECT_FALSE(is_open(raw));
}

TEST(unique_fd, release_gives_the_duty_away) {
    int raw = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    {
        EXPECT_EQ(unique_fd(raw).release(), raw);
    }
    EXPECT_TRUE(is_open(raw));
    ::close(raw);
}

}  // namespace
}  // namespace vmsgr::base
