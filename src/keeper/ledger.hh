// What is known of each thing that the keeper holds (docs/KEEPER.md): memory that all workers and their keeper share,
// one after the other. Fixed in size; only a worker writes what is of a thing, on the thing's shard.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/address.hh"
#include "shm/layout.hh"

namespace vmsgr::keeper {

inline constexpr uint32_t ledger_version = 2;

enum entry_state : uint32_t {
    entry_free = 0,
    entry_kept = 1,   // the worker has written it and sent its descriptors; the keeper may not have them yet
    entry_asked = 2,  // the worker wants no copy to be left
    entry_back = 3,   // the keeper has closed its copies; only it writes this
};

enum class entry_kind : uint32_t { connection, session, listener, lifeline, trunks, relay };

// The program whose thing it is.
struct owner_facts {
    uint64_t session, features;
    int32_t pid;
    uint32_t uid;
    char program[shm::name_bytes];
};

struct connection_facts {
    // life::connection::save(), before what it says is done; life[life_at] is whole at each instant.
    std::array<std::array<std::byte, 16>, 2> life;
    std::atomic<uint32_t> life_at;
    std::atomic<uint32_t> plain;  // the doorbell carries bytes
    uint32_t slot;                // in the arena
    uint32_t shown;               // in the program's connected list
    int32_t program_fd;
    uint64_t id;
    uint64_t sent_base;      // what the kernel counts as written, when ring 0 was read up to 0
    uint64_t received_base;  // ... as read, when ring 1 was written up to 0
    double opened_s;         // Unix time
    base::address local, peer;
    // Over a trunk, where the bases are not used: the session's cookie and its channel; 0: tcp itself is the far side.
    uint64_t trunk, channel;
    int32_t linger[2];  // the program's SO_LINGER, where has_linger
    uint8_t has_linger;
    uint8_t role;
    char route[shm::name_bytes];
};

// One of shard 0.
struct session_facts {
    std::atomic<uint32_t> pending;  // proto::kind of the request that is being handled; 0: none
    uint32_t serial, slot;  // of that
    uint64_t id;  // ... connect: of its job; unlist: the door's cookie
    uint32_t gid;
};

// Of listener_facts.
enum listener_local : uint32_t {
    listener_takes_local = 1,  // programs of this host may dial it
    listener_only_local = 2,  // TCP connections are passed on
};

struct listener_facts {
    uint64_t id;
    uint64_t door_cookie;
    std::array<uint8_t, 16> word;  // proto::secret
    int32_t program_fd;
    uint32_t local;  // keeper::listener_local
    char door[shm::door_bytes];  // its name
    char route[shm::name_bytes];
};

struct lifeline_facts {
    uint64_t listener;
};

// Of a shard, as it was when nothing moved any more: trunks::service::save().
struct trunks_facts {
    std::atomic<uint32_t> used;  // another worker went on with it, so it is not true any more
};

// The record of its shard's trunks knows the rest.
struct relay_facts {
    uint64_t trunk, channel;  // as of a connection
};

struct alignas(shm::cache_line) entry {
    std::atomic<uint32_t> state;
    // The rest but for atomics: once, before state.
    uint32_t version;
    entry_kind kind;
    owner_facts owner;
    union {  // memory of a ledger is zero when it is new, and none of these is ever made or ended
        connection_facts connection;
        session_facts session;
        listener_facts listener;
        lifeline_facts lifeline;
        trunks_facts trunks;
        relay_facts relay;
    };
};

// The descriptors of an entry, in their order.
inline constexpr size_t kept_fds = 3;
enum kept_fd : uint8_t {
    kept_tcp = 0,  // of a connection; of a listener or a relay, alone
    kept_bell = 1,
    kept_arena = 2,
    kept_control = 0,  // of a session
    kept_segment = 1,
    kept_lifeline = 0,  // the daemon's end
    kept_record = 0,  // of trunks: a memfd
};
constexpr size_t descriptors_of(entry_kind k) noexcept {
    return k == entry_kind::connection ? 3 : k == entry_kind::session ? 2 : 1;
}

// One message of the channel between them.
struct custody_message {
    uint32_t state;  // entry_kept or entry_asked
    uint32_t entry;
    uint32_t descriptors;  // that come with it
};

}  // namespace vmsgr::keeper
