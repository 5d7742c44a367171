// A message channel: one end of a conduit whose bytes are frames (frame.hh). The other end is a program of the same
// daemon, or the daemon, behind which somebody speaks the same frames over TCP or a trunk: the channel does not care.
//
// Messages are written and read in place, in rings that are mapped twice (shm/doubled.hh). What was cut apart on its
// way (only a daemon does that) is put together in private memory.
//
// Threads: one may send while another receives; no locks. Everything marked [send] belongs to the sending side,
// [receive] to the receiving one, whichever thread that is; more than one thread on a side needs a lock of the
// caller's.
//
// Waiting: the descriptor tells what is new only after a call has said EAGAIN, which arms it. Between such calls this
// end is not announced as a waiting one, so the other end sends no tokens. All else is the ring's wake protocol,
// unchanged.
//
// Functions give 0 or an errno. After any but EAGAIN, ETIMEDOUT, EINTR, EMSGSIZE the channel is over; why() says how.
#pragma once

#include <errno.h>

#include <atomic>
#include <memory>

#include "base/address.hh"
#include "base/unique_fd.hh"
#include "client/channels/frame.hh"
#include "client/memory.hh"
#include "shm/doubled.hh"
#include "shm/end.hh"

namespace vmsgr::client {

class session;

// What a channel is made of. The memory was checked.
struct channel_parts {
    shm::conduit memory;
    shm::doubled_rings rings;
    base::unique_fd bell;
    unsigned which = 0;     // end 0 or 1 of the conduit
    bool local = false;     // the other end is a program
    base::address self, peer;
    // Stays attached as long as the channel is there.
    std::shared_ptr<client::session> attached;
    held_memory slot;      // what `memory` is a view of
    base::unique_fd port;  // a local end's bound socket
    shm::local_entry* shown = nullptr;  // where the session shows a local end
};
struct channel_settings {
    uint32_t max_message_bytes = 64u << 10;
    uint32_t spin_us = 20;
};

// How a channel ended, as this end sees it. From `cut` on nothing can be sent either.
enum class channel_end : uint8_t {
    open,
    finished,  // the other end has said bye: everything it sent is here
    cut,       // it is gone without one
    reset,     // the connection broke; an errno goes with it
    bad_frame,
    bad_index,
    bad_bell,
    no_memory,
};

struct channel_counts {
    std::atomic<uint64_t> messages{0}, bytes{0}, sleeps{0}, wakes{0};
    static void add(std::atomic<uint64_t>& n, uint64_t more) noexcept {  // one writer
        n.store(n.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
    }
};

class channel {
    channel_parts _parts;
    channel_settings _settings;
    std::atomic<channel_end> _end{channel_end::open};
    std::atomic<frame_fault> _fault{frame_fault::none};
    std::atomic<int> _errnum{0};
    std::atomic<uint16_t> _other_version{0};
    std::atomic<int> _unsendable{0};

    struct alignas(shm::cache_line) out_side {
        shm::tx_state ring;
        uint64_t at = 0;         // end of what is written; what lies beyond ring.head is held back
        size_t reserved = 0;     // of the message being written in place
        uint32_t limit = 0;      // largest message that the other end takes and this ring carries; 0: not known yet
        int closed = 0;          // an errno: finished here, or the other end is gone
        bool reserving = false;
        uint32_t unchecked = 0;  // publishes since the last look whether the other end is there
        shm::patience spins;
        channel_counts counts;
    } _out;

    struct alignas(shm::cache_line) in_side {
        shm::rx_state ring;
        uint64_t at = 0;         // end of what was read; freed in steps
        uint64_t step = 0;
        const std::byte* message = nullptr;  // the one that was looked at and not released
        size_t message_bytes = 0;
        size_t taken = 0;        // ring bytes that releasing it frees; 0: it lies in `parts`
        std::unique_ptr<std::byte[]> parts;  // of a frame of which the rest has not come
        size_t have = 0;
        bool greeted = false;
        bool flowing = false;    // greeted, and not over
        uint32_t idle_looks = 0;
        shm::patience spins;
        channel_counts counts;
    } _in;

public:
    channel(channel_parts parts, const channel_settings& settings) noexcept;
    channel(const channel&) = delete;
    channel& operator=(const channel&) = delete;
    ~channel();  // says bye, if the two ever met; does not wait

