// Does a peer listen in another program of the same daemon? Then the connecting program shares a conduit with it and
// TCP has no part in the connection but the port, which a bound socket keeps. For the preload library and for
// libvmsgr alike.
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
// `socket` is a TCP socket that is not connected; it gets a port unless it has one.
local_peer find_local_peer(session& s, int socket, base::address peer) noexcept;

}  // namespace vmsgr::client
