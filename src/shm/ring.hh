// A byte ring with one producer and one consumer in two processes: indices run freely in 64 bits, the capacity
// is a power of two. Each side's own index lives in its private state (tx_state, rx_state) and is only
// published; the other side's index is read once a call and checked before use. Which token is owed for what, wake.hh
// says, whose ring_sender and ring_receiver are what others use.
//
// Who may call: a producer under its side's send lock or on its shard, a consumer likewise.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <atomic>

#include "shm/layout.hh"

namespace vmsgr::shm {

// Private to a side: in the daemon's heap, or in a page that only the program's own forks share.
struct tx_state {
    uint64_t head = 0;
    uint64_t tail_seen = 0;
};
struct rx_state {
    uint64_t tail = 0;
    uint64_t head_seen = 0;
    uint32_t tokens_taken = 0;
    bool inexact = false;  // tokens_taken is not to be trusted: the socket itself is asked
};

// Up to two pieces of ring memory, in order. An empty second piece has length 0.
struct pieces {
    std::array<iovec, 2> iov{};
    int count() const noexcept { return iov[1].iov_len != 0 ? 2 : 1; }
    size_t bytes() const noexcept { return iov[0].iov_len + iov[1].iov_len; }
};

inline pieces ring_pieces(std::byte* data, uint64_t capacity, uint64_t from, size_t n) noexcept {
    uint64_t at = from & (capacity - 1);
    size_t first = std::min<uint64_t>(n, capacity - at);
    return {{iovec{data + at, first}, iovec{data, n - first}}};
}

// The answer of a look at the other side's index.
enum class look : uint8_t { ok, bad_index };

// Words: ring_words, or those of tests/explore.
template <typename Words>
class basic_ring_producer {
protected:
    Words* _w;
    std::byte* _data;
    uint64_t _capacity;
    tx_state* _st;

public:
    basic_ring_producer(Words& w, std::byte* data, uint64_t capacity, tx_state& st) noexcept
        : _w(&w), _data(data), _capacity(capacity), _st(&st) {}

    uint64_t capacity() const noexcept { return _capacity; }
    size_t free_seen() const noexcept { return _capacity - (_st->head - _st->tail_seen); }

    // Free bytes now. bad_index: the peer published nonsense; this conduit is to be closed.
    look free_bytes(size_t& n) noexcept {
        uint64_t tail = _w->tail.load(std::memory_order_acquire);  // pairs with consume
        if (tail - _st->tail_seen > _st->head - _st->tail_seen) {
            return look::bad_index;
        }
        _st->tail_seen = tail;
        n = free_seen();
        return look::ok;
    }
    // Precondition: n <= the free bytes last seen.
    pieces space(size_t n) const noexcept { return ring_pieces(_data, _capacity, _st->head, n); }

    // Makes n bytes visible. wake() is owed afterwards, once for any number of publishes.
    void publish(size_t n) noexcept {
        _st->head += n;
        _w->head.store(_st->head, std::memory_order_release);  // pairs with data_bytes
    }

    // fin or reset, after the last publish. wake() is owed for whoever reads now (a spinning one looks at the flags),
    // and ending the doorbell (shutdown, close) for everybody else.
    void set_flags(uint32_t flags) noexcept { _w->flags.fetch_or(flags, std::memory_order_release); }
    uint32_t flags_set() const noexcept { return _w->flags.load(std::memory_order_relaxed); }
    void set_more(bool more) noexcept {
        uint32_t f = _w->flags.load(std::memory_order_relaxed);
        if (((f & ring_more) != 0) != more) {
            _w->flags.store(more ? f | ring_more : f & ~ring_more, std::memory_order_release);
        }
    }
    void reset(int err) noexcept {
        _w->error.store(err, std::memory_order_relaxed);
        set_flags(ring_reset);
    }
};

template <typename Words>
class basic_ring_consumer {
protected:
    Words* _w;
    std::byte* _data;
    uint64_t _capacity;
    rx_state* _st;

public:
    basic_ring_consumer(Words& w, std::byte* data, uint64_t capacity, rx_state& st) noexcept
        : _w(&w), _data(data), _capacity(capacity), _st(&st) {}

    uint64_t capacity() const noexcept { return _capacity; }

    // Bytes to read now.
    look data_bytes(size_t& n) noexcept {
        uint64_t head = _w->head.load(std::memory_order_acquire);  // pairs with publish
        n = head - _st->tail;
        if (n > _capacity || head - _st->head_seen > n) {
            return look::bad_index;
        }
        _st->head_seen = head;
        return look::ok;
    }
    bool has_data() const noexcept { return _w->head.load(std::memory_order_acquire) != _st->tail; }
    pieces data(size_t n, size_t skip = 0) const noexcept { return ring_pieces(_data, _capacity, _st->tail + skip, n); }

    // Frees n bytes. relieve() or settle() is owed afterwards.
    void consume(size_t n) noexcept {
        _st->tail += n;
        _w->tail.store(_st->tail, std::memory_order_release);  // pairs with free_bytes
    }

    uint32_t flags() const noexcept { return _w->flags.load(std::memory_order_acquire); }
    int error() const noexcept { return _w->error.load(std::memory_order_relaxed); }
};

}  // namespace vmsgr::shm
