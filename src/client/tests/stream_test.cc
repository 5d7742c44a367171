// A stream whose other end, a daemon or a program, writes what it likes into the shared memory.
#include <gtest/gtest.h>

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/carry.hh"

namespace vmsgr::client {
namespace {

TEST(stream, an_impossible_fill_ends_the_connection) {
    base::unique_fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    conduit_end end;
    ASSERT_TRUE(make_conduit_end(65536, socket.get(), *base::parse_address("10.0.0.1:80"), phase::up, end,
                                 far_end::program));
    auto memory = shm::open_conduit(end.memory.get(), shm::ring_bytes_max);
    ASSERT_TRUE(memory);
    auto& rings = memory->header().ring;
    rings[0].head = rings[1].head = uint64_t(1) << 40;
    char bytes[16];
    const iovec piece{bytes, sizeof bytes};
    ::alarm(10);  // rather than look for ever
    for (int flags : {0, int(MSG_DONTWAIT)}) {
        EXPECT_EQ(end.stream.receive(end.bell.get(), &piece, 1, flags), flags == 0 ? -1 : 0);
        EXPECT_TRUE(flags != 0 || errno == EPROTO) << strerror(errno);
    }
    ::alarm(0);
}

}  // namespace
}  // namespace vmsgr::client
