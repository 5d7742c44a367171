// Where a connection goes that the kernel does not make: to a program of this host that listens through the same
// daemon, or to a trunk. The socket stays a bound one, which keeps its port and proves its address.
//
// Any thread. Nothing here allocates.
#pragma once

#include "base/address.hh"
#include "client/session.hh"

namespace vmsgr::client {

struct local_peer {
    found_listener listener;  // id 0: none; the socket may be bound all the same
    base::address peer;  // as the kernel understands it
    base::address source;  // the socket's own address towards it
    base::address local;   // what its getsockname() says from now on
};
// `socket` is a TCP socket that is not connected; it gets a port unless it has one.
local_peer find_local_peer(session& s, int socket, base::address peer) noexcept;

// The address that a socket has towards a peer that the kernel does not connect it to: its own, or else the one from
// which the kernel would reach that peer, to which it is bound here, with a port. None: no way, another family, or the
// peer is this host by another address than loopback.
base::address bind_towards(int socket, const base::address& peer) noexcept;
// A connect of this socket can be left to the daemon (job::by_trunk): it is bound for it. False: the kernel is to
// connect.
bool bind_for_trunk(const session& s, int socket, const base::address& peer) noexcept;

}  // namespace vmsgr::client