    // Waits until the other end has said hello. Before anything else is done with the channel.
    int greet(int timeout_ms) noexcept;
    bool greeted() const noexcept { return _in.greeted; }

    // [send] A place for a message of up to `bytes`, 8-byte aligned, in the ring itself.
    int reserve(size_t bytes, int timeout_ms, std::byte*& at) noexcept {
        const size_t need = frame_bytes(bytes) + frame_unit;  // and a bye
        if (__builtin_expect(bytes > _out.limit || free_seen() < need || _out.closed != 0 || unusable(), 0)) {
            if (int e = make_room(bytes, need, timeout_ms); e != 0) {
                return e;
            }
        }
        _out.reserved = bytes;
        _out.reserving = true;
        at = place(_out.at) + sizeof(frame_header);
        return 0;
    }
    // [send] The message has `bytes`, at most what was reserved. more: it may wait for the next one, or flush().
    int commit(size_t bytes, bool more) noexcept {
        if (!_out.reserving || bytes > _out.reserved) {
            return EINVAL;
        }
        std::byte* at = place(_out.at);
        for (size_t i = bytes; i < padded(bytes); ++i) {
            at[sizeof(frame_header) + i] = std::byte{0};
        }
        finish_frame(at, frame_kind::data, bytes, more);
        return 0;
    }
    // [send]
    int send(const void* data, size_t bytes, bool more, int timeout_ms) noexcept {
        std::byte* to = nullptr;
        if (int e = reserve(bytes, timeout_ms, to); e != 0) {
            return e;
        }
        if (bytes != 0) {
            memset(to + padded(bytes) - frame_unit, 0, frame_unit);
            memcpy(to, data, bytes);
        }
        finish_frame(to - sizeof(frame_header), frame_kind::data, bytes, more);
        return 0;
    }
    // [send] What was held back goes out.
    void flush() noexcept {
        if (_out.at != _out.ring.head) {
            publish();
        }
    }
    // [send] No message follows; receiving goes on.
    void finish() noexcept;

    // [receive] The next message, in place, until it is released. timeout_ms: < 0 for ever, 0 not at all.
    int peek(int timeout_ms, const std::byte*& at, size_t& bytes) noexcept {
        if (__builtin_expect(_in.message == nullptr && !next_in_ring(), 0)) {
            if (int e = await_message(timeout_ms); e != 0) {
                return e;
            }
        }
        at = _in.message;
        bytes = _in.message_bytes;
        return 0;
    }
    // [receive] The same without arming the descriptor, for programs that never sleep: EAGAIN costs no system call.
    int look(const std::byte*& at, size_t& bytes) noexcept;
    // [receive] Gives the place of the message back.
    int release() noexcept {
        if (_in.message == nullptr) {
            return EINVAL;
        }
        channel_counts::add(_in.counts.messages, 1);
        channel_counts::add(_in.counts.bytes, _in.message_bytes);
        _in.message = nullptr;
        if (__builtin_expect(_in.taken == 0, 0)) {
            _in.have = 0;
            return 0;
        }
        _in.at += _in.taken;
        if (_in.at - _in.ring.tail >= _in.step) {
            free_taken();
        }
        return 0;
    }

    int fd() const noexcept { return _parts.bell.get(); }
    bool is_local() const noexcept { return _parts.local; }
    const base::address& self() const noexcept { return _parts.self; }
    const base::address& peer() const noexcept { return _parts.peer; }
    uint32_t largest_out() const noexcept { return _out.limit; }
    uint32_t largest_in() const noexcept { return _settings.max_message_bytes; }
    const channel_counts& sent() const noexcept { return _out.counts; }
    const channel_counts& received() const noexcept { return _in.counts; }

