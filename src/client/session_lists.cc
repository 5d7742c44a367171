// The lists of the session that need no lock and no round trip: the listeners of the daemon, which all may read, and
// the local connections of this process, which it shows.
#include <string.h>
#include <time.h>

#include <algorithm>

#include "client/session.hh"

namespace vmsgr::client {

// Among those that fit best, the one that `hash` falls on.
template <typename Score>
found_listener session::best_listener(uint16_t port, uint32_t hash, Score&& score_of) const noexcept {
    const auto* registry = _registry.load(std::memory_order_acquire);
    if (registry == nullptr) {
        return {};
    }
    const uint32_t used = std::min(registry->used.load(std::memory_order_acquire), shm::registry_slots);
    auto each = [&](auto&& see) {
        for (uint32_t i = 0; i < used; ++i) {
            const shm::listening_entry& e = registry->entry[i];
            if (e.id.load(std::memory_order_acquire) == 0 || e.address.port != port) {
                continue;
            }
            if (const int score = score_of(e); score != 0) {
                see(e, score);
            }
        }
    };
    int best = 0;
    uint32_t many = 0;
    each([&](const shm::listening_entry&, int score) {
        many = score > best ? 1 : many + (score == best ? 1 : 0);
        best = std::max(best, score);
    });
    found_listener found;
    uint32_t left = many != 0 ? uint32_t(uint64_t(hash) * many >> 32) : 0;
    each([&](const shm::listening_entry& e, int score) {
        if (score != best || found.id != 0 || left-- != 0) {
            return;
        }
        const uint64_t id = e.id.load(std::memory_order_acquire);
        found.flags = e.flags;
        memcpy(found.door, e.door, sizeof found.door);
        found.door[sizeof found.door - 1] = 0;
        std::atomic_thread_fence(std::memory_order_acquire);
        if (e.id.load(std::memory_order_relaxed) == id) {
            found.id = id;
        }
    });
    return found;
}

bool session::lists(uint64_t listener) const noexcept {
    const auto* registry = _registry.load(std::memory_order_acquire);
    if (registry == nullptr) {
        return false;
    }
    const uint32_t used = std::min(registry->used.load(std::memory_order_acquire), shm::registry_slots);
    return std::any_of(registry->entry, registry->entry + used,
                       [&](const shm::listening_entry& e) { return e.id.load(std::memory_order_acquire) == listener; });
}

bool session::one_address_plan() noexcept {
    const auto* registry = _registry.load(std::memory_order_acquire);
    return registry != nullptr && (registry->flags & shm::registry_one_address_plan) != 0;
}

found_listener session::find_listener(uint64_t netns, const base::address& peer, uint32_t hash) noexcept {
    if (netns == 0) {
        return {};
    }
    const base::address to = peer.unmapped();
    return best_listener(to.port, hash,
                         [&](const shm::listening_entry& e) { return e.netns == netns ? e.score_for(to) : 0; });
}

found_listener session::find_listener_elsewhere(uint64_t netns, const base::address& peer, uint32_t hash) noexcept {
    const base::address to = peer.unmapped();
    if (netns == 0 || to.is_any() || to.is_loopback() || !one_address_plan()) {
        return {};
    }
    return best_listener(to.port, hash, [&](const shm::listening_entry& e) {
        return e.netns != netns && e.address.unmapped() == to ? 1 : 0;
    });
}

shm::local_entry* session::show_local(const local_facts& f) noexcept {
    // A forked worker that only accepts has no session of its own yet.
    if (_segment.load(std::memory_order_acquire) == nullptr) {
        ensure();
    }
    auto* segment = _segment.load(std::memory_order_acquire);
    if (segment == nullptr) {
        return nullptr;
    }
    const uint32_t start = _entry_hint.load(std::memory_order_relaxed);
    for (uint32_t i = 0; i < shm::local_slots; ++i) {
        const uint32_t at = (start + i) % shm::local_slots;
        auto& e = segment->locals[at];
        uint32_t expected = shm::slot_free;
        if (e.state.load(std::memory_order_relaxed) != shm::slot_free ||
            !e.state.compare_exchange_strong(expected, shm::slot_filling, std::memory_order_acquire)) {
            continue;
        }
        timespec now{};
        ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
        e.fd = f.fd;
        e.local = f.local;
        e.peer = f.peer;
        e.role = f.server ? 1 : 0;
        e.opened_s = double(now.tv_sec) + double(now.tv_nsec) / 1e9;
        proto::copy_text(e.route, f.route);
        e.bytes_in.store(0, std::memory_order_relaxed);
        e.bytes_out.store(0, std::memory_order_relaxed);
        e.plain.store(0, std::memory_order_relaxed);
        e.state.store(shm::slot_posted, std::memory_order_release);
        segment->locals_opened.fetch_add(1, std::memory_order_relaxed);
        uint32_t used = segment->locals_used.load(std::memory_order_relaxed);
        while (used <= at && !segment->locals_used.compare_exchange_weak(used, at + 1, std::memory_order_release)) {
        }
        _entry_hint.store(at + 1, std::memory_order_relaxed);
        return &e;
    }
    return nullptr;
}

void session::hide_local(shm::local_entry* e) noexcept {
    auto* segment = _segment.load(std::memory_order_acquire);
    if (e == nullptr) {
        return;
    }
    // An entry of an earlier daemon's segment is of no interest any more.
    if (segment != nullptr && e >= segment->locals && e < segment->locals + shm::local_slots) {
        segment->bytes_local.fetch_add(e->bytes_out.load(std::memory_order_relaxed), std::memory_order_relaxed);
        _entry_hint.store(uint32_t(e - segment->locals), std::memory_order_relaxed);
    }
    e->state.store(shm::slot_free, std::memory_order_release);
}

void session::show_fd(uint32_t slot, uint64_t id, int fd) noexcept {
    auto* segment = _segment.load(std::memory_order_acquire);
    if (segment != nullptr && slot < shm::connected_slots && segment->connected[slot].id == id) {
        segment->connected[slot].fd.store(fd, std::memory_order_relaxed);
    }
}

void session::show_left_to_kernel(proto::plain_cause why) noexcept {
    if (auto* segment = _segment.load(std::memory_order_acquire)) {
        segment->left_to_kernel.store(uint32_t(why), std::memory_order_relaxed);
    }
}

void session::count_fall_back() noexcept {
    if (auto* segment = _segment.load(std::memory_order_acquire)) {
        segment->fell_back.fetch_add(1, std::memory_order_relaxed);
    }
}

void session::count_turned_away() noexcept {
    if (auto* segment = _segment.load(std::memory_order_acquire)) {
        segment->turned_away.fetch_add(1, std::memory_order_relaxed);
    }
}

}  // namespace vmsgr::client
