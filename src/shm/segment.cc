#include "shm/segment.hh"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <bit>

#include "base/sys.hh"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace vmsgr::shm {

namespace {

constexpr int needed_seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

}  // namespace

mapping& mapping::operator=(mapping&& o) noexcept {
    std::swap(_at, o._at);
    std::swap(_bytes, o._bytes);
    return *this;
}

mapping::~mapping() {
    if (_at != nullptr) {
        ::munmap(_at, _bytes);
    }
}

base::result<base::unique_fd> create_unsealed(const char* name, size_t bytes) {
    constexpr unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    // Kernels before 6.3 do not know MFD_NOEXEC_SEAL; later ones warn without it.
    base::unique_fd fd(::memfd_create(name, flags | MFD_NOEXEC_SEAL));
    if (!fd && errno == EINVAL) {
        fd.reset(::memfd_create(name, flags));
    }
    if (!fd) {
        return std::unexpected(base::os_error("memfd_create"));
    }
    // Beyond it the kernel sends SIGXFSZ, which ends the program.
    rlimit limit{};
    if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < bytes) {
        return base::fail(EFBIG, "shared memory of ", bytes, " bytes is above this program's RLIMIT_FSIZE");
    }
    if (::ftruncate(fd.get(), off_t(bytes)) != 0) {
        return std::unexpected(base::os_error("ftruncate of shared memory"));
    }
    return fd;
}

namespace {

base::result<mapping> map(int fd, size_t bytes, int protection) {
    void* at = ::mmap(nullptr, bytes, protection, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        return std::unexpected(base::os_error("mmap of shared memory"));
    }
    return mapping(static_cast<std::byte*>(at), bytes);
}

}  // namespace

base::result<mapping> map_own(int fd, size_t bytes) { return map(fd, bytes, PROT_READ | PROT_WRITE); }

base::result<base::unique_fd> create_sealed(const char* name, size_t bytes) {
    auto fd = create_unsealed(name, bytes);
    if (fd && sys::fcntl(fd->get(), F_ADD_SEALS, needed_seals) != 0) {
        return std::unexpected(base::os_error("sealing shared memory"));
    }
    return fd;
}

base::result<new_page> create_published(const char* name, size_t bytes) {
    auto fd = create_unsealed(name, bytes);
    if (!fd) {
        return std::unexpected(fd.error());
    }
    auto ours = map(fd->get(), bytes, PROT_READ | PROT_WRITE);
    if (!ours) {
        return std::unexpected(ours.error());
    }
    // From here on nobody can map it for writing, nor write to it: our mapping is the only one that can.
    if (sys::fcntl(fd->get(), F_ADD_SEALS, needed_seals | F_SEAL_FUTURE_WRITE) != 0) {
        return std::unexpected(base::os_error("sealing shared memory"));
    }
    return new_page{std::move(*fd), std::move(*ours)};
}

base::result<mapping> map_published(int fd, size_t bytes) {
    if (auto found = sealed_size(fd, bytes, bytes); !found) {
        return std::unexpected(found.error());
    }
    return map(fd, bytes, PROT_READ);
}

base::result<size_t> sealed_size(int fd, size_t min, size_t max) {
    int seals = sys::fcntl(fd, F_GET_SEALS);
    if (seals < 0 && errno != EINVAL) {
        return std::unexpected(base::os_error("the seals of shared memory"));
    }
    if (seals < 0 || (seals & needed_seals) != needed_seals) {
        return base::fail(EINVAL, "shared memory is not sealed against resizing");
    }
    // Touching memory of huge pages can end in SIGBUS when the pool is empty.
    struct statfs fs;
    if (::fstatfs(fd, &fs) != 0) {
        return std::unexpected(base::os_error("fstatfs of shared memory"));
    }
    if (fs.f_type != TMPFS_MAGIC) {
        return base::fail(EINVAL, "shared memory is of huge pages or no memfd");
    }
    struct stat st;
    if (::fstat(fd, &st) != 0) {
        return std::unexpected(base::os_error("fstat of shared memory"));
    }
    if (st.st_size < 0 || size_t(st.st_size) < min || size_t(st.st_size) > max) {
        return base::fail(EINVAL, "shared memory of ", st.st_size, " bytes, expected ", min, " to ", max);
    }
    return size_t(st.st_size);
}

base::result<mapping> map_sealed(int fd, size_t bytes) {
    if (auto found = sealed_size(fd, bytes, bytes); !found) {
        return std::unexpected(found.error());
    }
    return map(fd, bytes, PROT_READ | PROT_WRITE);
}

void give_back_memory(std::byte* at, size_t bytes) noexcept {
    const int saved = errno;
    ::madvise(at, bytes, MADV_REMOVE);
    errno = saved;
}

bool valid_ring_bytes(uint64_t n) noexcept {
    return n >= ring_bytes_min && n <= ring_bytes_max && std::has_single_bit(n);
}

base::result<new_page> create_mapped(const char* name, size_t bytes) {
    auto fd = create_sealed(name, bytes);
    if (!fd) {
        return std::unexpected(fd.error());
    }
    auto mapped = map(fd->get(), bytes, PROT_READ | PROT_WRITE);
    if (!mapped) {
        return std::unexpected(mapped.error());
    }
    return new_page{std::move(*fd), std::move(*mapped)};
}

}  // namespace vmsgr::shm
