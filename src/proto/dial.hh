// Dialling a listener. A routed listener's number is a door: a listening AF_UNIX stream socket that the daemon has
// bound in its folder of doors. Whoever brings a connection dials it: a program of the same host, or the daemon with
// what it has accepted. The kernel makes the accepted end, which nobody else has, keeps the queue and the backlog,
// and puts connect before accept. The dialler's socket is its end of the doorbell; its first bytes are a hello, with
// descriptors.
//
// The acceptor believes nothing: addresses are proved by the bound TCP socket (check_source), the daemon by a secret.
#pragma once

#include <sys/socket.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/address.hh"
#include "base/unique_fd.hh"
#include "shm/layout.hh"

namespace vmsgr::proto {

inline constexpr uint32_t dial_magic = 0x4c494456;  // "VDIL"
inline constexpr uint16_t dial_version = 1;
inline constexpr size_t secret_bytes = 16;
using secret = std::array<uint8_t, secret_bytes>;

enum dial_flag : uint16_t {
    dial_by_daemon = 1,  // with the listener's secret; the acceptor is end 0 and the daemon end 1
    dial_plain = 2,  // by the daemon: it does not carry this one; the TCP socket itself comes, and no memory
    dial_trunk = 4,  // by the daemon: no TCP socket of its own stands behind it
    dial_keep_port = 8,  // by a program: the acceptor keeps the bound socket open, as the dialler has few descriptors
    dial_end_mark = 16,  // plain: the socket lingers for no time, and is to linger as the message says
};

// fds. By a program: the bound TCP socket, then the arena. By the daemon: the arena; plain: the TCP socket.
struct dial_hello {
    uint32_t magic = dial_magic;
    uint16_t version = dial_version;
    uint16_t flags = 0;  // dial_flag
    uint32_t slot = 0;  // of the arena
    uint32_t shown = shm::no_slot;  // by the daemon: the entry in the session's connected list
    uint64_t id = 0;  // by the daemon; dial_end_mark: pack_linger
    base::address local;  // as the acceptor sees them
    base::address peer;
    secret word{};  // by the daemon
};
static_assert(sizeof(dial_hello) == 88);

constexpr uint64_t pack_linger(const linger& l) noexcept {
    return uint64_t(l.l_onoff != 0) << 32 | uint32_t(l.l_linger);
}
constexpr linger unpack_linger(uint64_t word) noexcept { return {int(word >> 32 & 1), int(uint32_t(word))}; }

// How long an acceptor looks for a hello before it turns the dialler away.
inline constexpr int64_t hello_patience_ns = 20'000;

// The folder of doors lies beside the control socket. The path of a door in it; empty: too long for a socket's address.
inline constexpr const char* doors_suffix = ".d";
size_t door_path(std::string_view control_socket, std::string_view door, char (&out)[108]) noexcept;

// Dials the door at this path, and says hello. 0: `bell` is the dialler's end of the doorbell. ECONNREFUSED, ENOENT:
// the listener is gone; EAGAIN: its queue is full; EPIPE: the acceptor was faster than the hello and has turned it
// away, dial again; ESHUTDOWN: it has done so, or has taken the connection and is done with it. Never waits.
int dial(const char* path, const dial_hello& hello, std::span<const int> fds, base::unique_fd& bell) noexcept;
// The same for a conduit, which tells the two cases of ESHUTDOWN apart: 0 or EPIPE. acceptor_flags: of the other end.
int dial_conduit(const char* path, const dial_hello& hello, std::span<const int> fds,
                 const std::atomic<uint32_t>& acceptor_flags, base::unique_fd& bell) noexcept;

// The source address that a connection to `to` has, dialled with this bound socket, at a listener on `own` in another
// or the same network namespace. Nothing: the socket is not what it should be, or TCP would not bring it there.
struct listener_place {
    base::address own;
    uint64_t netns = 0;
    bool one_address_plan = false;  // an address means the same in all network namespaces
};
std::optional<base::address> check_source(int bound_socket, const base::address& to, const listener_place& at) noexcept;

}  // namespace vmsgr::proto
