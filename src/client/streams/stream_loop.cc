// A stream that an event loop serves: who looks into the ring, and when this end is announced.
#include <poll.h>

#include <algorithm>

#include "base/sys.hh"
#include "client/streams/side_lock.hh"
#include "client/streams/stream.hh"

namespace vmsgr::client {

const void* stream::this_thread() noexcept {
    __attribute__((tls_model("initial-exec"))) static constinit thread_local char mine = 0;
    return &mine;
}

bool stream::look_into_ring(uint64_t& head) noexcept {
    _found_nothing.store(0, std::memory_order_relaxed);
    head = header().ring[in()].head.load(std::memory_order_acquire);  // pairs with publish
    return head - _page->rx.tail >= readable_from();
}

// No more than fits into the ring in any case, so that a full one is readable.
size_t stream::readable_from() const noexcept {
    const uint64_t low = _page->lowat.load(std::memory_order_relaxed);
    if (__builtin_expect(low <= 1, 1)) {
        return 1;
    }
    const uint64_t window = header().ring[in()].window.load(std::memory_order_relaxed);
    const uint64_t fits = window != 0  ? std::max<uint64_t>(window, shm::window_min)
                          : is_local() ? receive_buffer_bytes
                                       : _memory.capacity;
    return size_t(std::max<uint64_t>(std::min({low, fits, _memory.capacity / 2}), 1));
}

constinit std::atomic<bool> a_low_mark_was_lowered{false};

bool stream::shows_by_look() noexcept {
    if (!_shows_by_look.load(std::memory_order_relaxed)) {
        return false;
    }
    const bool shows = !is_plain() && !receiver().is_below(readable_from());
    if (!shows) {
        _shows_by_look.store(false, std::memory_order_relaxed);
    }
    return shows;
}

void stream::set_low_mark(int fd, uint32_t bytes) noexcept {
    // As the kernel does, where the program has not chosen a size.
    const uint64_t wanted = uint64_t(bytes) * 2;
    const uint32_t window = header().ring[in()].window.load(std::memory_order_relaxed);
    if (bytes > 1 && window == 0 && is_local() && wanted > receive_buffer_bytes) {
        receiver().set_window(uint32_t(std::min(wanted, _memory.capacity)));
    }
    _page->lowat.store(bytes, std::memory_order_relaxed);
    if (is_plain()) {
        return;
    }
    settle(fd);
    auto e = end(fd);
    e.readable_from = readable_from();
    side_lock lock(*this, e, side_lock::side::receives);
    if (!lock.take() || turns_plain()) {
        return;  // in a handler above its own thread's read, which announces
    }
    if (!e.emptied() && !e.in.may_have_sent(1, 0)) {
        _shows_by_look.store(true, std::memory_order_seq_cst);
        a_low_mark_was_lowered.store(true, std::memory_order_seq_cst);
    }
}

bool stream::is_ending() const noexcept {
    return receiver().ended() != 0 || turns_plain() || is_plain() ||
           _page->shut_read.load(std::memory_order_relaxed) != 0;
}

// The other end has asked for plain mode: its token shows IN, and a doorbell that it has left for another socket HUP.
bool stream::shows_in_for_its_turn(int fd) noexcept {
    bool follows = follow_into_plain(fd);
    pollfd p{fd, POLLIN | POLLRDHUP, 0};
    sys::poll(&p, 1, 0);
    const bool hung_up = (p.revents & (POLLHUP | POLLERR)) != 0;
    if (!follows && hung_up) {
        follows = follow_into_plain(fd);  // another socket was sent before that
        sys::poll(&p, 1, 0);
    }
    if (follows || broken() || hung_up) {
        return follows && !broken() && p.revents == 0;
    }
    // The socket that this end is to go on with, or a token that was counted, is under way.
    auto e = end(fd);
    side_lock lock(*this, e, side_lock::side::receives);
    return lock.take() && !is_plain() && !e.in.has_data() && e.emptied();
}

bool stream::shows_in_for_nothing(int fd) noexcept {
    if (goes_back(fd)) [[unlikely]] {
        pollfd p{fd, POLLIN | POLLRDHUP, 0};
        return sys::poll(&p, 1, 0) == 0;
    }
    const size_t from = readable_from();
    if (stands(_page->state.load(std::memory_order_relaxed)) && other_is_plain() && !is_plain() && !broken() &&
        receiver().ended() == 0 && _page->shut_read.load(std::memory_order_relaxed) == 0) [[unlikely]] {
        return shows_in_for_its_turn(fd);
    }
    if (!stands(_page->state.load(std::memory_order_relaxed)) || is_ending() || unread_bytes(fd) >= from) {
        return false;
    }
    auto e = end(fd);
    side_lock lock(*this, e, side_lock::side::receives);
    if (!lock.take() || turns_plain() || !e.in.is_below(from)) {
        return false;
    }
    e.readable_from = from;
    const bool empty = e.emptied();
    if (e.doorbell.foreign()) {
        break_with(EPROTO);
    }
    return empty && !is_ending() && !broken();
}

bool stream::has_much_room() const noexcept {
    const uint64_t lies = _page->tx.head - header().ring[out()].tail.load(std::memory_order_acquire);
    return lies <= std::min<uint64_t>(sender().most_unread() / 2, shm::relieved_below);
}

bool stream::settle(int fd, bool edges, uint64_t shown) noexcept {
    serve(nullptr);
    if (!is_unsettled()) {
        return true;
    }
    auto e = end(fd);
    side_lock lock(*this, e, side_lock::side::receives);
    if (!lock.take()) {
        return true;  // a handler above its own thread's read: that will go on, and the descriptor shows IN
    }
    if (!_unsettled.exchange(false, std::memory_order_seq_cst) || is_plain() || turns_plain()) {
        return true;
    }
    e.readable_from = readable_from();
    if (!e.in.is_below(e.readable_from)) {
        if (!edges) {
            return false;  // a token lies there
        }
        e.in.announce_with_data(e.doorbell);
        shm::full_fence(header().ring[in()]);  // announce before the look, as in ring_receiver::settle
        uint64_t head = 0;
        look_into_ring(head);
        return head == shown;
    }
    const bool lazy = edges && _page->out_edges.load(std::memory_order_relaxed) == 0;  // as in tell_writer
    const bool sleeps = e.emptied(lazy ? shm::tidy::lazily : shm::tidy::fully);
    if (e.doorbell.foreign()) {
        break_with(EPROTO);
    }
    return sleeps;
}

}  // namespace vmsgr::client
