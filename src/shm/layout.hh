// Every struct that lies in shared memory. Seen by two processes that do not trust each other: nothing read
// from here is used before it is copied and checked, no pointer is stored, no lock is shared.
// docs/PROTOCOL.md describes the same layout for readers of other languages.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/address.hh"

namespace vmsgr::shm {

static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free);

inline constexpr uint16_t layout_version = 3;
inline constexpr size_t cache_line = 64;
inline constexpr size_t page = 4096;

// --- conduit: one connection between a program and its other end -------------------------------------------

inline constexpr uint64_t conduit_magic = 0x74696475'6e6f6356;  // "Vconduit"
inline constexpr uint32_t ring_bytes_min = page;
inline constexpr uint32_t ring_bytes_max = 64u << 20;
// A sleeper is woken once half a ring has moved: smaller rings cost iperf3 throughput, larger ones only memory.
inline constexpr uint32_t ring_bytes_default = 1u << 20;

enum ring_flag : uint32_t {
    ring_fin = 1,    // the byte before head is the last one: end of file follows it
    ring_reset = 2,  // the connection is broken; ring_words::error says how (an errno)
    ring_more = 4,   // the last send had MSG_MORE: more will follow soon, a packet need not leave yet
    ring_inexact = 8,  // a holder died between counting and sending a token: tokens_sent is not to be trusted
};

// What the consumer has announced, as consumer_waits holds it. wake.hh says who may turn which into which.
class announcement {
    static constexpr uint32_t mark_bit = 2;  // the rest is an index, shortened to 30 bits (a ring has 26 at most)
    uint32_t _word;

public:
    constexpr explicit announcement(uint32_t word) noexcept : _word(word) {}
    // No token is wanted: the consumer looks by itself, or a token is in the socket or about to be sent.
    static constexpr announcement awake() noexcept { return announcement(0); }
    // The consumer sleeps or is about to: who turns this to awake owes it a token.
    static constexpr announcement asleep() noexcept { return announcement(1); }
    // The same once head is past `index`; up to there the consumer looks by itself. A producer that takes it for
    // asleep sends a token too many, no more.
    static constexpr announcement mark(uint64_t index) noexcept {
        return announcement(uint32_t(index) << 2 | mark_bit);
    }
    // The producer looks whether what it published is still unread, and then turns this to awake or asleep.
    static constexpr announcement deciding() noexcept { return announcement(4); }

    constexpr uint32_t word() const noexcept { return _word; }
    constexpr bool is_awake() const noexcept { return _word == 0; }
    constexpr bool is_mark() const noexcept { return (_word & mark_bit) != 0; }
    // A producer that has published up to `head` owes nothing.
    constexpr bool is_content_with(uint64_t head) const noexcept {
        return is_awake() || (is_mark() && int32_t((uint32_t(head) << 2) - (_word & ~mark_bit)) <= 0);
    }
    constexpr bool operator==(const announcement&) const noexcept = default;
};

// The shared words of one direction. One writer a cache line; consumer_waits alone has two.
struct ring_words {
    // The producer writes.
    alignas(cache_line) std::atomic<uint64_t> head;  // bytes ever published
    std::atomic<uint32_t> tokens_sent;               // tokens ever sent into the doorbell, counted before each
    std::atomic<uint32_t> flags;                     // ring_flag
    std::atomic<int32_t> error;                      // with ring_reset

    // The consumer writes.
    alignas(cache_line) std::atomic<uint64_t> tail;  // bytes ever taken

    // An `announcement`.
    alignas(cache_line) std::atomic<uint32_t> consumer_waits;
};
static_assert(sizeof(ring_words) == 3 * cache_line);
static_assert(offsetof(ring_words, tail) == 64 && offsetof(ring_words, consumer_waits) == 128);

// End 0 is the program that connected or accepted; end 1 is the daemon, or, in a local conduit, the program that
// accepted. End e produces into ring[e] and consumes ring[1 - e].
enum conduit_status : uint32_t {
    conduit_connecting = 0,
    conduit_established = 1,
    conduit_failed = 2,  // `error` says why; connect() shows it
};

