// What travels over the control socket (SOCK_SEQPACKET, one message a packet, descriptors beside it). Fixed-size
// structs in the machine's byte order: both ends are on one host. Every message begins with its magic and its kind; a
// receiver checks length, magic and kind before anything else.
//
// Attach: hello -> welcome (with the session segment and the registry of listeners, or a refusal that says why). No
// answer: connect (the job itself lies in the session segment), deposit, unlist. One answer each: the others.
//
// Rights follow from descriptors. An id names a connection or a listener, in status and logs too; it gives nobody
// anything. Who wants something of a connection sends its descriptor along ("shows" it).
#pragma once

#include <string.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/address.hh"
#include "base/error.hh"
#include "base/unique_fd.hh"
#include "shm/bell.hh"
#include "shm/layout.hh"
#include "vmsgr/version.h"

namespace vmsgr::proto {

inline constexpr uint32_t control_magic = 0x52474d56;  // "VMGR"
inline constexpr uint16_t control_version = 4;
// Beside the control socket; what is asked there, daemon/stats_server.hh says.
inline constexpr const char* stats_suffix = ".stats";
// Beside it, for another version of the daemon (keeper/upgrade.hh).
inline constexpr const char* upgrade_suffix = ".upgrade";
inline constexpr const char* default_socket = "/run/vmsgr/vmsgrd.sock";
inline constexpr const char* version_text = VMSGR_VERSION;

// Feature bits: what a side understands beyond its version. Both use the intersection.
enum feature : uint64_t {
    feature_trunk = 8,  // connect jobs may leave the way to the daemon
    // A connected TCP socket is on its way between program and daemon with SO_LINGER of 0 s, and whoever gets it sets
    // what the message says. So where it is lost on the way the other host sees a reset, and no end of file.
    feature_end_mark = 16,
    feature_new_registry = 32,  // the program looks at session_segment::registry, and asks for another registry
    feature_go_back = 64,  // a program's connections become the kernel's again where the daemon asks for it
};
// What each client offers; what a daemon knows.
inline constexpr uint64_t features_ours = feature_trunk | feature_end_mark | feature_new_registry;
inline constexpr uint64_t features_known = features_ours | feature_go_back;

enum class kind : uint16_t {
    hello = 1,
    welcome = 2,
    // fds: the kernel socket, bound and listening. Answer: the door (a listening unix socket, for programs of this host
    // and for what the daemon accepts), the lifeline (its end is the listener's end); data: the secret by which the
    // daemon is known when it dials; id.
    listen = 10,
    // fds: the daemon's end of the doorbell; the socket, connecting or connected (or bound: connect_by_trunk); the
    // arena.
    connect = 11,
    // fds: a listener's door. Programs of this host do not find it any more: TCP brings them.
    unlist = 12,
    // fds: a doorbell; id of its connection; flags: borrow_flag. Answer: the kernel socket, for its options.
    borrow = 20,
    // fds: a doorbell or door. Answer: what was deposited for it, by a process of the same user.
    adopt = 21,
    // fds: a doorbell or door, then up to three descriptors that somebody who inherits it may ask for; data.
    deposit = 22,
    settled = 23,  // answered when all before it is done
    // After an upgrade of the daemon (feature_new_registry). Answer: the registry of listeners; id: what
    // session_segment::registry says of it.
    registry = 24,
    // fds: a doorbell; id of its connection, which the daemon has marked (shm::end_go_back). The caller holds the send
    // lock. Answer: the kernel socket, which the daemon carries no more; EAGAIN: not now, and the marks say when.
    go_back = 25,
    status = 30,  // flags: status_flag. A JSON document, in pieces (proto/documents.hh)
    routes = 31,  // the daemon's routes in compact text (proto/routes.hh), in pieces
    drain = 32,  // flags: drain_flag. By root or the daemon's user: connections and listeners go back to the kernel
    reply = 40,
};

constexpr bool has_answer(kind k) noexcept { return k != kind::connect && k != kind::deposit && k != kind::unlist; }

enum class session_kind : uint16_t { program = 1, query = 2 };

// In the flags of a connect job, beside shm::connect_by_trunk: without_trunk of the program's route (routes.hh).
inline constexpr uint32_t connect_without_trunk = 0x30;
inline constexpr unsigned connect_without_trunk_shift = 4;

struct hello_msg {
    uint32_t magic = control_magic;
    kind what = kind::hello;
    uint16_t version = control_version;
    uint64_t features = features_ours;
    session_kind session = session_kind::program;
    uint16_t spare[3] = {};
    char program[shm::name_bytes] = {};  // basename, for people and for routes; ends in NUL
};

struct welcome_msg {
    uint32_t magic = control_magic;
    kind what = kind::welcome;
    uint16_t version = control_version;
    int32_t status = 0;  // an errno: refused, `text` says why
    uint32_t ring_bytes = 0;
    uint64_t features = 0;
    uint64_t session_id = 0;
    uint64_t segment_bytes = 0;
    char text[168] = {};
};

inline constexpr size_t data_bytes = 64;

struct request_msg {
    uint32_t magic = control_magic;
    kind what = kind::listen;
    uint16_t spare = 0;
    uint32_t slot = 0;  // connect: of the job
    uint32_t serial = 0;  // the reply repeats it
    uint64_t id = 0;  // connect, borrow
    int32_t fd = -1;  // listen: the program's number for it, to be shown
    uint32_t flags = 0;  // listen: listen_flag; borrow: borrow_flag
    uint32_t backlog = 0;  // listen
    uint32_t spare2 = 0;
    char route[shm::name_bytes] = {};  // listen
    uint8_t data[data_bytes] = {};  // deposit
};

enum listen_flag : uint32_t {
    listen_no_local = 1,  // its route takes no local connections
    listen_only_local = 2,  // of TCP connections the program gets the sockets (dial_plain)
};

enum borrow_flag : uint32_t {
    borrow_plain = 1,  // SO_LINGER is to be the program's own, not what guards the daemon's end (conn/end_mark.hh)
};

enum status_flag : uint32_t {
    status_brief = 1,  // `connections` is empty; a daemon from before it may fill it
};
enum drain_flag : uint32_t {
    drain_cancel = 1,  // it carries again
};

struct reply_msg {
    uint32_t magic = control_magic;
    kind what = kind::reply;
    uint16_t spare = 0;
    int32_t status = 0;  // an errno
    uint32_t serial = 0;
    uint64_t bytes = 0;  // of text behind it: a piece of a document
    uint64_t id = 0;  // listen: the listener's
    uint8_t data[data_bytes] = {};
};

static_assert(sizeof(hello_msg) == 56 && sizeof(welcome_msg) == 208 && sizeof(request_msg) == 136 &&
              sizeof(reply_msg) == 96);

inline constexpr size_t fds_max = 4;

struct received {
    size_t bytes = 0;  // 0: the other end closed
    std::array<base::unique_fd, fds_max> fds;
    size_t fd_count = 0;
    bool truncated = false;
    bool lost = false;  // the kernel closed some of them: this process had no room (also truncated)

