// The two rings of a conduit, each mapped twice back to back: whatever lies in a ring is contiguous, also where it
// wraps, so a message can be written and read in place.
//
// One owner, any thread. The conduit's own mapping stays for its header.
#pragma once

#include <utility>

#include "base/error.hh"
#include "shm/segment.hh"

namespace vmsgr::shm {

class doubled_rings {
    mapping _all;  // ring 0, ring 0, ring 1, ring 1
    uint64_t _capacity = 0;

public:
    doubled_rings() noexcept = default;
    doubled_rings(mapping all, uint64_t capacity) noexcept : _all(std::move(all)), _capacity(capacity) {}
    doubled_rings(doubled_rings&& o) noexcept : _all(std::move(o._all)), _capacity(std::exchange(o._capacity, 0)) {}
    doubled_rings& operator=(doubled_rings&& o) noexcept {
        _all = std::move(o._all);
        std::swap(_capacity, o._capacity);
        return *this;
    }

    uint64_t capacity() const noexcept { return _capacity; }
    std::byte* ring(unsigned which) const noexcept { return _all.data() + (which != 0 ? 2 * _capacity : 0); }
};

// `memory` is an arena's memfd that was checked (open_arena) or made here; `at`: where the slot's rings begin in it.
base::result<doubled_rings> map_doubled(int memory, size_t at, uint64_t capacity);

}  // namespace vmsgr::shm
