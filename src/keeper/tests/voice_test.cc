#include "keeper/voice.hh"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

namespace vmsgr::keeper {

namespace {

// Stderr is something else as long as this lives.
class stderr_is {
    base::unique_fd _before;

public:
    explicit stderr_is(int fd) : _before(::dup(STDERR_FILENO)) { ::dup2(fd, STDERR_FILENO); }
    ~stderr_is() { ::dup2(_before.get(), STDERR_FILENO); }
};

std::string read_from(int fd) {
    std::string text(100'000, 0);
    const ssize_t n = ::read(fd, text.data(), text.size());
    text.resize(size_t(std::max<ssize_t>(n, 0)));
    return text;
}

}  // namespace

TEST(voice, does_not_wait_for_whoever_reads_a_pipe) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const base::unique_fd out(ends[0]), in(ends[1]);
    const stderr_is other(in.get());
    const voice v;
    v.say("worker {} ended", 7);
    EXPECT_EQ(read_from(out.get()), "vmsgrd: worker 7 ended\n");
    for (int i = 0; i < 10'000; ++i) {
        v.say("{}", "a line that nobody reads");
    }
    EXPECT_EQ(::fcntl(in.get(), F_GETFL) & O_NONBLOCK, 0) << "others who have the pipe may want to wait";
}

TEST(voice, does_not_wait_for_whoever_reads_a_socket) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    const base::unique_fd out(ends[0]), in(ends[1]);
    const stderr_is other(in.get());
    const voice v;
    v.say("{}", "text");
    EXPECT_EQ(read_from(out.get()), "vmsgrd: text\n");
    for (int i = 0; i < 10'000; ++i) {
        v.say("{}", "a line that nobody reads");
    }
}

TEST(voice, cuts_what_is_too_long) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const base::unique_fd out(ends[0]), in(ends[1]);
    const stderr_is other(in.get());
    voice().say("{}", std::string(5000, 'x'));
    const auto text = read_from(out.get());
    EXPECT_LT(text.size(), 600u);
    EXPECT_TRUE(text.ends_with("x\n"));
}

}  // namespace vmsgr::keeper
