// A byte ring with one producer and one consumer in two processes: indices run freely in 64 bits, the capacity
// is a power of two. Each side's own index lives in its private state (tx_state, rx_state) and is only
// published; the other side's index is read once a call and checked before use. Which token is owed for what, wake.hh
// says, whose ring_sender and ring_receiver are what others use.
//
// Rewinding. A producer that finds the ring empty begins at its first bytes again, after some KiB: so what is read as
// it comes stays in few pages and in the processor's cache, whatever the capacity. It says so in `base`, which a
// consumer reads after `head`: while there is a byte to read, base does not change.
//
// How much is unread at most: the capacity, or less where a program has asked for small buffers (bounds).
//
// Who may call: a producer under its side's send lock or on its shard, a consumer likewise.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <atomic>

#include "shm/layout.hh"

namespace vmsgr::shm {

// TCP's buffers as seen by a program: a sender gets rid of its own share and of the reader's before it has to wait. The
// ring's capacity is the limit in any case.
struct bounds {
    static constexpr uint64_t none = uint64_t(1) << 32;
    uint64_t own = none;
    uint64_t reader = 0;  // where the reader's window does not say
};
// A reader's window is at least what the kernel makes of the smallest SO_RCVBUF.
inline constexpr uint32_t window_min = 2304;

// Private to a side: in the daemon's heap, or in a page that only the program's own forks share.
struct tx_state {
    uint64_t head = 0;
    uint64_t tail_seen = 0;
    uint64_t base = 0;
    bool rewinds = true;  // who writes ahead of head must not
    bool refused = false;  // a token: the socket was full
    bounds most;
    int64_t gave_back_ns = 0;
};
struct rx_state {
    uint64_t tail = 0;
    uint64_t head_seen = 0;
    uint64_t base = 0;
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

// When a ring is rewound, and to which places. Found by the words' type: tests/explore has its own.
struct rewinding {
    uint64_t after_bytes;
    uint64_t align;  // of a byte's place to its index: readers in place rely on it
};
constexpr rewinding how_to_rewind(const ring_words&) noexcept { return {16u << 10, cache_line}; }

// A ring was filled at once as far as this, and is empty: the memory behind its beginning goes back to the system, now
// and then (a program that does so again and again keeps it).
inline constexpr uint64_t ring_bytes_kept = 1u << 20;
void give_back_ring(std::byte* data, uint64_t used_bytes, int64_t& gave_back_ns) noexcept;

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
    uint64_t published() const noexcept { return _st->head; }
    uint64_t unread_seen() const noexcept { return _st->head - _st->tail_seen; }
    // So many bytes may be unread.
    uint64_t most_unread() const noexcept {
        const uint64_t window = _w->window.load(std::memory_order_relaxed);
        const uint64_t own = std::atomic_ref(_st->most.own).load(std::memory_order_relaxed);
        return std::min(_capacity, own + (window != 0 ? std::max<uint64_t>(window, window_min) : _st->most.reader));
    }

    // Free bytes now. bad_index: the peer published nonsense; this conduit is to be closed.
    look free_bytes(size_t& n) noexcept {
        uint64_t tail = _w->tail.load(std::memory_order_acquire);  // pairs with consume
        if (tail - _st->tail_seen > _st->head - _st->tail_seen) {
            return look::bad_index;
        }
        _st->tail_seen = tail;
        if (tail == _st->head && tail - _st->base >= how_to_rewind(*_w).after_bytes && _st->rewinds) {
            rewind();
        }
        const uint64_t most = most_unread(), unread = unread_seen();
        n = unread < most ? most - unread : 0;
        return look::ok;
    }
    // Precondition: n <= the free bytes last seen.
    pieces space(size_t n) const noexcept { return ring_pieces(_data, _capacity, _st->head - _st->base, n); }

    // Makes n bytes visible. wake() is owed afterwards, once for any number of publishes.
    void publish(size_t n) noexcept {
        _st->head += n;
        _w->head.store(_st->head, std::memory_order_release);  // pairs with data_bytes
    }

