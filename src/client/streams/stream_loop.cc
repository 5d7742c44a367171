// A stream that an event loop serves: who looks into the ring, and when this end is announced.
#include <algorithm>

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
    return head != _page->rx.tail;
}

bool stream::is_ending() const noexcept {
    return receiver().ended() != 0 || turns_plain() || is_plain() ||
           _page->shut_read.load(std::memory_order_relaxed) != 0;
}

bool stream::shows_in_for_nothing(int fd) noexcept {
    if (!stands(_page->state.load(std::memory_order_relaxed)) || is_ending() || unread_bytes(fd) != 0) {
        return false;
    }
    auto e = end(fd);
    side_lock lock(_page->recv_lock, &e, side_lock::side::receives);
    if (!lock.take([&]() noexcept { e.in.recover(); }) || e.in.has_data()) {
        return false;
    }
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
    side_lock lock(_page->recv_lock, &e, side_lock::side::receives);
    if (!lock.take([&]() noexcept { e.in.recover(); })) {
        return true;  // a handler above its own thread's read: that will go on, and the descriptor shows IN
    }
    if (!_unsettled.exchange(false, std::memory_order_seq_cst) || is_plain() || turns_plain()) {
        return true;
    }
    if (e.in.has_data()) {
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
