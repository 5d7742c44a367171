// Memory of local connections that both ends have left, kept mapped for the next connection of the same two programs:
// making and touching new memory is a third of what a short connection costs.
//
// The connecting end keeps it for its next connect to the same listener; the daemon still has the descriptors, so the
// job names the old connection's key instead of bringing memory. The accepting end keeps its mappings by the key under
// which the daemon will send them again. Nobody else ever has this memory, so what lies in the rings is known to both.
//
// Any thread, signal handlers too: whoever finds it busy goes without. A child of a fork keeps nothing of its parent's.
#pragma once

#include <array>
#include <atomic>
#include <optional>

#include "client/streams/stream.hh"

namespace vmsgr::client {

struct kept_conduit {
    shm::conduit memory;
    shm::mapping page;
    uint64_t key = 0;       // of this end
    uint64_t listener = 0;  // end 0: whose connections it may serve; 0 for end 1
    uint64_t session = 0;   // end 0: the session that the daemon knows it by
    uint64_t since = 0;     // for the oldest to make room
};

class kept_conduits {
    std::array<kept_conduit, 2 * shm::kept_conduits_max> _all;
    uint64_t _count = 0;
    std::atomic_flag _busy;

public:
    // Ready for another connection to this listener: its accepting end is done with it, and the daemon knows it.
    std::optional<kept_conduit> take_for(uint64_t listener, uint64_t session) noexcept;
    std::optional<kept_conduit> take(uint64_t key) noexcept;
    void keep(kept_conduit c) noexcept;

    void lock_for_fork() noexcept;
    void unlock_after_fork(bool in_child) noexcept;

private:
    class locked;
    bool _held_for_fork = false;
};

// This process's.
kept_conduits& kept() noexcept;

}  // namespace vmsgr::client
