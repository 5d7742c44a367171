#include "net/registry.hh"

#include <netinet/in.h>
#include <sys/socket.h>

#include <system_error>

#include "base/netns.hh"
#include "net/kernel_socket.hh"

namespace vmsgr::net {

registry::registry() {
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
}

bool registry::publish(uint64_t key, unsigned shard, int socket, uint32_t backlog) {
    const uint64_t netns = base::netns_cookie(socket);
    if (netns == 0) {
        return false;
    }
    std::lock_guard lock(_mutex);
    uint32_t slot = memory().used.load(std::memory_order_relaxed);
    if (!_free.empty()) {
        slot = _free.back();
        _free.pop_back();
    } else if (slot == shm::registry_slots) {
        return false;
    }
    auto& e = memory().entry[slot];
    e.netns = netns;
    e.address = local_address(socket);
    int only_v6 = 0;
    socklen_t len = sizeof only_v6;
    bool v4_too = e.address.family == AF_INET6 &&
                  ::getsockopt(socket, IPPROTO_IPV6, IPV6_V6ONLY, &only_v6, &len) == 0 && only_v6 == 0;
    e.flags = v4_too ? shm::listening_v4_too : 0;
    e.backlog = backlog;
    e.waiting.store(0, std::memory_order_relaxed);
    e.key.store(key, std::memory_order_release);
    if (slot == memory().used.load(std::memory_order_relaxed)) {
        memory().used.store(slot + 1, std::memory_order_release);
    }
    _by_key.emplace(key, place{slot, shard});
    return true;
}

void registry::retract(uint64_t key) noexcept {
    std::lock_guard lock(_mutex);
    auto at = _by_key.find(key);
    if (at == _by_key.end()) {
        return;
    }
    memory().entry[at->second.slot].key.store(0, std::memory_order_release);
    _free.push_back(at->second.slot);
    _by_key.erase(at);
}

void registry::show_waiting(uint64_t key, uint32_t n) noexcept {
    std::lock_guard lock(_mutex);
    if (auto at = _by_key.find(key); at != _by_key.end()) {
        memory().entry[at->second.slot].waiting.store(n, std::memory_order_relaxed);
    }
}

std::optional<unsigned> registry::shard_of(uint64_t key) {
    std::lock_guard lock(_mutex);
    auto at = _by_key.find(key);
    return at == _by_key.end() ? std::nullopt : std::optional(at->second.shard);
}

}  // namespace vmsgr::net
