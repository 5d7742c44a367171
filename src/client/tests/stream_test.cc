// A stream whose other end, a daemon or a program, writes what it likes into the shared memory.
#include <gtest/gtest.h>

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/streams/stream.hh"
#include "shm/bell.hh"

namespace vmsgr::client {
namespace {

TEST(stream, an_impossible_fill_ends_the_connection) {
    auto bell = shm::make_bell();
    auto slot = take_slot(1, 65536);
    auto page = take_page();
    ASSERT_TRUE(bell && slot && page);
    auto end = stream::create(std::move(*slot), std::move(*page), phase::up, 1, 0, far_end::program);
    auto& rings = end.header().ring;
    rings[0].head = rings[1].head = uint64_t(1) << 40;
    char bytes[16];
    const iovec piece{bytes, sizeof bytes};
    ::alarm(10);  // rather than look for ever
    for (int flags : {0, int(MSG_DONTWAIT)}) {
        EXPECT_EQ(end.receive(bell->program.get(), &piece, 1, flags), flags == 0 ? -1 : 0);
        EXPECT_TRUE(flags != 0 || errno == EPROTO) << strerror(errno);
    }
    ::alarm(0);
}

}  // namespace
}  // namespace vmsgr::client
