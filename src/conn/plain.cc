#include "conn/plain.hh"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>

#include "base/sockets.hh"
#include "shm/bell.hh"

namespace vmsgr::conn {

namespace {

// Where the program has stopped.
shm::tx_state producer_at(const shm::ring_words& w, uint64_t tail) noexcept {
    shm::tx_state s;
    s.head = w.head.load(std::memory_order_acquire);
    s.tail_seen = tail;
    s.base = w.base.load(std::memory_order_relaxed);
    return s;
}
shm::rx_state consumer_at(uint64_t tail, uint64_t head) noexcept {
    shm::rx_state s;
    s.tail = tail;
    s.head_seen = head;
    return s;
}

}  // namespace

plain_end::plain_end(const shm::conduit& c, shm::end& near, shm::rights_sink& rights) noexcept
    : _fd(near.doorbell.fd()),
      _from_program(near.in),
      _rights(rights),
      _tx(producer_at(c.header().ring[0], near.in.consumed())),
      _rx(consumer_at(c.header().ring[1].tail.load(std::memory_order_acquire), near.out.published())),
      _out(c.header().ring[0], c.ring_data(0), c.capacity, _tx),
      _in(c.header().ring[1], c.ring_data(1), c.capacity, _rx) {
    // What waits beyond that has the ring, and TCP's buffers.
    constexpr size_t under_way_bytes = 208 << 10;
    shm::tune_plain(_fd, under_way_bytes);
}

bool plain_end::is_impossible() const noexcept {
    return _tx.head - _tx.tail_seen > _out.capacity() || _rx.head_seen - _rx.tail > _in.capacity();
}

// The program's tokens; the resident one stays in their place. False: some are under way.
bool plain_end::take_tokens() noexcept {
    shm::bell doorbell(_fd, 0, nullptr, &_rights);
    return _from_program.take_counted(doorbell);
}

plain_end::pulled plain_end::pull() noexcept {
    size_t room = 0;
    int there = 0;
    if (_ended) {
        return pulled::nothing;
    }
    if (_broken || !take_tokens() || _out.free_bytes(room) != shm::look::ok || room == 0 ||
        ::ioctl(_fd, FIONREAD, &there) != 0) {
        return pulled::nothing;
    }
    const auto resident = int(shm::resident_tokens);
    const size_t n = std::min<size_t>(size_t(std::max(there - resident, 0)), room);
    if (n == 0) {
        // Only the end can stand behind the resident byte.
        pollfd p{_fd, POLLRDHUP, 0};
        if (::poll(&p, 1, 0) != 1 || (p.revents & (POLLRDHUP | POLLHUP | POLLERR)) == 0) {
            return pulled::nothing;
        }
        if (::ioctl(_fd, FIONREAD, &there) == 0 && there > resident) {
            return pull();  // it came before that
        }
        _ended = true;
        _left_unread = (p.revents & (POLLERR | POLLHUP)) != 0 && base::socket_option(_fd, SO_ERROR) == ECONNRESET;
        // A close with unread bytes ends in a reset; its end of file must not leave before that is known.
        const bool closed = _left_unread || ((p.revents & POLLHUP) != 0 && !_fin_sent);
        if (!closed) {
            _out.set_flags(shm::ring_fin);
        }
        return pulled::ended;
    }
    // Read in front of them lies the byte that was passed on last; the last one of these takes its place.
    const auto to = _out.space(n);
    unsigned char passed_on[shm::resident_tokens];
    iovec iov[3] = {{passed_on, sizeof passed_on}, to.iov[0], to.iov[1]};
    iovec& last = iov[2].iov_len != 0 ? iov[2] : iov[1];
    std::byte* const last_byte = static_cast<std::byte*>(last.iov_base) + last.iov_len - 1;
    --last.iov_len;
    bool rights = false;
    const bool read = shm::receive_with_rights(_fd, iov, _rights, rights) == ssize_t(n) &&
                      ::recv(_fd, last_byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
    if (!read) {
        // Another holder of this end reads it: there is none but an attacker's.
        _broken = _ended = true;
        _out.reset(ECONNRESET);
        return pulled::ended;
    }
    _out.publish(n);
    return pulled::some;
}

bool plain_end::push() noexcept {
    bool moved = false;
    for (size_t there = 0; !_broken;) {
        if (_in.data_bytes(there) != shm::look::ok) {
            _broken = true;
            break;
        }
        if (there == 0) {
            if (_fin_due && !std::exchange(_fin_sent, true)) {
                ::shutdown(_fd, SHUT_WR);
            }
            break;
        }
        const auto from = _in.data(there);
        msghdr m{};
        m.msg_iov = const_cast<iovec*>(from.iov.data());
        m.msg_iovlen = size_t(from.count());
        const ssize_t n = ::sendmsg(_fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0) {
            _broken = errno != EAGAIN && errno != EINTR;
            break;
        }
        _in.consume(size_t(n));
        moved = moved || n != 0;
    }
    return moved;
}

}  // namespace vmsgr::conn
