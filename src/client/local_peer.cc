#include "client/local_peer.hh"

#include "base/netns.hh"
#include "base/sys.hh"
#include "client/carry.hh"

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

}  // namespace

local_peer find_local_peer(session& s, int socket, base::address peer) noexcept {
    if (peer.scope_id != 0) {
        return {};
    }
    if (peer.is_any()) {
        peer = base::loopback(peer.family, peer.port);  // what the kernel makes of it
    }
    const uint64_t listener = s.find_listener(base::netns_cookie(socket), peer);
    if (listener == 0) {
        return {};
    }
    const base::address own = local_name(socket);
    const base::address source = source_for(peer, own);
    if (source.family == 0 || source.family != socket_option(socket, SO_DOMAIN)) {
        return {};
    }
    if (own.port == 0) {
        sockaddr_storage ss{};
        socklen_t size = base::to_sockaddr(source, ss);
        // Fails where the address is none of this host's: then it is not this listener that is meant.
        if (::syscall(SYS_bind, socket, &ss, size) != 0 || local_name(socket).port == 0) {
            return {};
        }
    }
    return {listener, peer, source};
}

}  // namespace vmsgr::client
