// bench_ring: what memory itself allows, as the limit for everything built on it. Two threads on src/shm/ring.hh, no
// doorbell; and the same without a ring: one memcpy, and one cache line that two threads hand to each other.
//
//   bench_ring WHAT [CAPACITY] [SECONDS] [PIECE]
//   single   64-byte messages, published one by one; taken as they come      messages/s
//   batch    the same, published 16 at a time                                messages/s
//   bulk     pieces of 64 KiB or PIECE (at most half a ring), copied in, out  GB/s
//   rtt      64 bytes there and back, both sides spinning                    us, median
//   memcpy   64 KiB pieces by one thread out of CAPACITY bytes               GB/s
//   line     a number there and back in one cache line each                  us, median
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <thread>
#include <vector>

#include "shm/arena.hh"
#include "shm/wake.hh"
#include "two_threads.hh"

namespace {

namespace shm = vmsgr::shm;

constexpr size_t message = 64;
constexpr size_t piece_max = 64 * 1024;

void copy_in(const shm::pieces& to, const char* from) {
    memcpy(to.iov[0].iov_base, from, to.iov[0].iov_len);
    if (to.iov[1].iov_len != 0) {
        memcpy(to.iov[1].iov_base, from + to.iov[0].iov_len, to.iov[1].iov_len);
    }
}

void copy_out(char* to, const shm::pieces& from) {
    memcpy(to, from.iov[0].iov_base, from.iov[0].iov_len);
    if (from.iov[1].iov_len != 0) {
        memcpy(to + from.iov[0].iov_len, from.iov[1].iov_base, from.iov[1].iov_len);
    }
}

// One direction of a conduit, both sides.
class one_way {
    shm::conduit _memory;
    shm::tx_state _tx;
    shm::rx_state _rx;
    char _in[piece_max] = {}, _out[piece_max] = {};

public:
    shm::ring_sender sender;
    shm::ring_receiver receiver;

    one_way(const shm::conduit& memory, int ring)
        : _memory(memory),
          sender(_memory.header().ring[ring], _memory.ring_data(ring), _memory.capacity, _tx),
          receiver(_memory.header().ring[ring], _memory.ring_data(ring), _memory.capacity, _rx) {}

