#include "client/local_routing.hh"

#include <string.h>

#include "base/netns.hh"
#include "base/sockets.hh"
#include "base/source.hh"
#include "base/sys.hh"

namespace vmsgr::client {

namespace {

// The address of ours that the kernel would choose for a destination on this host, if the socket has none yet; none
// where this is not sure.
base::address source_for(const base::address& peer, const base::address& own) noexcept {
    base::address source = peer;
    source.port = 0;
    if (peer.unmapped().family == AF_INET && peer.is_loopback()) {
        base::address first = base::loopback(AF_INET, 0);
        source = peer.family == AF_INET ? first : first.mapped();
    }
    if (own.port == 0 && (own.family == 0 || own.is_any())) {
        return source;
    }
    // Bound by the program itself, perhaps to another of the host's addresses.
    source.port = own.port;
    bool same = own.ip == source.ip || own.is_any() || (own.is_loopback() && peer.is_loopback());
    return same && own.port != 0 ? source : base::address{};
}

// Gives the socket, whose name is `own`, that address and a port, unless it has a port; its name from then on. None:
// the address is none of this host's.
base::address bind_to(int socket, const base::address& source, const base::address& own) noexcept {
    if (own.port != 0) {
        return own;
    }
    sockaddr_storage ss{};
    socklen_t size = base::to_sockaddr(source, ss);
    return sys::call(SYS_bind, socket, &ss, size) == 0 ? base::local_name(socket) : base::address{};
}

// A connected socket's name is never `any`.
base::address name_towards(base::address name, const base::address& source) noexcept {
    if (name.is_any()) {
        name.ip = source.ip;
    }
    return name;
}

// Which of several listeners of one address it is: as good as the kernel's own choice, which nobody can foresee.
uint32_t hash_of(const base::address& from, const base::address& to) noexcept {
    uint64_t h = 0x9e3779b97f4a7c15 ^ (uint64_t(from.port) << 16 | to.port);
    auto mix = [&h](uint64_t v) {
        h = (h ^ v) * 0xff51afd7ed558ccd;
        h ^= h >> 32;
    };
    for (const auto* a : {&from, &to}) {
        uint64_t halves[2];
        memcpy(halves, a->ip.data(), sizeof halves);
        mix(halves[0]);
        mix(halves[1]);
    }
    mix(h >> 29);
    return uint32_t(h >> 32);
}

// One in another network namespace: this one's kernel has a way to it, and would use that source.
local_peer find_elsewhere(session& s, int socket, uint64_t netns, const base::address& peer) noexcept {
    if (s.find_listener_elsewhere(netns, peer, 0).id == 0) {
        return {};
    }
    const base::address source = bind_towards(socket, peer);
    if (source.family == 0) {
        return {};
    }
    return {s.find_listener_elsewhere(netns, peer, hash_of(source, peer)), peer, source,
            name_towards(base::local_name(socket), source)};
}

}  // namespace

base::address bind_towards(int socket, const base::address& peer) noexcept {
    const base::address own = base::local_name(socket);
    base::address source = own;
    if (own.family == 0 || own.is_any()) {  // it may be bound to a port alone
        source = base::source_towards(peer);
        source.port = own.port;
    }
    const int family = base::socket_option(socket, SO_DOMAIN);
    // What this host itself listens to is nearer. With loopback that is not known: who has a way there means another
    // daemon on this host.
    const bool self = source.ip == peer.ip && !peer.is_loopback();
    if (peer.family != family || source.family != family || source.is_any() || self ||
        source.is_loopback() != peer.is_loopback() || bind_to(socket, source, own).port == 0) {
        return {};
    }
    return source;
}

bool bind_for_trunk(const session& s, int socket, const base::address& peer) noexcept {
    return s.knows_trunks() && peer.scope_id == 0 && !peer.is_any() && peer.port != 0 &&
           bind_towards(socket, peer).family != 0;
}

local_peer find_local_peer(session& s, int socket, base::address peer) noexcept {
    if (peer.scope_id != 0) {
        return {};
    }
    if (peer.is_any()) {
        peer = base::loopback(peer.family, peer.port);  // what the kernel makes of it
    }
    const uint64_t netns = base::netns_cookie(socket);
    auto listener = s.find_listener(netns, peer, 0);
    if (listener.id == 0) {
        return find_elsewhere(s, socket, netns, peer);
    }
    const base::address own = base::local_name(socket);
    base::address source = source_for(peer, own);
    const bool possible = source.family != 0 && source.family == base::socket_option(socket, SO_DOMAIN);
    const base::address bound = possible ? bind_to(socket, source, own) : base::address{};
    if (bound.port == 0) {
        return find_elsewhere(s, socket, netns, peer);  // not one of this host's addresses
    }
    source.port = bound.port;
    if ((listener.flags & shm::listening_one_of_many) != 0) {
        listener = s.find_listener(netns, peer, hash_of(source, peer));
    }
    return {listener, peer, source, name_towards(bound, source)};
}

}  // namespace vmsgr::client
