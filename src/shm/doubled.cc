#include "shm/doubled.hh"

#include <sys/mman.h>

namespace vmsgr::shm {

base::result<doubled_rings> map_doubled(int memory, size_t at, uint64_t capacity) {
    auto failed = [] { return std::unexpected(base::os_error("mapping the rings of a conduit twice")); };
    // Room for all four first, so that nobody else's mapping lies between them.
    void* room = ::mmap(nullptr, 4 * capacity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) {
        return failed();
    }
    mapping all(static_cast<std::byte*>(room), 4 * capacity);
    for (unsigned i = 0; i < 4; ++i) {
        off_t from = off_t(at + (i / 2) * capacity);
        if (::mmap(all.data() + i * capacity, capacity, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory, from) ==
            MAP_FAILED) {
            return failed();
        }
    }
    return doubled_rings(std::move(all), capacity);
}

}  // namespace vmsgr::shm
