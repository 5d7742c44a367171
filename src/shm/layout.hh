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

inline constexpr uint16_t layout_version = 6;
inline constexpr size_t cache_line = 64;
inline constexpr size_t page = 4096;

// --- arena: the memory that two parties share ------------------------------------------------------------------

// Two parties are a program and its daemon, or a program and the programs that accept from one listener. Either side
// may have made the arena; its maker gives out the slots. A slot holds one connection at a time, a conduit: a header
// and two rings. The file: this header, the headers of all slots, and from the next page on the rings, two a slot.
inline constexpr uint64_t arena_magic = 0x616e6572'615600;  // "\0Varena"
inline constexpr uint32_t arena_slots_max = 64;

struct arena_header {
    // Written once, before the memory is shared.
    uint64_t magic;
    uint16_t version;
    uint16_t spare0;
    uint32_t slots;
    uint32_t ring_bytes;  // capacity of each ring, a power of two
    uint32_t spare1;
    uint64_t bytes;  // of the file

    // Either party, once: no new connection begins here. Whoever has forked says so, as the child has the memory too.
    alignas(cache_line) std::atomic<uint32_t> closed;
};
static_assert(sizeof(arena_header) == 2 * cache_line && offsetof(arena_header, closed) == cache_line);

// --- conduit: one connection between two ends ------------------------------------------------------------------

inline constexpr uint32_t ring_bytes_min = page;
inline constexpr uint32_t ring_bytes_max = 64u << 20;
// A sleeper is woken once half a ring has moved: smaller rings cost iperf3 throughput, larger ones only memory.
inline constexpr uint32_t ring_bytes_default = 1u << 20;
// Between two programs nothing but the rings holds what is not read yet, where TCP has the buffers of two sockets. So
// their rings are larger. Memory is touched as far as a ring is filled at once (ring_words::base).
constexpr uint32_t local_ring_bytes(uint32_t ring_bytes) noexcept {
    constexpr uint32_t times = 8;
    return ring_bytes < ring_bytes_max / times ? ring_bytes * times : ring_bytes_max;
}

enum ring_flag : uint32_t {
    ring_fin = 1,  // the byte before head is the last one: end of file follows it
    ring_reset = 2,  // the connection is broken; ring_words::error says how (an errno)
    ring_more = 4,  // the last send had MSG_MORE: more will follow soon, a packet need not leave yet
    ring_inexact = 8,  // a holder died between counting and sending a token: tokens_sent is not to be trusted
    ring_urgent = 16,  // the byte before ring_words::urgent was sent as urgent data (MSG_OOB)
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
    std::atomic<uint32_t> tokens_sent;  // tokens ever sent into the doorbell, counted before each
    std::atomic<uint32_t> flags;  // ring_flag
    std::atomic<int32_t> error;  // with ring_reset
    // Byte n lies at (n - base) mod capacity. It changes while the ring is empty, before the next byte is published.
    std::atomic<uint64_t> base;
    std::atomic<uint64_t> urgent;  // with ring_urgent: behind the latest urgent byte. Written before head passes it
    // Beyond head: bytes up to here are written and held back (TCP_CORK). They are the consumer's if the producer dies.
    std::atomic<uint64_t> held;

    // The consumer writes.
    alignas(cache_line) std::atomic<uint64_t> tail;  // bytes ever taken
    std::atomic<uint32_t> window;  // so many unread bytes are its share of what a ring may hold; 0: it does not say

    // An `announcement`.
    alignas(cache_line) std::atomic<uint32_t> consumer_waits;
};
static_assert(sizeof(ring_words) == 3 * cache_line);
static_assert(offsetof(ring_words, base) == 24 && offsetof(ring_words, urgent) == 32);
static_assert(offsetof(ring_words, held) == 40);
static_assert(offsetof(ring_words, tail) == 64 && offsetof(ring_words, window) == 72);
static_assert(offsetof(ring_words, consumer_waits) == 128);

// End 0 is the program that connected or accepted; end 1 is the daemon, or, in a local conduit, the program that
// accepted. End e produces into ring[e] and consumes ring[1 - e].
enum conduit_status : uint32_t {
    conduit_connecting = 0,
    conduit_established = 1,
    conduit_failed = 2,  // `error` says why; connect() shows it
};