    // How it ended, for one line of text. Any thread.
    channel_end ended() const noexcept { return _end.load(std::memory_order_acquire); }
    frame_fault fault() const noexcept { return _fault.load(std::memory_order_relaxed); }
    int errnum() const noexcept { return _errnum.load(std::memory_order_relaxed); }
    // While it is open to receive: why nothing can be sent any more, an errno; 0: it can, or finish() was called.
    int unsendable() const noexcept { return _unsendable.load(std::memory_order_relaxed); }
    uint16_t other_version() const noexcept { return _other_version.load(std::memory_order_relaxed); }

private:
    struct send_user;
    struct receive_user;
    shm::conduit_header& header() const noexcept { return _parts.memory.header(); }
    uint64_t capacity() const noexcept { return _parts.rings.capacity(); }
    shm::end end() noexcept {
        const auto& rings = _parts.rings;
        return {header(), rings.ring(0), rings.ring(1), capacity(), _parts.which, _out.ring, _in.ring, fd()};
    }
    int64_t look_limit_ns() const noexcept { return int64_t(_settings.spin_us) * 1000; }

    // sending: channel_send.cc
    std::byte* place(uint64_t at) const noexcept {
        return _parts.rings.ring(_parts.which) + ((at - _out.ring.base) & (capacity() - 1));
    }
    size_t free_seen() const noexcept { return capacity() - (_out.at - _out.ring.tail_seen); }
    // Nothing that is sent now would be taken.
    bool unusable() const noexcept {
        return _end.load(std::memory_order_relaxed) >= channel_end::cut ||
               (_parts.local &&
                (header().end[1 - _parts.which].flags.load(std::memory_order_relaxed) & shm::end_left) != 0);
    }
    int make_room(size_t bytes, size_t need, int timeout_ms) noexcept;
    int await_room(size_t need, int timeout_ms) noexcept;
    bool look_for_room(shm::end& e, size_t need) noexcept;
    int send_failure() noexcept;
    void look_for_other_end() noexcept;
    void finish_frame(std::byte* at, frame_kind kind, size_t bytes, bool more) noexcept {
        // Held back for that long at most, so that both sides work at once.
        constexpr uint64_t held_bytes_max = 2048;
        store_header(at, {.bytes = uint32_t(bytes), .kind = kind});
        _out.at += frame_bytes(bytes);
        _out.reserving = false;
        channel_counts::add(_out.counts.messages, 1);
        channel_counts::add(_out.counts.bytes, bytes);
        if (!more || _out.at - _out.ring.head >= held_bytes_max) {
            publish();
        }
    }
    void publish() noexcept {
        auto e = end();
        e.out.publish(_out.at - _out.ring.head);
        e.sent();
        // It waits still: perhaps it cannot be woken any more. Or nobody has taken anything for long.
        constexpr uint32_t unchecked_max = 256;
        if (__builtin_expect(e.out.reader_waits() || ++_out.unchecked > unchecked_max, 0)) {
            look_for_other_end();
        }
    }
    void say_hello() noexcept;

    // receiving: channel_receive.cc
    const std::byte* there(uint64_t at) const noexcept {
        return _parts.rings.ring(1 - _parts.which) + ((at - _in.ring.base) & (capacity() - 1));
    }
    // A whole message that was seen in the ring before: the common case.
    bool next_in_ring() noexcept {
        const uint64_t seen = _in.ring.head_seen - _in.at;
        if (seen < sizeof(frame_header) || !_in.flowing || _in.have != 0) {
            return false;
        }
        const std::byte* at = there(_in.at);
        const frame_header h = load_header(at);
        if (h.magic != frame_magic || h.kind != frame_kind::data || h.flags != 0 ||
            h.bytes > _settings.max_message_bytes || frame_bytes(h.bytes) > seen) {
            return false;
        }
        _in.message = at + sizeof(frame_header);
        _in.message_bytes = h.bytes;
        _in.taken = frame_bytes(h.bytes);
        return true;
    }
    enum class found : uint8_t { message, nothing, hello, over };
    found find(bool gather) noexcept;
    found on_frame(const frame_header& h, const std::byte* payload, size_t ring_bytes) noexcept;
    found gather_parts() noexcept;
    bool refresh() noexcept;
    int await_message(int timeout_ms) noexcept;
    int await(int timeout_ms, found wanted) noexcept;
    void look_for_data(shm::end& e) noexcept;
    found at_empty() noexcept;
    void free_taken() noexcept;
    found over(channel_end how, int errnum, frame_fault fault = frame_fault::none) noexcept;
    int receive_failure() noexcept;
    void end_with(channel_end how, int errnum, frame_fault fault = frame_fault::none) noexcept;
};

}  // namespace vmsgr::client
