// Connections between two programs of this daemon. Their bytes never come here; what we keep is what a kernel would
// keep for them: the port (the connecting program's socket, bound), and the memory, for a program that inherits an end
// by exec or gets it from another. One a shard, in the carrier.
//
// Nobody tells us when such a connection ends. Its ends say in their own memory that they left, and a killed program's
// session ends; so each new connection looks at two old ones, and a timer at some more.
#pragma once

#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

#include <seastar/core/lowres_clock.hh>
#include <seastar/core/timer.hh>

#include "net/vm_conn.hh"

namespace vmsgr::net {

struct local_conn {
    struct side {
        uint64_t key = 0;
        places place;
        uint32_t slot = shm::no_slot;
        int fd = -1;  // as the program said, for people
        base::address local, peer;
        base::unique_fd page;
    };
    uint64_t id = 0;
    side ends[2];  // 0 connected, 1 accepted
    std::string route;
    base::unique_fd memory, tcp;
    double opened_s = 0;
};

class local_conns {
    std::map<uint64_t, local_conn> _all;
    std::unordered_map<uint64_t, std::pair<uint64_t, unsigned>> _by_key;  // -> id, end
    uint64_t _looked_at = 0;
    seastar::timer<seastar::lowres_clock> _timer;
    // Of connections that are gone.
    uint64_t _bytes = 0;

public:
    local_conns() {
        _timer.set_callback([this] { on_timer(); });
    }
    ~local_conns() { clear(); }

    // Shows it in both programs' lists; it stays where it is until it is forgotten.
    const local_conn& add(local_conn c);
    bool knows(uint64_t key) const noexcept { return _by_key.contains(key); }
    // Null where the key is not known here.
    const local_conn* find(uint64_t key, unsigned& end) const noexcept;
    // Both ends of up to `limit` / 2 connections beyond `after`, in their order.
    std::vector<conn_info> list(uint64_t after, size_t limit) const;
    // Bytes that all of them have carried so far. Reads each one's memory.
    uint64_t bytes() const noexcept;
    // A program's session has ended: what it alone held ends now.
    void owner_ended(const program& p) noexcept;
    void clear() noexcept;

private:
    void look_at(size_t how_many) noexcept;
    void forget_if_over(std::map<uint64_t, local_conn>::iterator at) noexcept;
    void on_timer() noexcept;
    void forget(std::map<uint64_t, local_conn>::iterator at) noexcept;
};

}  // namespace vmsgr::net
