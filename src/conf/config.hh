// The daemon's configuration file (YAML) and route files, read into plain values. Everything is checked here, so
// whoever gets a daemon_config may use it as it is. Seastar-free; any thread; nothing is kept.
//
// An error is one line that names file, line and key, what stands there and what was expected:
//   /etc/vmsgr/vmsgrd.yaml:7: routes[0].role: 'clint' is not one of client, server, any; did you mean 'client'?
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hh"
#include "conf/trunks.hh"
#include "proto/control.hh"
#include "proto/routes.hh"
#include "shm/layout.hh"

namespace vmsgr::conf {

enum class poll_mode : uint8_t { adaptive = 0, busy = 1 };
enum class reactor_backend : uint8_t { epoll = 0, linux_aio = 1 };
std::string_view to_text(poll_mode) noexcept;  // "adaptive", "busy"
std::string_view to_text(reactor_backend) noexcept;  // "epoll", "linux-aio": what Seastar calls them

inline constexpr unsigned shards_max = 256;
inline constexpr unsigned shards_default_max = 8;
inline constexpr uint64_t memory_bytes_per_shard_default = 64ull << 20;
inline constexpr uint64_t memory_bytes_per_shard_min = 32ull << 20;

// Half of the processors that this process may use, at least one and at most shards_default_max: the programs that
// the daemon serves need the others. With a cpuset, one a processor of it.
unsigned default_shards() noexcept;

// Who may attach. Empty lists: whoever the socket's mode and group let in.
struct access_config {
    unsigned mode = 0660;  // of the control socket
    std::string group;  // of the control socket; empty: the daemon's own
    std::vector<uid_t> uids;  // names in the file are looked up
    std::vector<gid_t> gids;
    // Whose members see what belongs to all users, in status; empty: root and the daemon's own user alone.
    std::string observers;
    std::optional<gid_t> observers_gid;
    bool operator==(const access_config&) const = default;
};

// What all programs of one user may use together. 0: half of what all users may. No limit for root and the daemon's own
// user. Each is at most the limit of all.
struct user_limits_config {
    uint32_t sessions = 0;
    uint32_t connections = 0;
    uint32_t listeners = 0;
    uint32_t descriptors = 0;
    uint64_t memory = 0;
};

struct limits_config {
    uint32_t sessions = 4096;
    uint32_t connections = 65536;
    uint32_t connections_per_session = 16384;  // at most shm::connected_slots
    uint32_t listeners = 4096;
    uint64_t memory = 0;  // bytes of the rings of all connections; 0: what the machine or the container has
    user_limits_config per_user;
    uint32_t ring_bytes = shm::ring_bytes_default;  // each direction of a connection; a power of two
    uint32_t orphan_ms = 60000;  // data of a program that ended may wait so long without progress
    uint32_t flush_ms = 5000;  // what is left in rings at a stop may take so long to leave
};

// Whether an address means the same host in all network namespaces whose programs attach.
enum class namespaces : uint8_t { separate = 0, shared = 1 };

struct daemon_config {
    std::string socket = proto::default_socket;  // absolute, fits a sockaddr_un
    unsigned shards = default_shards();
    uint64_t memory_bytes = memory_bytes_per_shard_default * shards;  // of all shards together; key `memory`
    access_config access;
    limits_config limits;
    namespaces networks = namespaces::separate;  // key `network_namespaces`
    poll_mode polling = poll_mode::adaptive;  // key `poll_mode`
    unsigned idle_poll_us = 50;
    reactor_backend backend = reactor_backend::epoll;  // key `reactor_backend`
    std::string cpuset;  // "0-3,8"; empty: anywhere, unpinned
    std::string user;  // whom the daemon becomes; empty: it stays who it is
    bool seccomp = true;  // its system calls are restricted
    uint32_t watchdog_ms = 2000;  // a shard that stands still for longer is the end of the worker; 0: it is waited for
    std::string log_level = "info";  // error, warn, info, debug, trace: Seastar's words
    proto::route_table routes;
    base::address metrics;  // where Prometheus finds them, key `metrics.listen`; none: nowhere
    trunk_config trunks;  // keys `trunk` and `trunks`
};

base::result<daemon_config> load_daemon_config(const std::string& path);
// What a running daemon cannot change keeps its present value in `fresh`. The keys that differ.
std::vector<std::string> keep_fixed(const daemon_config& present, daemon_config& fresh);
// The top-level `routes:` list of a file, which may be a whole daemon configuration.
base::result<proto::route_table> load_routes(const std::string& path);

// The same from text; `name` stands where the path would in errors.
base::result<daemon_config> parse_daemon_config(std::string_view text, const std::string& name);
base::result<proto::route_table> parse_routes_file(std::string_view text, const std::string& name);

}  // namespace vmsgr::conf