    // n more bytes are written and not to be seen yet: the next publish shows them too. Programs only.
    void hold_back(size_t n) noexcept {
        _w->held.store(_st->head + n, std::memory_order_release);  // pairs with take_what_was_held_back
        _st->head += n;
    }
    // Nothing is held back any more, in either way.
    void show_all() noexcept {
        set_more(false);
        publish(0);
    }
    size_t held_back() const noexcept { return size_t(_st->head - _w->head.load(std::memory_order_relaxed)); }
    // The last `left` of them stay held back. Whoever wakes the reader in between sees no more than it does.
    template <typename Wake>
    void show_held_back(size_t left, Wake&& wake) noexcept {
        _st->head -= left;
        publish(0);
        wake();
        _st->head += left;
    }

    // The last of the next n bytes is urgent. Before publish(n).
    void mark_urgent(size_t n) noexcept {
        _w->urgent.store(_st->head + n, std::memory_order_relaxed);
        set_flags(ring_urgent);
    }
    // The latest urgent byte was not taken yet.
    bool has_urgent_unread() const noexcept {
        return (flags_set() & ring_urgent) != 0 &&
               _w->tail.load(std::memory_order_relaxed) < _w->urgent.load(std::memory_order_relaxed);
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

private:
    // The ring is empty: nobody reads a place of it. The next publish makes the new base visible with its byte.
    void rewind() noexcept {
        const uint64_t used = _st->head - _st->base;
        _st->base = _st->head & ~(how_to_rewind(*_w).align - 1);
        _w->base.store(_st->base, std::memory_order_relaxed);
        if (used > ring_bytes_kept && _capacity > ring_bytes_kept) {
            give_back_ring(_data, std::min(used, _capacity), _st->gave_back_ns);
        }
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
    uint64_t consumed() const noexcept { return _st->tail; }

    // Bytes to read now.
    look data_bytes(size_t& n) noexcept {
        uint64_t head = _w->head.load(std::memory_order_acquire);  // pairs with publish
        n = head - _st->tail;
        if (n > _capacity || head - _st->head_seen > n) {
            return look::bad_index;
        }
        _st->head_seen = head;
        _st->base = _w->base.load(std::memory_order_relaxed);  // after head: pairs with publish, too
        return look::ok;
    }
    bool has_data() const noexcept { return _w->head.load(std::memory_order_acquire) != _st->tail; }
    pieces data(size_t n, size_t skip = 0) const noexcept {
        return ring_pieces(_data, _capacity, _st->tail + skip - _st->base, n);
    }
    // What this side wants the ring to hold at most, beside the producer's own share; 0: it does not say.
    void set_window(uint32_t bytes) noexcept { _w->window.store(bytes, std::memory_order_relaxed); }

    // Frees n bytes. relieve() or settle() is owed afterwards.
    void consume(size_t n) noexcept {
        _st->tail += n;
        _w->tail.store(_st->tail, std::memory_order_release);  // pairs with free_bytes
    }

    // The producer is gone, and nobody else of its side is left: what it held back is to be read as well.
    void take_what_was_held_back() noexcept {
        uint64_t head = _w->head.load(std::memory_order_acquire);
        const uint64_t held = _w->held.load(std::memory_order_acquire);  // pairs with hold_back
        if (held - head <= _capacity && held - _st->tail <= _capacity) {
            _w->head.compare_exchange_strong(head, held, std::memory_order_acq_rel);
        }
    }

    uint32_t flags() const noexcept { return _w->flags.load(std::memory_order_acquire); }
    // Those of them that say that no more comes; 0: it may.
    uint32_t ended() const noexcept { return flags() & (ring_fin | ring_reset); }
    // The index behind the latest urgent byte, which may be taken already or not be published yet; 0: there was none.
    uint64_t urgent_end() const noexcept {
        return (flags() & ring_urgent) != 0 ? _w->urgent.load(std::memory_order_acquire) : 0;
    }
    int error() const noexcept { return _w->error.load(std::memory_order_relaxed); }
};

}  // namespace vmsgr::shm
