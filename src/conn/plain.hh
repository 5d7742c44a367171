// The program's end of a conduit in plain mode: its doorbell carries the bytes, as somebody without the library uses it
// (end_plain in shm/layout.hh). Here the daemon plays that end of the rings itself: pull() moves from the doorbell to
// ring 0, as the program would, and push() from ring 1 to the doorbell. The rest of the connection notices nothing.
//
// One byte that came stays unread in the doorbell, though it was passed on: closed with it, the other end shows
// ECONNRESET, as a reset TCP connection does. An orderly end reads it first.
//
// Owner: one vm_conn, on its shard. Nothing here waits. No Seastar.
#pragma once

#include <cstdint>

#include "shm/arena.hh"
#include "shm/end.hh"

namespace vmsgr::conn {

class plain_end {
    const int _fd;
    shm::ring_receiver& _from_program;  // its tokens come first
    shm::rights_sink& _rights;
    shm::tx_state _tx;
    shm::rx_state _rx;
    shm::basic_ring_producer<shm::ring_words> _out;  // into ring 0
    shm::basic_ring_consumer<shm::ring_words> _in;  // from ring 1
    bool _ended = false;  // no byte follows in ring 0
    bool _fin_due = false, _fin_sent = false;
    bool _broken = false;
    bool _left_unread = false;

public:
    // near: the daemon's end. The program stopped reading ring 1 at its tail, from which everything is sent anew.
    plain_end(const shm::conduit& c, shm::end& near, shm::rights_sink& rights) noexcept;

    enum class pulled : uint8_t {
        nothing,
        some,
        ended,  // nothing follows: fin or reset stands in the ring, or the program has closed its end
    };
    pulled pull() noexcept;
    // True: room came into ring 1.
    bool push() noexcept;
    // End of file for the program, after all that lies in ring 1.
    void finish() noexcept {
        _fin_due = true;
        push();
    }
    // Nothing waits in ring 1, or nobody will take it.
    bool is_empty() const noexcept { return _broken || !_in.has_data(); }
    // All that the program sent is in ring 0.
    bool has_ended() const noexcept { return _ended; }
    // The program closed it with bytes unread.
    bool left_unread() const noexcept { return _left_unread; }
    // The index in shared memory cannot be: the connection is to be broken.
    bool is_impossible() const noexcept;

private:
    bool take_tokens() noexcept;
};

}  // namespace vmsgr::conn
