// Does a peer listen in another program of the same daemon? Then the connecting program shares a conduit with it and
// TCP has no part in the connection but the port, which a bound socket keeps. And which address a socket gets towards a
// peer that the kernel does not connect it to. For the preload library and for libvmsgr alike.
//
// Any thread. Nothing here allocates.
#pragma once

#include "base/address.hh"
#include "client/session.hh"

namespace vmsgr::client {

struct local_peer {
    uint64_t listener = 0;  // 0: none; the socket may be bound all the same
    base::address peer;     // as the kernel understands it
    base::address source;   // the socket's own address towards it
};
// The address that a socket has towards a peer that the kernel does not connect it to: its own, or else the one from
// which the kernel would reach that peer, to which it is bound here, with a port. None: no way, another family, or the
// peer is this host by another address than loopback.
base::address bind_towards(int socket, const base::address& peer) noexcept;
// A connect of this socket can be left to the daemon (job::by_trunk): it is bound for it. False: the kernel is to
// connect.
bool bind_for_trunk(const session& s, int socket, const base::address& peer) noexcept;
// `socket` is a TCP socket that is not connected; it gets a port unless it has one.
local_peer find_local_peer(session& s, int socket, base::address peer) noexcept;

}  // namespace vmsgr::client