    // n bytes, once there is room; false: told to stop meanwhile.
    bool put(size_t n, const std::atomic<bool>& stop) {
        for (size_t room = sender.capacity() - sender.unread_seen(); room < n;) {
            if (stop.load(std::memory_order_relaxed)) {
                return false;
            }
            if (sender.free_bytes(room) != shm::look::ok) {
                die("an index out of range");
            }
            if (room < n) {
                __builtin_ia32_pause();
            }
        }
        copy_in(sender.space(n), _in);
        sender.publish(n);
        return true;
    }
    // What is there, up to n bytes.
    size_t get(size_t n) {
        size_t there = 0;
        if (receiver.data_bytes(there) != shm::look::ok) {
            die("an index out of range");
        }
        n = std::min({n, there, sizeof _out});
        if (n != 0) {
            copy_out(_out, receiver.data(n));
            receiver.consume(n);
        } else {
            __builtin_ia32_pause();
        }
        return n;
    }
    bool get_all(size_t n, const std::atomic<bool>& stop) {
        while (n != 0) {
            n -= get(n);
            if (stop.load(std::memory_order_relaxed)) {
                return false;
            }
        }
        return true;
    }
};

shm::new_arena make(uint32_t capacity) {
    auto made = shm::create_arena(1, capacity);
    if (!made) {
        die("no shared memory of that size; CAPACITY is a power of two");
    }
    shm::renew(made->memory.at(0).header());
    return std::move(*made);
}

// Bytes a second that arrive when the other thread puts `publish` bytes a time, at most piece_max.
double flow(uint32_t capacity, double seconds, size_t publish) {
    publish = std::clamp<size_t>(publish, 1, piece_max);
    auto made = make(capacity);
    auto way = std::make_unique<one_way>(made.memory.at(0), 0);
    std::atomic<bool> stop{false};
    std::thread producer([&] {
        pin_to(1);
        while (way->put(publish, stop)) {
        }
    });
    double begin = now_s(), from = 0, now = begin;
    uint64_t bytes = 0;
    while (from == 0 || now - from < seconds) {
        for (unsigned i = 0; i < rounds; ++i) {
            bytes += way->get(piece_max);
        }
        now = now_s();
        if (from == 0 && now - begin > seconds / 10) {
            from = now;
            bytes = 0;
        }
    }
    stop.store(true);
    producer.join();
    return double(bytes) / (now - from);
}

// Median of the mean of `rounds` trips; ask() does one there and back.
template <typename Ask>
double median_us(double seconds, Ask&& ask) {
    std::vector<double> took;
    double begin = now_s(), before = begin;
    while (before - begin < seconds) {
        for (unsigned i = 0; i < rounds; ++i) {
            ask();
        }
        double now = now_s();
        took.push_back((now - before) / rounds * 1e6);
        before = now;
    }
    std::sort(took.begin(), took.end());
    return took[took.size() / 2];
}

double ring_round_trip(uint32_t capacity, double seconds) {
    auto made = make(capacity);
    auto there = std::make_unique<one_way>(made.memory.at(0), 0);
    auto back = std::make_unique<one_way>(made.memory.at(0), 1);
    std::atomic<bool> stop{false}, never{false};
    std::thread echo([&] {
        pin_to(1);
        while (there->get_all(message, stop) && back->put(message, stop)) {
        }
    });
    double us = median_us(seconds, [&] {
        there->put(message, never);
        back->get_all(message, never);
    });
    stop.store(true);
    echo.join();
    return us;
}

double line_round_trip(double seconds) {
    struct alignas(128) word {
        std::atomic<uint64_t> value{0};
    } there, back;
    std::atomic<bool> stop{false};
    std::thread echo([&] {
        pin_to(1);
        for (uint64_t n = 1; !stop.load(std::memory_order_relaxed);) {
            if (there.value.load(std::memory_order_acquire) == n) {
                back.value.store(n++, std::memory_order_release);
            } else {
                __builtin_ia32_pause();
            }
        }
    });
    uint64_t n = 0;
    double us = median_us(seconds, [&] {
        there.value.store(++n, std::memory_order_release);
        while (back.value.load(std::memory_order_acquire) != n) {
            __builtin_ia32_pause();
        }
    });
    stop.store(true);
    echo.join();
    return us;
}

double copies(uint32_t bytes, double seconds) {
    std::vector<char> from(bytes, 1), to(piece_max);
    size_t piece = std::min<size_t>(bytes, piece_max);
    double begin = now_s(), now = begin;
    uint64_t copied = 0;
    while (now - begin < seconds) {
        for (unsigned i = 0; i < rounds; ++i) {
            memcpy(to.data(), from.data() + copied % bytes, piece);
            asm volatile("" : : "r"(to.data()) : "memory");
            copied += piece;
        }
        now = now_s();
    }
    return double(copied) / (now - begin);
}

}  // namespace

int main(int argc, char** argv) {
    std::string what = argc > 1 ? argv[1] : "";
    uint32_t capacity = argc > 2 ? uint32_t(strtoul(argv[2], nullptr, 10)) : shm::ring_bytes_default;
    double seconds = argc > 3 ? strtod(argv[3], nullptr) : 1;
    pin_to(0);
    size_t bulk = std::min<size_t>(argc > 4 ? strtoul(argv[4], nullptr, 10) : piece_max, capacity / 2);
    double value = what == "single"   ? flow(capacity, seconds, message) / message
                   : what == "batch"  ? flow(capacity, seconds, 16 * message) / message
                   : what == "bulk"   ? flow(capacity, seconds, bulk) / 1e9
                   : what == "rtt"    ? ring_round_trip(capacity, seconds)
                   : what == "memcpy" ? copies(capacity, seconds) / 1e9
                   : what == "line"   ? line_round_trip(seconds)
                                      : -1;
    if (value < 0) {
        die("usage: bench_ring single|batch|bulk|rtt|memcpy|line [CAPACITY] [SECONDS] [PIECE]");
    }
    printf("{\"value\": %.6g}\n", value);
    return 0;
}
