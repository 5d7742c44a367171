// Sealed shared memory. A memfd that can still shrink lets its other holder kill us with SIGBUS, so everything
// passed between processes carries F_SEAL_SHRINK, F_SEAL_GROW and F_SEAL_SEAL, and is refused without them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/error.hh"
#include "base/unique_fd.hh"
#include "shm/layout.hh"

namespace vmsgr::shm {

// A shared mapping with one owner. Any thread.
class mapping {
    std::byte* _at = nullptr;
    size_t _bytes = 0;

public:
    mapping() noexcept = default;
    mapping(std::byte* at, size_t bytes) noexcept : _at(at), _bytes(bytes) {}
    mapping(mapping&& o) noexcept : _at(std::exchange(o._at, nullptr)), _bytes(std::exchange(o._bytes, 0)) {}
    mapping& operator=(mapping&& o) noexcept;
    ~mapping();

    std::byte* data() const noexcept { return _at; }
    size_t size() const noexcept { return _bytes; }
    explicit operator bool() const noexcept { return _at != nullptr; }
    std::byte* release() noexcept { return std::exchange(_at, nullptr); }
};

// Memory of one owner, which may resize it as long as nobody else has it.
base::result<base::unique_fd> create_unsealed(const char* name, size_t bytes);
base::result<base::unique_fd> create_sealed(const char* name, size_t bytes);
// Maps a memfd that somebody sent: checks seals and that its size is exactly `bytes`.
// Any memory, for writing; without a look at its seals.
base::result<mapping> map_own(int fd, size_t bytes);
base::result<mapping> map_sealed(int fd, size_t bytes);
// The size of a sealed memfd, if it has the seals and lies within [min, max].
base::result<size_t> sealed_size(int fd, size_t min, size_t max);

bool valid_ring_bytes(uint64_t n) noexcept;

// Pages of shared memory, whose bytes nobody needs any more. Keeps errno; no harm if the kernel refuses.
void give_back_memory(std::byte* at, size_t bytes) noexcept;

// Memory and the descriptor by which somebody else gets it.
struct new_page {
    base::unique_fd fd;
    mapping memory;
};
base::result<new_page> create_mapped(const char* name, size_t bytes);

// Memory that only its maker writes: whoever gets the descriptor maps it for reading.
base::result<new_page> create_published(const char* name, size_t bytes);
base::result<mapping> map_published(int fd, size_t bytes);

}  // namespace vmsgr::shm
