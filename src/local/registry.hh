// Where programs of this daemon listen, published to all of them in memory that only we can write: a connecting program
// finds by itself that its peer is one of ours. One for the daemon; any shard. Its memory outlives the worker, which
// takes over what is in it.
#pragma once

#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "local/doors.hh"
#include "shm/segment.hh"

namespace vmsgr::local {

class registry {
    std::mutex _mutex;  // held for a look into a map; the programs' search takes no lock, and data never does
    const uint16_t _turn;
    bool _lists_again = false;
    base::unique_fd _fd;
    shm::mapping _map;
    struct place {
        uint32_t slot = shm::no_slot;  // none: not for programs of this daemon
        unsigned shard;
        uint64_t netns;
        base::address address;
        uint32_t flags;  // shm::listening_flag
        uint64_t door = 0;  // its cookie; 0: programs do not dial it
    };
    std::unordered_map<uint64_t, place> _by_id;
    std::vector<uint32_t> _free;

public:
    // one_address_plan: programs of different network namespaces may be connected, where an address names one of them.
    // Throws std::system_error when there is no memory.
    // turn: another one than that of the daemon before, whose programs still have its registry.
    explicit registry(bool one_address_plan = false, uint16_t turn = 0);
    uint16_t turn() const noexcept { return _turn; }
    bool one_address_plan() const noexcept { return (memory().flags & shm::registry_one_address_plan) != 0; }
    int fd() const noexcept { return _fd.get(); }
    // Where programs see how much is in use.
    shm::load& descriptors() const noexcept { return memory().descriptors; }
    shm::load& connections() const noexcept { return memory().connections; }

    // `socket` listens. door: programs of this host may find and dial it; without a name, or where no slot is left,
    // they reach it by TCP.
    void publish(uint64_t id, unsigned shard, int socket, const door_place& door);
    // One that an earlier worker has published: programs find it still, unless it was unlisted; where the registry
    // is new (lists_again) it is published there. Then all that was not taken over is forgotten.
    void take_over(uint64_t id, unsigned shard, int socket, const door_place& door);
    void forget_others();
    void lists_again() noexcept { _lists_again = true; }
    void unlist(uint64_t id) noexcept;
    void retract(uint64_t id) noexcept;
    // The listener that has this door, known by its cookie: names can be bound again, in another folder or file system,
    // and a program that calls listen() on its door becomes the one who listens.
    std::optional<uint64_t> owner_of_door(uint64_t cookie);
    // The listener to which the kernel of this namespace would connect; id 0: none.
    struct found {
        uint64_t id = 0;
        unsigned shard = 0;
        bool v6 = false;  // it sees IPv4 addresses as mapped ones
    };
    found find(uint64_t netns, const base::address& to);

private:
    static place place_of(unsigned shard, int socket, const door_place& door);
    shm::listening_registry& memory() const noexcept {
        return *reinterpret_cast<shm::listening_registry*>(_map.data());
    }
};

}  // namespace vmsgr::local
