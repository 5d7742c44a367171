// What a program told the kernel about the descriptors of an epoll set, ours and others: which events of which number,
// and the data that comes with them. From the data of an event follows the number, where no other number of the set has
// the same: then, and only then, the library knows whose event it is.
//
// Numbers that were closed without EPOLL_CTL_DEL stay here until they come back: then fewer data are known to be of one
// number than are, which costs speed alone.
//
// Reading takes no lock, and may race with a change: what is read is what was told before or after it. Changes are made
// under the table's lock (objects.hh). Memory is never given back; another set takes it over (clear).
#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <cstdint>

#include "preload/objects.hh"

namespace vmsgr::preload {

class registrations {
public:
    // No events of the kernel's: it is registered; its data is counted.
    static constexpr uint32_t registered = 1u << 20, counted = 1u << 21;

    struct entry {
        std::atomic<uint64_t> data;
        std::atomic<uint32_t> events;  // as told, with `registered` and `counted`
        std::atomic<uint32_t> version;  // grows with each change: an edge is due anew
        uint32_t loop_slot;  // for event_loop.cc: of the thread that waits on the set
    };

    // What was told of the number; null: nothing ever.
    entry* find(int fd) const noexcept;
    // Whose event it is. -1: nobody's, or more than one number has this data.
    int owner_of(uint64_t data) const noexcept;

    // Who will not be known by its data once another number has this. -1: nobody.
    int alone_beside(uint64_t data) const noexcept;

    // The number has the data that it had, or leaves: needs no lock. False: note() it.
    bool note_same(int op, int fd, const epoll_event* event) noexcept;
    // ADD or MOD, under the lock. False: no memory, the set cannot be followed any more.
    bool note(int fd, const epoll_event& event) noexcept;
    void forget(int fd) noexcept;
    void clear() noexcept;

private:
    static constexpr int numbers_a_chunk = 256;
    static constexpr int chunks_max = fds_max / numbers_a_chunk;

    // How many numbers have data of this hash (upper half), and the exclusive or of these numbers (lower half).
    struct buckets {
        uint32_t mask;
        std::atomic<uint64_t> of[];

        std::atomic<uint64_t>& at(uint64_t data) noexcept {
            return of[uint32_t((data * 0x9e3779b97f4a7c15) >> 32) & mask];
        }
        void change(uint64_t data, int fd, int by) noexcept;
    };

    std::atomic<buckets*> _buckets{nullptr};
    uint32_t _numbers = 0;  // whose data is counted
    std::atomic<entry*> _chunks[chunks_max]{};

    static buckets* make_buckets(uint32_t n) noexcept;
    bool make_room() noexcept;
    template <typename Each>
    void for_each_counted(Each&& each) noexcept;
};

}  // namespace vmsgr::preload
