#include "local/registry.hh"

#include <netinet/in.h>
#include <sys/socket.h>

#include <system_error>

#include "base/netns.hh"
#include "conn/kernel_socket.hh"

namespace vmsgr::net {

registry::registry(bool one_address_plan) {
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

void registry::publish(uint64_t key, unsigned shard, int socket, uint32_t backlog, bool shown) {
    place p;
    p.shard = shard;
    p.netns = base::netns_cookie(socket);
    p.address = local_address(socket);
    int only_v6 = 0;
    socklen_t len = sizeof only_v6;
    bool v4_too = p.address.family == AF_INET6 &&
                  ::getsockopt(socket, IPPROTO_IPV6, IPV6_V6ONLY, &only_v6, &len) == 0 && only_v6 == 0;
    p.flags = v4_too ? uint32_t(shm::listening_v4_too) : 0;
    if (p.netns == 0) {
        return;
    }
    std::lock_guard lock(_mutex);
    auto& m = memory();
    if (shown && (!_free.empty() || m.used.load(std::memory_order_relaxed) != shm::registry_slots)) {
        p.slot = m.used.load(std::memory_order_relaxed);
        if (!_free.empty()) {
            p.slot = _free.back();
            _free.pop_back();
        }
        auto& e = m.entry[p.slot];
        e.netns = p.netns;
        e.address = p.address;
        e.flags = p.flags;
        e.backlog = backlog;
        e.waiting.store(0, std::memory_order_relaxed);
        e.key.store(key, std::memory_order_release);
        if (p.slot == m.used.load(std::memory_order_relaxed)) {
            m.used.store(p.slot + 1, std::memory_order_release);
        }
    }
    _by_key.emplace(key, p);
}

void registry::retract(uint64_t key) noexcept {
    std::lock_guard lock(_mutex);
    auto at = _by_key.find(key);
    if (at == _by_key.end()) {
        return;
    }
    if (uint32_t slot = at->second.slot; slot != shm::no_slot) {
        memory().entry[slot].key.store(0, std::memory_order_release);
        _free.push_back(slot);
    }
    _by_key.erase(at);
}

void registry::show_waiting(uint64_t key, uint32_t n) noexcept {
    std::lock_guard lock(_mutex);
    if (auto at = _by_key.find(key); at != _by_key.end() && at->second.slot != shm::no_slot) {
        memory().entry[at->second.slot].waiting.store(n, std::memory_order_relaxed);
    }
}

std::optional<unsigned> registry::shard_of(uint64_t key) {
    std::lock_guard lock(_mutex);
    auto at = _by_key.find(key);
    return at == _by_key.end() ? std::nullopt : std::optional(at->second.shard);
}

registry::found registry::find(uint64_t netns, const base::address& to) {
    std::lock_guard lock(_mutex);
    found best;
    int best_score = 0;
    for (auto& [key, p] : _by_key) {
        if (p.netns != netns || p.address.port != to.port) {
            continue;
        }
        int score = shm::listening_score(p.address, p.flags, to.unmapped());
        if (score > best_score) {
            best = {key, p.shard, p.address.family == AF_INET6};
            best_score = score;
        }
    }
    return best;
}

}  // namespace vmsgr::net