enum end_flag : uint32_t {
    end_accepted = 1,  // the program has taken it from the accept queue
    end_read_shut = 2,  // shutdown(SHUT_RD)
    end_recalled = 4,  // the program took the kernel socket back: the daemon lets go of it without a word
    end_left = 8,  // its last holder has closed it, and said so in its ring before (fin or reset)
    end_shared = 16,  // more than one process may hold it: its slot serves no second connection
    end_done = 32,  // nothing on that side touches the slot again
    // Plain mode: the doorbell itself carries the bytes, because somebody without the library is to use it.
    end_plain = 64,  // it has published its last byte and counted its last token; what it sends comes behind the tokens
    end_reads_plain = 128,  // it takes no more from its ring: what lies there, and what follows, is sent as above
    end_moved = 256,  // through another socket, which comes with its last token
    end_not_urgent = 1024,  // the daemon: nothing urgent can be sent on this way (a trunk to an older version)
    end_agreed =
        512,  // written by the other end, unless it finds `moved`: it has agreed, and sends what lies in the ring
    // The daemon (proto::kind::go_back): the program is to have its kernel socket back, so that the daemon can leave.
    end_go_back = 2048,  // it is to ask for it when the ring to it is empty
    end_hold = 4096,  // it is to publish nothing, as if its ring were full, and to ask once that is empty
    end_gone = 8192,  // nothing is carried any more: each process that has this end asks, and gets the socket
    // The program, under its send lock.
    end_asks = 16384,  // it is asking, and publishes nothing meanwhile
    end_granted =
        32768,  // written by the daemon, as long as end_asks stands there: from then on the other has end_gone
    // The eight bits from here on: why it asked for plain mode (proto::plain_cause), for people.
    end_cause_first = 1u << 16,
};
inline constexpr uint32_t end_cause_shift = 16;

struct conduit_header {
    // End 1 writes: the outcome of a connect. Addresses first, then error, then status (release).
    alignas(cache_line) std::atomic<uint32_t> status;
    std::atomic<int32_t> error;
    base::address local;
    base::address peer;

    // Each end writes its own (end_flag).
    struct alignas(cache_line) end_word {
        std::atomic<uint32_t> flags;
    } end[2];

    ring_words ring[2];
};
static_assert(sizeof(conduit_header) == 3 * cache_line + 2 * sizeof(ring_words));
static_assert(offsetof(conduit_header, end) == 64 && offsetof(conduit_header, ring) == 192);

// Where a slot's header and its first ring begin, and how large the file is.
constexpr size_t slot_header_at(uint32_t slot) { return sizeof(arena_header) + slot * sizeof(conduit_header); }
constexpr size_t arena_rings_at(uint32_t slots) { return (slot_header_at(slots) + page - 1) / page * page; }
constexpr size_t slot_rings_at(uint32_t slots, uint32_t ring_bytes, uint32_t slot) {
    return arena_rings_at(slots) + slot * 2 * size_t(ring_bytes);
}
constexpr size_t arena_bytes(uint32_t slots, uint32_t ring_bytes) { return slot_rings_at(slots, ring_bytes, slots); }

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

// A slot of a list is free, being filled, or posted. The daemon copies a posted job and frees its slot. Threads race
// for slots with compare-exchange on `state`.
enum slot_state : uint32_t { slot_free = 0, slot_filling = 1, slot_posted = 2 };

enum connect_flag : uint32_t {
    connect_by_trunk = 1,  // the socket is only bound: the daemon finds a way, a trunk or else TCP
    connect_end_mark =
        2,  // the socket lingers for no time by now, and is to linger as `linger` says (feature_end_mark)
};

struct connect_job {
    std::atomic<uint32_t> state;
    int32_t fd;  // the program's number for it, to be shown
    uint64_t id;  // the session's id in the upper half, the program's own count below: public, gives no right
    base::address peer;
    char route[name_bytes];
    uint32_t slot;  // of the arena that comes with the job
    uint32_t flags;  // connect_flag
    int32_t linger[2];  // with connect_end_mark: the program's SO_LINGER, on and seconds
    uint8_t spare[8];
};
static_assert(sizeof(connect_job) == 96 && offsetof(connect_job, route) == 40);

// A connection that the daemon carries, as it shows it to the program. The daemon writes all but `fd`.
struct connected_entry {
    std::atomic<uint32_t> state;
    std::atomic<int32_t> fd;
    uint64_t id;
    base::address local;
    base::address peer;
    uint32_t role;  // 0 client, 1 server
    uint32_t shard;
    uint8_t spare[24];
};
static_assert(sizeof(connected_entry) == 96);

