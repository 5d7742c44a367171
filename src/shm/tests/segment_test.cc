#include "shm/segment.hh"

#include "shm/arena.hh"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/sys.hh"

namespace vmsgr::shm {
namespace {

base::unique_fd raw_memfd(size_t bytes, int seals) {
    base::unique_fd fd(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    EXPECT_EQ(::ftruncate(fd.get(), off_t(bytes)), 0);
    if (seals != 0) {
        EXPECT_EQ(::fcntl(fd.get(), F_ADD_SEALS, seals), 0);
    }
    return fd;
}
constexpr int all_seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

TEST(segment, new_memory_cannot_change_its_size) {
    auto fd = create_sealed("test", 8192);
    ASSERT_TRUE(fd);
    EXPECT_EQ(::ftruncate(fd->get(), 4096), -1);
    EXPECT_EQ(errno, EPERM);
    EXPECT_EQ(::ftruncate(fd->get(), 16384), -1);
    EXPECT_EQ(::fcntl(fd->get(), F_ADD_SEALS, F_SEAL_WRITE), -1);
    EXPECT_EQ(::fcntl(fd->get(), F_GETFD), FD_CLOEXEC);
}

TEST(segment, unsealed_memory_is_refused) {
    for (int seals : {0, F_SEAL_SHRINK, F_SEAL_SHRINK | F_SEAL_GROW, F_SEAL_GROW | F_SEAL_SEAL}) {
        auto fd = raw_memfd(8192, seals);
        EXPECT_FALSE(map_sealed(fd.get(), 8192)) << seals;
        EXPECT_FALSE(sealed_size(fd.get(), 1, 1 << 20)) << seals;
    }
    auto fd = raw_memfd(8192, all_seals);
    EXPECT_TRUE(map_sealed(fd.get(), 8192));
}

TEST(segment, other_size_is_refused) {
    auto fd = raw_memfd(8192, all_seals);
    EXPECT_FALSE(map_sealed(fd.get(), 4096));
    EXPECT_FALSE(map_sealed(fd.get(), 12288));
    EXPECT_FALSE(sealed_size(fd.get(), 8193, 1 << 20));
    EXPECT_FALSE(sealed_size(fd.get(), 1, 8191));
}

TEST(segment, what_is_no_memfd_is_refused) {
    base::unique_fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    int fds[2];
    ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
    base::unique_fd in(fds[0]), out(fds[1]);
    char path[] = "/tmp/vmsgr-segment-XXXXXX";
    base::unique_fd file(::mkostemp(path, O_CLOEXEC));
    ::unlink(path);
    for (int fd : {null.get(), in.get(), file.get(), -1}) {
        EXPECT_FALSE(open_arena(fd, ring_bytes_max));
    }
}

TEST(segment, published_memory_is_written_by_its_maker_alone) {
    auto made = create_published("test", page);
    ASSERT_TRUE(made);
    made->memory.data()[0] = std::byte{1};
    auto seen = map_published(made->fd.get(), page);
    ASSERT_TRUE(seen);
    EXPECT_EQ(seen->data()[0], std::byte{1});
    EXPECT_EQ(::mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED, made->fd.get(), 0), MAP_FAILED);
    EXPECT_EQ(::pwrite(made->fd.get(), "x", 1, 0), -1);
    EXPECT_EQ(::mprotect(seen->data(), page, PROT_READ | PROT_WRITE), -1);
}

TEST(segment, ring_sizes_are_powers_of_two_within_limits) {
    for (uint64_t n : {0ull, 1ull, 2048ull, 5000ull, 300000ull, 128ull << 20, ~0ull}) {
        EXPECT_FALSE(valid_ring_bytes(n)) << n;
    }
    for (uint64_t n : {4096ull, 262144ull, 64ull << 20}) {
        EXPECT_TRUE(valid_ring_bytes(n)) << n;
    }
}

}  // namespace
}  // namespace vmsgr::shm