enum end_flag : uint32_t {
    end_accepted = 1,       // the program has taken it from the accept queue
    end_read_shut = 2,      // shutdown(SHUT_RD)
    end_recalled = 4,       // the program took the kernel socket back: the daemon lets go of it without a word
    end_left = 8,           // its last holder has closed it, and said so in its ring before (fin or reset)
    end_shared = 16,        // more than one process may hold it: it can outlive the one that made it
    end_done = 32,          // local: left in order, and nothing there will touch the memory again
    end_kept = 64,          // end 0, local: it keeps the memory for its next connection to the same listener
};

struct conduit_header {
    // Written once, before the memory is shared.
    uint64_t magic;
    uint16_t version;
    uint16_t header_bytes;  // where ring 0's bytes begin; ring 1's follow them
    uint32_t ring_bytes;    // capacity of each ring, a power of two
    uint64_t key;           // random; who knows it may ask the daemon for this connection
    std::atomic<uint64_t> carried;  // local: bytes of the connections that used this memory before, for people

    // End 1 writes: the outcome of a connect. Addresses first, then error, then status (release).
    alignas(cache_line) std::atomic<uint32_t> status;
    std::atomic<int32_t> error;
    base::address local;
    base::address peer;
    std::atomic<uint32_t> forgotten;  // local: the daemon does not know this memory any more

    // Each end writes its own (end_flag).
    struct alignas(cache_line) end_word {
        std::atomic<uint32_t> flags;
    } end[2];

    ring_words ring[2];
};
static_assert(sizeof(conduit_header) == 4 * cache_line + 2 * sizeof(ring_words));
static_assert(sizeof(conduit_header) <= page);
static_assert(offsetof(conduit_header, carried) == 24 && offsetof(conduit_header, forgotten) == 120);
// Of ended local connections a program keeps at most so many for the next ones.
inline constexpr uint32_t kept_conduits_max = 8;

inline constexpr uint16_t conduit_header_bytes = page;
constexpr size_t conduit_bytes(uint32_t ring_bytes) { return conduit_header_bytes + 2 * size_t(ring_bytes); }
// Each program's end has a page in a memfd of its own, shared among the program and its own forks and execs: the
// private indices and locks of descriptors that more than one process may hold. The other end never has it.
inline constexpr size_t end_page_bytes = page;
// The first word of an end page belongs to the daemon as well: this end is over, and the page may begin another.
inline constexpr uint64_t end_page_done = 0x656e6f64'646e6556;  // "Venddone"

// How much of a limit is in use, published so that a program asks for nothing that would be refused. The daemon keeps
// the true count in private memory and writes this one; a program only reads it.
struct load {
    std::atomic<uint64_t> used;
    uint64_t enough;  // from here on programs keep to kernel sockets; 0: nothing is known
};
static_assert(sizeof(load) == 16);

// --- session: one attached process ---------------------------------------------------------------------------

inline constexpr uint64_t session_magic = 0x6e6f6973'73657356;  // "Vsession"
inline constexpr size_t name_bytes = 32;

// A job slot is free, being filled by the program, or posted; the daemon copies a posted one and frees it.
// The program's threads race for slots with compare-exchange on `state`.
enum slot_state : uint32_t { slot_free = 0, slot_filling = 1, slot_posted = 2 };

enum listen_flag : uint32_t {
    listen_no_local = 1,  // its route takes no local connections
};

struct listen_job {
    std::atomic<uint32_t> state;
    int32_t fd;  // the program's number for it, for people
    uint64_t key;
    base::address local;
    char route[name_bytes];
    uint32_t flags;  // listen_flag
    uint32_t backlog;
    uint8_t spare[16];
};
static_assert(sizeof(listen_job) == 96 && offsetof(listen_job, route) == 40);

enum connect_flag : uint32_t {
    connect_by_trunk = 1,  // the socket is only bound: the daemon finds a way, a trunk or else TCP
};

