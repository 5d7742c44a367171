#include "local/registry.hh"

#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>

#include <system_error>

#include "base/netns.hh"
#include "base/sockets.hh"
#include "conn/kernel_socket.hh"

namespace vmsgr::local {

registry::registry(bool one_address_plan, uint16_t turn) : _turn(turn) {
    auto made = shm::create_published("vmsgr-listeners", sizeof(shm::listening_registry));
    if (!made) {
        throw std::system_error(made.error().errnum, std::generic_category(), made.error().text);
    }
    _fd = std::move(made->fd);
    _map = std::move(made->memory);
    auto& m = memory();  // new memory is zero
    m.magic = shm::registry_magic;
    m.version = shm::layout_version;
    m.bytes = sizeof m;
    m.flags = one_address_plan ? uint32_t(shm::registry_one_address_plan) : 0;
}

registry::place registry::place_of(unsigned shard, int socket, const door_place& door) {
    place p;
    p.shard = shard;
    p.netns = base::netns_cookie(socket);
    p.address = conn::local_address(socket);
    p.door = door.cookie;
    int only_v6 = 0;
    socklen_t len = sizeof only_v6;
    bool v4_too = p.address.family == AF_INET6 &&
                  ::getsockopt(socket, IPPROTO_IPV6, IPV6_V6ONLY, &only_v6, &len) == 0 && only_v6 == 0;
    p.flags = (v4_too ? uint32_t(shm::listening_v4_too) : 0) |
              (base::socket_option(socket, SO_REUSEPORT) == 1 ? uint32_t(shm::listening_one_of_many) : 0);
    return p;
}

void registry::take_over(uint64_t id, unsigned shard, int socket, const door_place& door) {
    if (_lists_again) {
        publish(id, shard, socket, door);
        return;
    }
    auto p = place_of(shard, socket, door);
    if (p.netns == 0) {
        return;
    }
    std::lock_guard lock(_mutex);
    _free.reserve(shm::registry_slots);
    auto& m = memory();
    const uint32_t used = std::min(m.used.load(std::memory_order_relaxed), shm::registry_slots);
    for (uint32_t i = 0; i < used; ++i) {
        if (m.entry[i].id.load(std::memory_order_relaxed) == id) {
            p.slot = i;
        }
    }
    _by_id.emplace(id, p);
}

void registry::forget_others() {
    std::lock_guard lock(_mutex);
    _free.reserve(shm::registry_slots);
    auto& m = memory();
    const uint32_t used = std::min(m.used.load(std::memory_order_relaxed), shm::registry_slots);
    for (uint32_t i = 0; i < used; ++i) {
        const auto at = _by_id.find(m.entry[i].id.load(std::memory_order_relaxed));
        if (at == _by_id.end() || at->second.slot != i) {
            m.entry[i].id.store(0, std::memory_order_release);
            _free.push_back(i);
        }
    }
}

void registry::publish(uint64_t id, unsigned shard, int socket, const door_place& door) {
    auto p = place_of(shard, socket, door);
    if (p.netns == 0) {
        return;
    }
    std::lock_guard lock(_mutex);
    _free.reserve(shm::registry_slots);  // unlist() may not fail
    const auto [at, is_new] = _by_id.emplace(id, p);
    auto& m = memory();
    const uint32_t used = m.used.load(std::memory_order_relaxed);
    if (!door.name.empty() && (!_free.empty() || used != shm::registry_slots)) {
        p.slot = used;
        if (!_free.empty()) {
            p.slot = _free.back();
            _free.pop_back();
        }
        auto& e = m.entry[p.slot];
        e.netns = p.netns;
        e.address = p.address;
        e.flags = p.flags;
        memset(e.door, 0, sizeof e.door);
        memcpy(e.door, door.name.data(), std::min(door.name.size(), sizeof e.door - 1));
        e.id.store(id, std::memory_order_release);
        if (p.slot == used) {
            m.used.store(used + 1, std::memory_order_release);
        }
    }
    at->second.slot = p.slot;
}

void registry::unlist(uint64_t id) noexcept {
    std::lock_guard lock(_mutex);
    if (auto at = _by_id.find(id); at != _by_id.end() && at->second.slot != shm::no_slot) {
        memory().entry[at->second.slot].id.store(0, std::memory_order_release);
        _free.push_back(std::exchange(at->second.slot, shm::no_slot));
    }
}

void registry::retract(uint64_t id) noexcept {
    unlist(id);
    std::lock_guard lock(_mutex);
    _by_id.erase(id);
}

std::optional<uint64_t> registry::owner_of_door(uint64_t cookie) {
    std::lock_guard lock(_mutex);
    for (auto& [id, p] : _by_id) {
        if (cookie != 0 && p.door == cookie) {
            return id;
        }
    }
    return std::nullopt;
}

registry::found registry::find(uint64_t netns, const base::address& to) {
    std::lock_guard lock(_mutex);
    found best;
    int best_score = 0;
    for (auto& [id, p] : _by_id) {
        if (p.netns != netns || p.address.port != to.port) {
            continue;
        }
        int score = shm::listening_score(p.address, p.flags, to.unmapped());
        if (score > best_score) {
            best = {id, p.shard, p.address.family == AF_INET6};
            best_score = score;
        }
    }
    return best;
}

}  // namespace vmsgr::local
