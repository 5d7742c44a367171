// An arena: memory that two parties share, with slots for connections (layout.hh). Making and touching new memory is
// most of what a short connection costs, so a slot that both ends have left serves the next connection of the same
// two parties, and its first pages are warm.
//
// `arena` is a checked mapping, for either side. `made_arena` is its maker's account of the slots: private memory,
// which the other side cannot change. One thread, or its caller's lock.
#pragma once

#include <cstdint>
#include <optional>

#include "base/error.hh"
#include "base/unique_fd.hh"
#include "shm/segment.hh"

namespace vmsgr::shm {

// One connection's place, as long as the arena is mapped. A view: it owns nothing.
struct conduit {
    conduit_header* words = nullptr;
    std::byte* rings = nullptr;
    uint64_t capacity = 0;  // of each ring; checked, private

    conduit_header& header() const noexcept { return *words; }
    std::byte* ring_data(int ring) const noexcept { return rings + (ring != 0 ? capacity : 0); }
    explicit operator bool() const noexcept { return words != nullptr; }
};

class arena {
    mapping _map;
    uint32_t _slots = 0;
    uint32_t _ring_bytes = 0;

public:
    arena() noexcept = default;
    arena(mapping m, uint32_t slots, uint32_t ring_bytes) noexcept
        : _map(std::move(m)), _slots(slots), _ring_bytes(ring_bytes) {}

    explicit operator bool() const noexcept { return bool(_map); }
    uint32_t slots() const noexcept { return _slots; }
    uint32_t ring_bytes() const noexcept { return _ring_bytes; }
    arena_header& header() const noexcept { return *reinterpret_cast<arena_header*>(_map.data()); }
    bool closed() const noexcept { return header().closed.load(std::memory_order_relaxed) != 0; }
    void close() const noexcept { header().closed.store(1, std::memory_order_relaxed); }

    // Precondition: slot < slots().
    conduit at(uint32_t slot) const noexcept;
    // Gives the memory behind the first pages of a slot's rings back to the system. Nobody uses the slot.
    void trim(uint32_t slot) const noexcept;
};

struct new_arena {
    base::unique_fd fd;
    arena memory;
};
// ring_bytes: a power of two within the layout's limits.
base::result<new_arena> create_arena(uint32_t slots, uint32_t ring_bytes);
// Memory that somebody sent: seals, size, magic, version and geometry are checked; ring_limit is ours.
base::result<arena> open_arena(int fd, uint64_t ring_limit);

// A slot as new, but for old bytes in its rings, which the two parties had before.
void renew(conduit_header& h) noexcept;

class made_arena {
    arena _arena;
    unsigned _end;  // which end of each conduit is the maker's
    uint64_t _held = 0;  // slots whose connection the maker has not left
    uint64_t _leaving = 0;  // slots that the maker has left; the other end may use them still

public:
    made_arena() noexcept = default;
    made_arena(arena a, unsigned end) noexcept : _arena(std::move(a)), _end(end) {}

    const arena& memory() const noexcept { return _arena; }
    // A slot, renewed; none when all are in use, or somebody has closed the arena.
    std::optional<uint32_t> take() noexcept;
    // The maker's end is closed and nothing on this side touches the slot again.
    void give_back(uint32_t slot) noexcept;
    // No connection of the maker's own is in it.
    bool unused() const noexcept { return _held == 0; }

private:
    void reclaim() noexcept;
};

}  // namespace vmsgr::shm
