// Makes a conduit out of a TCP socket that is connected or connecting, and hands the socket to the daemon: memory,
// doorbell, the program's end, and the job. For the preload library and for libvmsgr alike.
//
// Any thread. Nothing here allocates from the heap.
#pragma once

#include <string_view>

#include "base/address.hh"
#include "base/sockets.hh"
#include "base/unique_fd.hh"
#include "client/session.hh"
#include "client/streams/stream.hh"

namespace vmsgr::client {

// Everything of a connection that is ours; goes away as a whole if the other side does not get it.
struct conduit_end {
    base::unique_fd bell;  // stands behind the program's descriptor number
    base::unique_fd other;  // the daemon's end of it; none where another program was dialled
    client::stream stream;
    bool wants_signals = false;  // the socket had O_ASYNC
};

// `socket` stays as it is. `peer` is for one that is connecting (state says so) or was reset meanwhile. False: out of
// memory or descriptors (errno).
bool make_conduit_end(session& s, int socket, const base::address& peer, phase state, conduit_end& out) noexcept;

// Sends the daemon what it needs, the socket as a duplicate. shown: the program's number. by_trunk: see job. False: no
// daemon, or its lists are full: nothing has changed.
bool hand_over(session& s, const conduit_end& end, int socket, int shown, const base::address& peer,
               std::string_view route, std::optional<proto::without_trunk> by_trunk = {}) noexcept;

// What an end has of its socket, whoever has the other end: names, family, how it waits. `out` has stream and doorbell.
void describe_as(int socket, const base::address& local, const base::address& peer, conduit_end& out) noexcept;

// Copies what a program may have set on the old description: O_NONBLOCK and the like, SO_RCVTIMEO, SO_SNDTIMEO. The old
// one's flags (F_GETFL).
int copy_description(int from, int to) noexcept;

}  // namespace vmsgr::client
