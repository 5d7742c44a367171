// What travels over the control socket (SOCK_SEQPACKET, one message a packet, descriptors beside it) and over a
// listener's doorbell. Fixed-size structs in the machine's byte order: both ends are on one host. Every message
// begins with its magic and its kind; a receiver checks length, magic and kind before anything else.
//
// Attach: hello -> welcome (with the session segment and the registry of listeners, or a refusal that says why).
// Program -> daemon, no answer: listen, connect (the job itself lies in the session segment).
// Program -> daemon, one answer each: borrow, adopt. Query sessions: status, routes.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "base/address.hh"
#include "base/error.hh"
#include "base/unique_fd.hh"
#include "shm/layout.hh"
#include "vmsgr/version.h"

namespace vmsgr::proto {

inline constexpr uint32_t control_magic = 0x52474d56;  // "VMGR"
inline constexpr uint16_t control_version = 2;
inline constexpr const char* default_socket = "/run/vmsgr/vmsgrd.sock";
inline constexpr const char* version_text = VMSGR_VERSION;

// Feature bits: what a side understands beyond its version. Both use the intersection.
enum feature : uint64_t {
    feature_borrow = 1,
    feature_adopt = 2,
    feature_plain = 4,  // the program takes kernel sockets from a listener's doorbell
    feature_trunk = 8,  // connect jobs may leave the way to the daemon
};
inline constexpr uint64_t features_ours = feature_borrow | feature_adopt | feature_plain | feature_trunk;

enum class kind : uint16_t {
    hello = 1,
    welcome = 2,
    // jobs; no answer
    listen = 10,   // fds: the kernel socket (bound, listening), the listener doorbell's other end
    // fds: the conduit's memory, its doorbell's other end, the socket, the program's end page. The socket is connecting
    // or connected; or, where the job names a listener, bound to the address that this end has: it keeps the port.
    connect = 11,
    // requests; answered by `reply`
    borrow = 20,  // the kernel socket of connection `key`, to read and set its options; fd beside the reply
    adopt = 21,   // the conduit memory and the end page of connection `key`, for a program that inherited it
    status = 30,  // a JSON document in a memfd
    routes = 31,  // the daemon's routes in compact text (proto/routes.hh), in a memfd
    reply = 40,
};

enum class session_kind : uint16_t { program = 1, query = 2 };

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

struct request_msg {
    uint32_t magic = control_magic;
    kind what = kind::listen;
    uint16_t spare = 0;
    uint32_t slot = 0;  // of the job, for listen and connect
    uint32_t spare2 = 0;
    uint64_t key = 0;   // of the connection; for jobs the same as in the slot
};

struct reply_msg {
    uint32_t magic = control_magic;
    kind what = kind::reply;
    uint16_t spare = 0;
    int32_t status = 0;  // an errno
    uint32_t spare2 = 0;
    uint64_t bytes = 0;  // of the document in the memfd
    uint64_t key = 0;    // of the request
};

// On a listener's doorbell, daemon -> program: one accepted connection.
enum accepted_flag : uint32_t {
    accepted_local = 1,  // the other end is a program; this one is end 1
    accepted_plain = 2,  // the daemon has no room for it: its kernel socket itself, and no other descriptor
    accepted_trunk = 4,  // its socket stands for it alone, and has none of the options that the listener has
};
struct accepted_msg {
    uint32_t magic = control_magic;
    uint32_t slot = shm::no_slot;  // in the session's connected list
    uint64_t key = 0;
    base::address local;
    base::address peer;
    uint32_t flags = 0;  // accepted_flag
    uint32_t spare = 0;
    // fds: the program's end of the doorbell (first: accept() gives the lowest number), the conduit's memory, the end
    // page
};

static_assert(sizeof(hello_msg) == 56 && sizeof(welcome_msg) == 208 && sizeof(request_msg) == 24 &&
              sizeof(reply_msg) == 32 && sizeof(accepted_msg) == 72);

inline constexpr size_t fds_max = 4;

struct received {
    size_t bytes = 0;  // 0: the other end closed
    std::array<base::unique_fd, fds_max> fds;
    size_t fd_count = 0;
    bool truncated = false;
};

// One message with descriptors. flags: MSG_DONTWAIT or 0; MSG_NOSIGNAL is added, EINTR is returned as it comes.
// Returns 0 or an errno. Allocates nothing.
int send_with_fds(int sock, const void* msg, size_t bytes, std::span<const int> fds, int flags) noexcept;
// Returns 0 or an errno. Received descriptors are CLOEXEC; surplus ones are closed.
int receive_with_fds(int sock, void* msg, size_t bytes, int flags, received& out) noexcept;

// A struct sockaddr_un for path; fails with ENAMETOOLONG beyond 107 bytes.
int unix_address(const char* path, void* sockaddr_un_out, uint32_t& len) noexcept;

}  // namespace vmsgr::proto