    // Closes what was not moved elsewhere, and not before it has stopped lingering: nobody is to wait for a stranger's.
    void drop() noexcept;
};

// As much of a text as fits, with zeros behind it.
template <size_t N>
void copy_text(char (&to)[N], std::string_view from) noexcept {
    memset(to, 0, N);
    memcpy(to, from.data(), std::min(from.size(), N - 1));
}

// One message with descriptors. flags: MSG_DONTWAIT or 0; MSG_NOSIGNAL is added, EINTR is returned as it comes.
// Returns 0 or an errno. Allocates nothing.
int send_with_fds(int sock, const void* msg, size_t bytes, std::span<const int> fds, int flags) noexcept;
// Returns 0 or an errno. Received descriptors are CLOEXEC; surplus ones go to `surplus` or are closed, and `truncated`
// says so.
int receive_with_fds(int sock, void* msg, size_t bytes, int flags, received& out,
                     shm::rights_sink* surplus = nullptr) noexcept;

// Before a unix socket is closed for the last time that a stranger may have sent descriptors on: what lies there unread
// is closed with it, and that would wait if it lingers. So nothing more comes, and what is there is received.
void drop_unread(int sock) noexcept;
inline void discard(base::unique_fd sock) noexcept { drop_unread(sock.get()); }

// An end of a conduit has moved (shm::end_moved): the socket that came with a token of its, counted in tokens_taken as
// those before it. None: it is under way, or what came is no socket of that kind. Does not wait, but for what is closed
// where nobody takes it.
base::unique_fd take_moved_socket(int bell, uint32_t& tokens_taken, shm::rights_sink* unwanted = nullptr) noexcept;

// A struct sockaddr_un for path; fails with ENAMETOOLONG beyond 107 bytes.
int unix_address(const char* path, void* sockaddr_un_out, uint32_t& len) noexcept;

}  // namespace vmsgr::proto
