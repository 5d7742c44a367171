// Memory of whole pages, full of zeros, straight from the kernel: for code that must not use the heap, as hooks and
// signal handlers. The caller owns it. Any thread. Null: there is none; errno says why.
#pragma once

#include <sys/mman.h>

#include <cstddef>

namespace vmsgr::base {

// A page costs memory once it is touched. flags: of mmap, beside MAP_ANONYMOUS.
inline void* new_pages(size_t bytes, int flags = MAP_PRIVATE | MAP_NORESERVE) noexcept {
    void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? nullptr : at;
}
// The forks of this process have the same, not a copy.
inline void* new_pages_for_forks(size_t bytes) noexcept { return new_pages(bytes, MAP_SHARED); }

}  // namespace vmsgr::base
