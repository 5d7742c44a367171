// Connections between two programs of this daemon. Their bytes never come here; what we keep is what a kernel would
// keep for them: the port (the connecting program's socket, bound), and the memory, for a program that inherits an end
// by exec or gets it from another. One a shard, in the carrier.
//
// Nobody tells us which connection ends. Its ends say in their own memory that they left, programs count in their
// segment how many they left, and a killed program's session ends. So each new connection looks at two old ones, and a
// timer at many while a count moves, else at a few: ends that an heir held are in nobody's count.
//
// One that is over rests here when the connecting program keeps its memory: that program's next connection to the same
// listener is the same record again.
#pragma once

#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

#include <seastar/core/lowres_clock.hh>
#include <seastar/core/timer.hh>

#include "conn/vm_conn.hh"

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
    uint64_t listener = 0;
    side ends[2];  // 0 connected, 1 accepted
    std::string route;
    base::unique_fd memory, tcp;
    double opened_s = 0;
    std::optional<lease> resting;  // of end 0's `kept`: it is over, and may begin again
};

class local_conns {
    std::map<uint64_t, local_conn> _all;
    std::unordered_map<uint64_t, std::pair<uint64_t, unsigned>> _by_key;  // -> id, end
    uint64_t _looked_at = 0;
    size_t _to_look_at = 0;  // how many, since a program has counted an end
    struct ends_of {
        size_t count = 0;    // of ends here
        uint64_t left = 0;   // as the program counted when we last looked
    };
    std::unordered_map<const program*, ends_of> _programs;
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
    // Takes out the connection whose end 0 has this key, for its programs' next one: if it is over in the word of its
    // accepting program, the only one that would suffer. Nothing: there is none such.
    std::optional<local_conn> take_again(uint64_t key, const program& connecting, const program& accepting,
                                         uint64_t listener) noexcept;
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
    bool any_left() noexcept;
    void rest(local_conn& c) noexcept;
    void show(local_conn& c) noexcept;
    void unlist(local_conn& c) noexcept;
    void forget(std::map<uint64_t, local_conn>::iterator at) noexcept;
};

}  // namespace vmsgr::net
