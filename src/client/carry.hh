// Makes a conduit out of a TCP socket that is connected or connecting: its memory, its doorbell, the program's end of
// it, and the job that tells the daemon. For the preload library and for libvmsgr alike.
//
// Any thread. Nothing here allocates from the heap, but for the text of an error on the way.
#pragma once

#include <string_view>

#include "base/address.hh"
#include "base/names.hh"
#include "base/unique_fd.hh"
#include "client/session.hh"
#include "client/streams/stream.hh"

namespace vmsgr::client {

// Everything of a connection that is ours; goes away as a whole if the daemon does not get it.
struct conduit_end {
    base::unique_fd bell;    // stands behind the program's descriptor number
    base::unique_fd other;   // the daemon's end of it
    base::unique_fd memory;
    base::unique_fd page;
    client::stream stream;
};

// `socket` stays as it is. `peer` is for one that is connecting (state says so) or was reset meanwhile, and for a local
// one. False: out of memory or descriptors (errno).
bool make_conduit_end(uint32_t ring_bytes, int socket, const base::address& peer, phase state, conduit_end& out,
                      far_end other = far_end::daemon) noexcept;
// The end of a local connection to this listener, out of memory that an earlier one left, or new.
bool make_local_end(session& s, int socket, const base::address& peer, phase state, uint64_t listener,
                    conduit_end& out) noexcept;

// Sends the daemon what it needs, the socket as a duplicate. `shown` is the program's number, for people. False: no
// daemon, or its lists are full: nothing has changed.
bool post(session& s, const conduit_end& end, int socket, int shown, const base::address& peer, std::string_view route,
          uint64_t listener = 0, bool by_trunk = false) noexcept;

// Copies what a program may have set on the old description: O_NONBLOCK and the like, SO_RCVTIMEO, SO_SNDTIMEO. The old
// one's flags (F_GETFL).
int copy_description(int from, int to) noexcept;

// An int option of SOL_SOCKET; -1 where there is none.
int socket_option(int fd, int name) noexcept;
// None where the socket has none.
using base::local_name;
using base::peer_name;

}  // namespace vmsgr::client
