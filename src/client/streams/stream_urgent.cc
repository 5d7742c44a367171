// Urgent data (MSG_OOB), as Linux TCP has it: the byte lies in the ring among the others, and the ring says where. Of
// several the latest counts. Without SO_OOBINLINE a read leaves it out: once all before it is read it is taken out of
// the ring and kept in the end page, so that the ring is empty and the descriptor shows no IN. Reading on gives it up.
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>

#include "base/sockets.hh"
#include "client/streams/side_lock.hh"
#include "client/streams/stream.hh"

namespace vmsgr::client {

constinit std::atomic<bool> urgent_data_met{false};

namespace {

constexpr auto relaxed = std::memory_order_relaxed;

}  // namespace

void stream::obey(const option_list& set, int socket) noexcept {
    if (set.has_buffers()) {
        bound_buffers(base::buffers_asked_of(socket));
    }
    int value = 0;
    socklen_t len = sizeof value;
    if (set.find(IPPROTO_TCP, TCP_INQ, &value, len) && value == 1) {
        _page->tells_inq.store(1);
    }
    len = sizeof value;
    if (set.find(SOL_SOCKET, SO_PEEK_OFF, &value, len)) {
        _page->peek_from.store(value);
    }
    len = sizeof value;
    if (set.find(SOL_SOCKET, SO_OOBINLINE, &value, len)) {
        _page->urgent_inline.store(value != 0 ? 1 : 0);
    }
    len = sizeof value;
    if (is_local() && set.find(IPPROTO_TCP, TCP_CORK, &value, len)) {
        _page->corked.store(value != 0 ? 1 : 0);
    }
    len = sizeof value;
    if (set.find(SOL_SOCKET, SO_RCVLOWAT, &value, len)) {
        _page->lowat.store(uint32_t(std::max(base::socket_option(socket, SO_RCVLOWAT), 0)));
    }
}

// How many of the bytes that are there a read may take. Under the receive lock.
size_t stream::up_to_urgent(shm::end& e, size_t& there, bool peeks) noexcept {
    auto& p = *_page;
    const uint64_t end = e.in.urgent_end();
    if (!peeks) {
        go_past_urgent();
    }
    const uint64_t before = end - 1 - p.rx.tail;
    if (before >= there) {
        return there;  // it was passed, or is not published yet
    }
    if (before != 0 || p.urgent_inline.load(relaxed) != 0) {
        return before != 0 ? size_t(before) : there;
    }
    if (came_to_urgent(e)) {
        --there;
    }
    if (!peeks) {
        go_past_urgent();
    }
    return there;
}

// All before the urgent byte is read. True: it was taken out of the ring. Under the receive lock.
bool stream::came_to_urgent(shm::end& e) noexcept {
    auto& p = *_page;
    const uint64_t end = e.in.urgent_end();
    if (end == 0 || end - 1 != p.rx.tail || p.urgent_inline.load(relaxed) != 0) {
        return false;
    }
    size_t there = 0;  // looked for anew: the byte may have come since, with another base
    if (e.in.data_bytes(there) != shm::look::ok || there == 0) {
        return false;
    }
    p.urgent_byte.store(std::to_integer<uint32_t>(*static_cast<std::byte*>(e.in.data(1).iov[0].iov_base)), relaxed);
    p.urgent_met.store(end, std::memory_order_release);
    e.in.consume(1);
    return true;
}

// MSG_OOB is still to have the byte that the ring has no more.
bool stream::keeps_urgent() const noexcept {
    const uint64_t met = _page->urgent_met.load(std::memory_order_acquire);
    return met != 0 && met != _page->urgent_read.load(relaxed) && met == header().ring[in()].urgent.load(relaxed);
}

bool stream::is_at_mark() const noexcept {
    const uint64_t end = receiver().urgent_end(), tail = _page->rx.tail;
    const bool first = end - 1 == tail && header().ring[in()].head.load(std::memory_order_acquire) != tail;
    return end != 0 && (first || _page->urgent_met.load(std::memory_order_acquire) == end);
}

size_t stream::bytes_to_read(int fd) noexcept {
    const size_t unread = unread_bytes(fd);
    if (is_plain() || !has_seen_urgent() || _page->urgent_inline.load(relaxed) != 0) {
        return unread;
    }
    const uint64_t end = receiver().urgent_end();
    return _page->urgent_met.load(relaxed) == end ? 0 : size_t(std::min<uint64_t>(unread, end - 1 - _page->rx.tail));
}

bool stream::shows_urgent() const noexcept {
    const uint64_t end = receiver().urgent_end();
    if (end == 0 || end == _page->urgent_read.load(relaxed)) {
        return false;
    }
    const uint64_t tail = _page->rx.tail, head = header().ring[in()].head.load(std::memory_order_acquire);
    return end - 1 - tail < head - tail || _page->urgent_met.load(std::memory_order_acquire) == end;
}

// An ordinary read would find nothing, not even an end.
bool stream::shows_nothing_else(int fd) noexcept { return unread_bytes(fd) == 0 && !ending(); }

void stream::meet_urgent(int fd) noexcept {
    urgent_data_met.store(true, relaxed);
    auto e = end(fd);
    side_lock lock(*this, e, side_lock::side::receives);
    size_t there = 0;
    if (!lock.take() || is_plain() || e.in.data_bytes(there) != shm::look::ok) {
        return;
    }
    if (came_to_urgent(e) && there <= 1) {
        e.emptied(keeps_urgent() && _page->watches_urgent.load(relaxed) != 0 ? shm::tidy::but_last : shm::tidy::fully);
    }
}

ssize_t stream::receive_urgent(int fd, const iovec* iov, size_t count, int flags) noexcept {
    auto& p = *_page;
    auto e = end(fd);
    side_lock lock(*this, e, side_lock::side::receives);
    size_t there = 0;
    if (!lock.take()) {
        return fail(EAGAIN);
    }
    const uint64_t end = e.in.urgent_end();
    if (p.urgent_inline.load(relaxed) != 0 || end == 0 || end == p.urgent_read.load(relaxed) ||
        e.in.data_bytes(there) != shm::look::ok) {
        return fail(EINVAL);
    }
    const uint64_t before = end - 1 - p.rx.tail;
    auto byte = std::byte(p.urgent_byte.load(relaxed));
    if (before < there) {
        byte = *static_cast<std::byte*>(e.in.data(1, size_t(before)).iov[0].iov_base);
    } else if (p.urgent_met.load(relaxed) != end) {
        return fail(EINVAL);
    }
    if ((flags & MSG_PEEK) == 0) {
        p.urgent_read.store(end, relaxed);
        came_to_urgent(e);
        if (!e.in.has_data()) {
            e.emptied();
        }
    }
    for (size_t i = 0; i < count; ++i) {
        if (iov[i].iov_len != 0) {
            if ((flags & MSG_TRUNC) == 0) {
                *static_cast<std::byte*>(iov[i].iov_base) = byte;
            }
            return 1;
        }
    }
    return 0;
}

}  // namespace vmsgr::client
