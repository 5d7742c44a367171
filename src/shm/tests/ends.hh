// Both ends of one direction of a conduit in one process, for tests: shared memory and doorbell are real.
#pragma once

#include <errno.h>
#include <gtest/gtest.h>
#include <poll.h>

#include "shm/bell.hh"
#include "shm/arena.hh"
#include "shm/wake.hh"

namespace vmsgr::shm {

// Whether it came within the time.
inline bool wait_for(int fd, short what, int limit_ms) {
    pollfd p{fd, what, 0};
    int r;
    do {
        r = ::poll(&p, 1, limit_ms);
    } while (r < 0 && errno == EINTR);
    return r == 1 && (p.revents & what) != 0;
}

struct ends {
    new_arena memory;
    bell_pair bells;
    tx_state tx;
    rx_state rx;
    ring_sender sender;
    ring_receiver receiver;
    bell producer_bell, consumer_bell;

    static new_arena made(uint32_t ring_bytes) {
        auto a = std::move(create_arena(1, ring_bytes).value());
        renew(a.memory.at(0).header());
        return a;
    }

    explicit ends(uint32_t ring_bytes = ring_bytes_min)
        : memory(made(ring_bytes)),
          bells(std::move(make_bell().value())),
          sender(words(), memory.memory.at(0).ring_data(0), ring_bytes, tx),
          receiver(words(), memory.memory.at(0).ring_data(0), ring_bytes, rx),
          producer_bell(bells.program.get()),
          consumer_bell(bells.other.get()) {}

    ring_words& words() { return memory.memory.at(0).header().ring[0]; }

    // Whatever fits of n bytes, from a generator of bytes by position.
    size_t put(size_t n) {
        size_t room = 0;
        EXPECT_EQ(sender.free_bytes(room), look::ok);
        n = std::min(n, room);
        auto p = sender.space(n);
        uint64_t at = tx.head;
        for (auto& piece : p.iov) {
            for (size_t i = 0; i < piece.iov_len; ++i) {
                static_cast<unsigned char*>(piece.iov_base)[i] = byte_at(at++);
            }
        }
        sender.publish(n);
        return n;
    }
    // The ring is full: sleeps until there is room, and counts the sleep. False: nobody woke us.
    bool sleep_for_room(uint64_t& sleeps, int limit_ms) {
        bool room = false;
        EXPECT_EQ(sender.await_space(producer_bell, room), look::ok);
        if (room) {
            return true;
        }
        ++sleeps;
        return wait_for(producer_bell.fd(), POLLOUT, limit_ms);
    }
    // Up to n bytes; checks each. Does not wake or settle.
    size_t get(size_t n) {
        size_t there = 0;
        EXPECT_EQ(receiver.data_bytes(there), look::ok);
        n = std::min(n, there);
        auto p = receiver.data(n);
        uint64_t at = rx.tail;
        bool right = true;
        for (auto& piece : p.iov) {
            for (size_t i = 0; i < piece.iov_len; ++i) {
                right = right && static_cast<unsigned char*>(piece.iov_base)[i] == byte_at(at++);
            }
        }
        EXPECT_TRUE(right) << "wrong byte before position " << at;
        receiver.consume(n);
        return n;
    }
    static unsigned char byte_at(uint64_t position) {
        return static_cast<unsigned char>((position * 0x9e3779b97f4a7c15ull) >> 56);
    }
};

}  // namespace vmsgr::shm
