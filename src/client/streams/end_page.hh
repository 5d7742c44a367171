// What the forks and execs of a program share of their end of a conduit (stream.hh), in memory that the other end never
// gets. One that comes from a relative is checked before its first use, and may have been written by an older library:
// what is new comes last.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>

#include "base/address.hh"
#include "client/streams/options.hh"
#include "shm/end.hh"

namespace vmsgr::client {

enum class phase : uint32_t {
    connecting,
    up_untold,  // established, connect() has not said so yet: it returns 0 once, as Linux does
    up,
    failed_untold,
    failed,
    undone,  // shut down when it had ended and connect() had not said so: from then on that says EINVAL
};

// It carries data, whether connect() has said so or not (programs need not ask).
constexpr bool stands(phase p) noexcept { return p == phase::up || p == phase::up_untold; }

inline constexpr uint64_t end_page_magic = 0x65676170'646e6556;  // "Vendpage"

// Who has the other end.
enum class far_end : uint32_t { daemon, program };

struct end_page {
    std::atomic<uint64_t> magic;  // last of all at the beginning: the page is in use
    pthread_mutex_t send_lock;
    pthread_mutex_t recv_lock;
    shm::tx_state tx;
    shm::rx_state rx;
    std::atomic<phase> state;
    std::atomic<uint32_t> corked;  // local: TCP_CORK
    std::atomic<int32_t> error;  // what SO_ERROR, the next send or recv will show, once
    std::atomic<uint32_t> reset_seen;  // the connection is broken; `error` was set from it
    std::atomic<uint32_t> shut_write;
    std::atomic<uint32_t> shut_read;
    std::atomic<uint32_t> tells_inq;  // TCP_INQ: a recvmsg() also tells what is left
    std::atomic<int32_t> peek_from;  // SO_PEEK_OFF: MSG_PEEK begins so many bytes behind the next one; below 0: off
    std::atomic<uint32_t> lowat;  // SO_RCVLOWAT: a read that waits returns no less; 0 and 1: anything
    std::atomic<uint32_t> edges;  // some epoll set watches it edge-triggered
    std::atomic<uint32_t> out_edges;  // for OUT too: the other end's taking of a token is such an edge
    std::atomic<uint32_t> watches_urgent;  // and some one for PRI
    std::atomic<uint32_t> urgent_inline;  // SO_OOBINLINE
    // Urgent data as the program has seen it, by the index behind the byte (stream_urgent.cc); under the receive lock.
    std::atomic<uint64_t> urgent_met;  // reads have come to the byte: it has left the ring, and no read went past it
    std::atomic<uint64_t> urgent_read;  // MSG_OOB has had it
    std::atomic<uint32_t> urgent_byte;  // of urgent_met
    base::address local;
    base::address peer;
    uint64_t id;  // of the connection; public
    uint16_t family;  // of the socket, which may differ from the address's
    uint16_t which;  // end 0 or 1 of the conduit
    far_end other;
    std::atomic<uint32_t> holders;  // processes, and descriptors under way, that may use this end; rather too many
    std::atomic<uint32_t> shared;  // holders was ever more than one
    std::atomic<uint32_t> other_gone;  // local: the other program left without a word, and all that it sent is here
    std::atomic<uint32_t> nonblocking;  // O_NONBLOCK as the program set it last: a hint
    std::atomic<uint32_t> port_bound;  // the program chose its port, and may want it again once it has closed
    std::atomic<uint32_t> over;  // the last holder has closed it
    std::atomic<uint64_t> deposited;  // the session that left it with the daemon for heirs
    std::atomic<uint32_t> plain;  // both directions go through the doorbell itself, and no token is left in it
    char route[shm::name_bytes];  // by which it is carried, for people; ends in NUL
    uint64_t moved;  // plain mode: what of our ring was sent through the doorbell; under the send lock
    std::atomic<uint32_t> moving;  // a piece of that is being sent, and `moved` does not count it yet
    std::atomic<uint32_t> shared_socket;  // plain mode: the other program made the number's socket
    std::atomic<uint32_t> owes;  // plain mode: not all of it yet
    shm::patience spins;
    shm::patience gathers;
    option_list options;  // local: what the program has set; over a trunk: what its socket lacks
    std::atomic<uint64_t> moved_to;  // plain mode: the cookie of the socket in the doorbell's place; 0: that itself
};

// Who may say what of a page that came from a relative: every index and enum in it is possible. Null: it is.
const char* implausible(const end_page& p, uint64_t capacity) noexcept;

}  // namespace vmsgr::client
