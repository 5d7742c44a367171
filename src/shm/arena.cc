#include "shm/arena.hh"

#include <errno.h>
#include <sys/mman.h>

#include <bit>

#include "base/clock.hh"
#include "shm/ring.hh"

namespace vmsgr::shm {

namespace {

// So much of each ring stays in memory between two connections.
constexpr size_t warm_bytes = 64u << 10;

constexpr uint64_t bit(uint32_t slot) { return uint64_t(1) << slot; }

constexpr int64_t give_back_every_ns = 1'000'000'000;

}  // namespace

void give_back_ring(std::byte* data, uint64_t used_bytes, int64_t& gave_back_ns) noexcept {
    const int64_t now = base::now_ns();
    if (now - gave_back_ns >= give_back_every_ns) {
        gave_back_ns = now;
        give_back_memory(data + ring_bytes_kept, used_bytes - ring_bytes_kept);
    }
}

conduit arena::at(uint32_t slot) const noexcept {
    return {reinterpret_cast<conduit_header*>(_map.data() + slot_header_at(slot)),
            _map.data() + slot_rings_at(_slots, _ring_bytes, slot), _ring_bytes};
}

void arena::trim(uint32_t slot) const noexcept {
    if (_ring_bytes <= warm_bytes) {
        return;
    }
    const conduit c = at(slot);
    for (int ring : {0, 1}) {
        // Not used up to there: nothing to give back. The word is only a hint here, and harmless if it lies.
        if (c.header().ring[ring].head.load(std::memory_order_relaxed) > warm_bytes) {
            give_back_memory(c.ring_data(ring) + warm_bytes, _ring_bytes - warm_bytes);
        }
    }
}

base::result<new_arena> create_arena(uint32_t slots, uint32_t ring_bytes) {
    const size_t bytes = arena_bytes(slots, ring_bytes);
    auto made = create_mapped("vmsgr-arena", bytes);
    if (!made) {
        return std::unexpected(made.error());
    }
    // New shared memory is zero: every other word starts right.
    auto& h = *reinterpret_cast<arena_header*>(made->memory.data());
    h.magic = arena_magic;
    h.version = layout_version;
    h.slots = slots;
    h.ring_bytes = ring_bytes;
    h.bytes = bytes;
    return new_arena{std::move(made->fd), arena(std::move(made->memory), slots, ring_bytes)};
}

base::result<arena> open_arena(int fd, uint64_t ring_limit) {
    auto size = sealed_size(fd, arena_bytes(1, ring_bytes_min), arena_bytes(arena_slots_max, ring_bytes_max));
    if (!size) {
        return std::unexpected(size.error());
    }
    auto mapped = map_sealed(fd, *size);
    if (!mapped) {
        return std::unexpected(mapped.error());
    }
    // Copied once, as the other side may change them at any time; only the copy is checked and used.
    const auto& h = *reinterpret_cast<const volatile arena_header*>(mapped->data());
    const uint64_t magic = h.magic, bytes = h.bytes;
    const uint16_t version = h.version;
    const uint32_t slots = h.slots, ring_bytes = h.ring_bytes;
    if (magic != arena_magic || version != layout_version) {
        return base::fail(EPROTO, "shared memory of another layout (version ", version, ", ours is ", layout_version,
                          ")");
    }
    if (slots == 0 || slots > arena_slots_max || !valid_ring_bytes(ring_bytes) || bytes != *size ||
        arena_bytes(slots, ring_bytes) != *size) {
        return base::fail(EINVAL, "shared memory of ", *size, " bytes does not hold ", slots, " slots with rings of ",
                          ring_bytes);
    }
    if (ring_bytes > ring_limit) {
        return base::fail(ENOBUFS, "rings of ", ring_bytes, " bytes, the limit is ", ring_limit);
    }
    return arena(std::move(*mapped), slots, ring_bytes);
}

void renew(conduit_header& h) noexcept {
    constexpr auto relaxed = std::memory_order_relaxed;  // the message that announces the connection orders it
    h.status.store(conduit_connecting, relaxed);
    h.error.store(0, relaxed);
    h.local = {};
    h.peer = {};
    for (auto& e : h.end) {
        e.flags.store(0, relaxed);
    }
    for (auto& r : h.ring) {
        r.head.store(0, relaxed);
        r.tokens_sent.store(0, relaxed);
        r.flags.store(0, relaxed);
        r.error.store(0, relaxed);
        r.base.store(0, relaxed);
        r.urgent.store(0, relaxed);
        r.held.store(0, relaxed);
        r.tail.store(0, relaxed);
        r.window.store(0, relaxed);
        r.consumer_waits.store(announcement::asleep().word(), relaxed);
    }
}

// A slot that the other end has left in order, and that no third process ever had. The other end's word is believed: if
// it lies, it meets its own next connection.
void made_arena::reclaim() noexcept {
    constexpr uint32_t over = end_left | end_done;
    for (uint64_t left = _leaving; left != 0; left &= left - 1) {
        const auto slot = uint32_t(std::countr_zero(left));
        const auto& h = _arena.at(slot).header();
        const uint32_t own = h.end[_end].flags.load(std::memory_order_relaxed);
        const uint32_t other = h.end[1 - _end].flags.load(std::memory_order_acquire);
        if ((other & over) == over && ((own | other) & end_shared) == 0) {
            _leaving &= ~bit(slot);
            _arena.trim(slot);
        }
    }
}

std::optional<uint32_t> made_arena::take() noexcept {
    if (_arena.closed()) {
        return std::nullopt;
    }
    reclaim();
    const auto slot = uint32_t(std::countr_one(_held | _leaving));
    if (slot >= _arena.slots()) {
        return std::nullopt;
    }
    _held |= bit(slot);
    renew(_arena.at(slot).header());
    return slot;
}

void made_arena::give_back(uint32_t slot) noexcept {
    _held &= ~bit(slot);
    _leaving |= bit(slot);
}

}  // namespace vmsgr::shm