struct connect_job {
    std::atomic<uint32_t> state;
    int32_t fd;
    uint64_t key;
    base::address peer;
    char route[name_bytes];
    uint32_t ring_bytes;
    uint32_t flags;     // connect_flag
    uint64_t listener;  // key of the listener that gets it directly (local); 0: the daemon carries the socket
    uint8_t spare[8];
};
static_assert(sizeof(connect_job) == 96 && offsetof(connect_job, route) == 40);

enum connected_state : uint32_t { connected_free = 0, connected_open = 1 };

// What stands. The daemon writes it all but `fd`, which is the program's.
struct connected_entry {
    std::atomic<uint32_t> state;
    std::atomic<int32_t> fd;
    uint64_t key;
    base::address local;
    base::address peer;
    uint32_t role;   // 0 client, 1 server
    uint32_t shard;
    uint8_t spare[24];
};
static_assert(sizeof(connected_entry) == 96);

inline constexpr uint32_t listen_slots = 64;
inline constexpr uint32_t connect_slots = 256;
inline constexpr uint32_t connected_slots = 16384;
inline constexpr uint32_t no_slot = 0xffffffff;

struct session_segment {
    uint64_t magic;
    uint16_t version;
    uint16_t spare0;
    uint32_t bytes;
    uint64_t session_id;
    load connections;  // of this session

    // The program counts, the daemon shows.
    alignas(cache_line) std::atomic<uint64_t> connects_routed;
    std::atomic<uint64_t> listens_routed;
    std::atomic<uint64_t> fell_back;  // routed, but the daemon was not there or refused
    std::atomic<uint64_t> faults;     // believed impossible
    std::atomic<uint64_t> locals_left;  // ends of local connections that it has closed for good

    alignas(cache_line) listen_job listen[listen_slots];
    connect_job connect[connect_slots];
    connected_entry connected[connected_slots];
};
static_assert(offsetof(session_segment, connections) == 24 && offsetof(session_segment, listen) == 128);

// --- the listeners of a daemon, which every attached program may read -----------------------------------------

inline constexpr uint64_t registry_magic = 0x74736967'65725673;  // "sVregist"
inline constexpr uint32_t registry_slots = 4096;

enum listening_flag : uint32_t {
    listening_v4_too = 1,  // an IPv6 wildcard that takes IPv4 as well
};

// How well a listener takes a connection to this address (unmapped), as the kernel ranks listeners; 0: not at all.
inline int listening_score(const base::address& listens_on, uint32_t flags, const base::address& to) noexcept {
    base::address own = listens_on.unmapped();
    if (own == to) {
        return 3;
    }
    bool takes = own.family == to.family || (own.family == AF_INET6 && (flags & listening_v4_too) != 0);
    return own.is_any() && takes ? (own.family == to.family ? 2 : 1) : 0;
}

// The daemon alone writes. key == 0: free. A reader copies the rest and then looks whether the key is still the same.
struct alignas(cache_line) listening_entry {
    std::atomic<uint64_t> key;
    uint64_t netns;  // SO_NETNS_COOKIE of the listening socket
    base::address address;
    uint32_t flags;
    uint32_t backlog;
    std::atomic<uint32_t> waiting;  // connections not told to the program yet

    int score_for(const base::address& to) const noexcept { return listening_score(address, flags, to); }
};
static_assert(sizeof(listening_entry) == cache_line);

enum registry_flag : uint32_t {
    registry_one_address_plan = 1,  // an address means the same in every attached network namespace
};

struct listening_registry {
    uint64_t magic;
    uint16_t version;
    uint16_t spare0;
    uint32_t bytes;
    std::atomic<uint32_t> used;  // entries from here on were never used
    uint32_t flags;              // registry_flag; constant
    load descriptors;            // of the daemon
    load connections;            // of all sessions
    alignas(cache_line) listening_entry entry[registry_slots];
};
static_assert(offsetof(listening_registry, descriptors) == 24 && offsetof(listening_registry, entry) == cache_line);

}  // namespace vmsgr::shm
