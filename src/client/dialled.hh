// Dialling a listener of this host, and taking what was dialled (proto/dial.hh): both sides of a connection between two
// programs, and the program's side of what the daemon brings. For the preload library and for libvmsgr alike.
//
// Any thread. Nothing here allocates from the heap.
#pragma once

#include "client/hand_over.hh"
#include "client/local_routing.hh"

namespace vmsgr::client {

// 0: `out` is the dialler's end, connected. Else an errno: nothing has changed, TCP may still bring it there.
// acceptor_keeps_port: the acceptor is to keep `socket`'s port, as the caller will not.
int dial_local(session& s, int socket, const local_peer& to, uint32_t ring_bytes, phase state, bool acceptor_keeps_port,
               conduit_end& out) noexcept;

// A listening socket that the daemon knows: what is needed to take connections from its door. Plain data.
struct daemon_listener {
    int lifeline = -1;  // kept (kept_fds.hh); hangs up with the daemon
    proto::secret word{};
    uint64_t id = 0;
    base::address own;
    uint64_t netns = 0;
};

// Where it listens, by which diallers are judged. False: the kernel could not say (errno).
bool learn_place(int tcp, daemon_listener& out) noexcept;
// Gives `tcp`, which listens, to the daemon. 0, or an errno: it stays the kernel's. The door takes its number.
int listen_through_daemon(session& s, int tcp, int shown, std::string_view route, uint32_t flags, int backlog,
                          daemon_listener& out, base::unique_fd& door) noexcept;
bool hangs_up(int lifeline) noexcept;

// A connection from a door.
struct arrived {
    base::unique_fd bell;  // the lowest free number; plain: the TCP socket
    base::unique_fd port;  // to be kept open as long as the connection
    held_memory slot;
    proto::dial_hello hello;
    base::address local, peer;
    bool by_daemon = false, plain = false;
};
// As accept4 on the door: waits as it does. flags: SOCK_NONBLOCK for the new one. 0, or an errno. ESTALE: the daemon is
// gone, and the door is empty and refuses: the kernel's listening socket is to be used. EINVAL: the program shut it.
// ECONNABORTED: one was there, and this process had no memory or descriptor to take it; its other end is reset.
int accept_dialled(session& s, int door, const daemon_listener& l, int flags, arrived& out);
// The acceptor's end.
stream make_accepted(arrived& a, held_memory page, uint64_t id) noexcept;

}  // namespace vmsgr::client
