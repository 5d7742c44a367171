// Two channels that share a conduit, in one process and without a daemon: as local ones, or one of them against bytes
// that the test itself writes and reads, as a daemon or a hostile program would.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "client/channels/channel.hh"

namespace vmsgr::client::test {

struct pair {
    shm::new_arena made;
    shm::conduit memory;
    shm::bell_pair bell;
    std::unique_ptr<channel> a, b;  // ends 0 and 1

    explicit pair(uint32_t ring_bytes = 65536, const channel_settings& settings = {.max_message_bytes = 4096},
                  bool local = true) {
        made = std::move(*shm::create_arena(1, ring_bytes));
        memory = made.memory.at(0);
        shm::renew(memory.header());
        bell = std::move(*shm::make_bell());
        a = end(0, std::move(bell.program), settings, local);
    }
    void make_b(const channel_settings& settings = {.max_message_bytes = 4096}) {
        b = end(1, std::move(bell.other), settings, true);
    }
    void greet() {
        make_b();
        ASSERT_EQ(a->greet(1000), 0);
        ASSERT_EQ(b->greet(1000), 0);
    }
    std::unique_ptr<channel> end(unsigned which, base::unique_fd fd, const channel_settings& settings, bool local) {
        auto rings = shm::map_doubled(made.fd.get(), shm::arena_rings_at(1), memory.capacity);
        return std::make_unique<channel>(
            channel_parts{memory, std::move(*rings), std::move(fd), which, local, {}, {}, {}, {}, {}}, settings);
    }
    shm::ring_words& words(unsigned ring) { return memory.header().ring[ring]; }
    std::atomic<uint32_t>& flags_of(unsigned which) { return memory.header().end[which].flags; }
    std::byte* ring(unsigned which) { return memory.ring_data(int(which)); }

    // What end 1 puts into its ring by hand; wakes end 0.
    void write(const void* data, size_t n) {
        auto& w = words(1);
        const uint64_t head = w.head.load();
        for (size_t i = 0; i < n; ++i) {
            ring(1)[(head + i) & (memory.capacity - 1)] = static_cast<const std::byte*>(data)[i];
        }
        w.head.store(head + n);
        if (w.consumer_waits.exchange(0) != 0) {
            w.tokens_sent.fetch_add(1);
            shm::bell(bell.other.get()).send_token();
        }
    }
    template <typename T>
    void write(const T& value) {
        write(&value, sizeof value);
    }
    void write_hello(hello_body body = {.max_message_bytes = 4096}) {
        write(frame_header{.bytes = sizeof body, .kind = frame_kind::hello});
        write(body);
    }
};

inline std::vector<std::byte> bytes_of(size_t n, unsigned seed) {
    std::vector<std::byte> v(n);
    for (size_t i = 0; i < n; ++i) {
        v[i] = std::byte((seed * 131 + i * 7) & 0xff);
    }
    return v;
}

}  // namespace vmsgr::client::test