enum local_flag : uint32_t {
    local_plain = 1,  // it is in plain mode
    local_moved = 2,  // and has moved to another socket
};
inline constexpr uint32_t local_cause_shift = 8;

// An end of a local connection, as the program shows it to the daemon, which is not in its path. Nothing depends on it.
struct local_entry {
    std::atomic<uint32_t> state;
    int32_t fd;
    base::address local;
    base::address peer;
    uint32_t role;
    uint32_t spare0;
    double opened_s;  // Unix time
    char route[name_bytes];
    std::atomic<uint64_t> bytes_in, bytes_out;
    std::atomic<uint32_t> plain;  // local_flag, and why (proto::plain_cause) in the bits from local_cause_shift on
    uint32_t spare1;
};
static_assert(sizeof(local_entry) == 128 && offsetof(local_entry, opened_s) == 64);

inline constexpr uint32_t connect_slots = 256;
inline constexpr uint32_t connected_slots = 16384;
inline constexpr uint32_t local_slots = 16384;
inline constexpr uint32_t no_slot = 0xffffffff;

struct session_segment {
    uint64_t magic;
    uint16_t version;
    // Which list of listeners the daemon has now; the program asks for it when it has another (proto::kind::registry).
    std::atomic<uint16_t> registry;
    uint32_t bytes;
    uint64_t session_id;
    load connections;  // of this session

    // The program counts, the daemon shows.
    alignas(cache_line) std::atomic<uint64_t> connects_routed;
    std::atomic<uint64_t> listens_routed;
    std::atomic<uint64_t> fell_back;  // routed, but the daemon was not there or refused
    std::atomic<uint64_t> faults;  // believed impossible
    std::atomic<uint64_t> locals_opened;  // ends of local connections
    std::atomic<uint64_t> bytes_local;  // that its ends of local connections have sent, those that are closed
    std::atomic<uint64_t> turned_away;  // diallers that said nothing in time, or what is not true
    std::atomic<uint32_t> locals_used;  // entries of `locals` from here on were never used
    std::atomic<uint32_t> left_to_kernel;  // why the program carries nothing any more (proto::plain_cause); 0: it does

    alignas(cache_line) connect_job connect[connect_slots];
    connected_entry connected[connected_slots];
    local_entry locals[local_slots];
};
static_assert(offsetof(session_segment, connections) == 24 && offsetof(session_segment, connect) == 128);

// --- the listeners of a daemon, which every attached program may read -----------------------------------------

inline constexpr uint64_t registry_magic = 0x74736967'65725673;  // "sVregist"
inline constexpr uint32_t registry_slots = 4096;

enum listening_flag : uint32_t {
    listening_v4_too = 1,  // an IPv6 wildcard that takes IPv4 as well
    listening_one_of_many = 2,  // SO_REUSEPORT: connections are shared among those with the same address
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

// The daemon alone writes. id == 0: free. A reader copies the rest and then looks whether the id is still the same.
// Whoever dials connects to the socket `door` in the daemon's folder of doors.
inline constexpr size_t door_bytes = 24;  // letters and digits, ends in NUL
struct alignas(cache_line) listening_entry {
    std::atomic<uint64_t> id;
    uint64_t netns;  // SO_NETNS_COOKIE of the listening socket
    base::address address;
    uint32_t flags;
    uint32_t spare0;
    char door[door_bytes];
    uint8_t spare[56];

    int score_for(const base::address& to) const noexcept { return listening_score(address, flags, to); }
};
static_assert(sizeof(listening_entry) == 2 * cache_line && offsetof(listening_entry, door) == 48);

enum registry_flag : uint32_t {
    registry_one_address_plan = 1,  // an address means the same in every attached network namespace
};

struct listening_registry {
    uint64_t magic;
    uint16_t version;
    uint16_t spare0;
    uint32_t bytes;
    std::atomic<uint32_t> used;  // entries from here on were never used
    uint32_t flags;  // registry_flag; constant
    load descriptors;  // of the daemon
    load connections;  // of all sessions
    alignas(cache_line) listening_entry entry[registry_slots];
};
static_assert(offsetof(listening_registry, descriptors) == 24 && offsetof(listening_registry, entry) == cache_line);

}  // namespace vmsgr::shm
