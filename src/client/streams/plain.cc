// Plain mode: the doorbell itself carries the bytes, for a holder without the library (a static program, a cleared
// environment, stdio inside libc). The end that wants it asks in its flags; the other agrees at its next call, or at
// once if it sleeps in one. For each direction, in this order: what lies in the ring, the tokens that were counted,
// plain bytes. So each side knows by counting where the bytes begin.
//
// What the asking end has not read yet it cannot read any more: the other sends it anew, through the doorbell. What the
// other has not read it takes from the ring, as ever.
//
// Locks: recv_lock, then send_lock.
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include <algorithm>

#include "base/clock.hh"
#include "base/sys.hh"
#include "client/streams/side_lock.hh"
#include "client/streams/stream.hh"

namespace vmsgr::client {

namespace {

// A daemon agrees in its reactor's next turn, a program that sleeps on this connection when its token wakes it. One that
// does not is elsewhere, outside this library, so no token of its is under way: it agrees at its next call.
constexpr int agree_daemon_ms = 5000;
constexpr int agree_program_ms = 50;
constexpr int tokens_under_way_ms = 1000;
// What is sent anew has to fit into the socket, or its reader has to read.
constexpr int unread_moves_ms = 10000;
// A doorbell's is small. As large as an unprivileged process may ask for by default.
constexpr int plain_send_buffer = 212992;

void nap() noexcept {
    const timespec t{0, 50'000};
    ::syscall(SYS_nanosleep, &t, nullptr);
}

// The rest of an iovec behind its first `done` bytes. Calls then(iov, count).
constexpr size_t iov_max = 1024;
template <typename Then>
ssize_t rest_of(const iovec* iov, size_t count, size_t done, Then&& then) noexcept {
    while (count != 0 && done >= iov->iov_len) {
        done -= iov->iov_len;
        ++iov;
        --count;
    }
    if (done == 0) {
        return then(iov, count);
    }
    iovec rest[iov_max];
    count = std::min(count, iov_max);
    std::copy_n(iov, count, rest);
    rest[0].iov_base = static_cast<std::byte*>(rest[0].iov_base) + done;
    rest[0].iov_len -= done;
    return then(rest, count);
}

}  // namespace

// The send lock is held. The last token is counted before this, as its count is part of what the other end is told.
void stream::send_plainly(int fd, uint32_t how) noexcept {
    sys::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &plain_send_buffer, sizeof plain_send_buffer);
    sender().set_more(false);
    flags().fetch_or(how, std::memory_order_seq_cst);
}

// The send lock is held. What the other end left in our ring goes through the doorbell. False: it does not read.
bool stream::move_unread(int fd) noexcept {
    if ((header().end[in()].flags.load(std::memory_order_acquire) & shm::end_reads_plain) == 0) {
        return true;  // it reads the ring
    }
    auto& ring = header().ring[out()];
    auto& p = *_page;
    const base::deadline until(unread_moves_ms);
    p.moved = std::max(p.moved, ring.tail.load(std::memory_order_acquire));
    if (p.moved > p.tx.head || p.tx.head - p.moved > _memory.capacity) {
        return false;  // a tail that cannot be
    }
    while (p.moved != p.tx.head) {
        const auto from = shm::ring_pieces(_memory.ring_data(int(out())), _memory.capacity, p.moved,
                                           size_t(p.tx.head - p.moved));
        msghdr m{};
        m.msg_iov = const_cast<iovec*>(from.iov.data());
        m.msg_iovlen = size_t(from.count());
        const ssize_t n = ::syscall(SYS_sendmsg, fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n >= 0) {
            p.moved += uint64_t(n);
            continue;
        }
        pollfd out{fd, POLLOUT, 0};
        const bool waits = errno == EAGAIN || errno == EINTR;
        if (!waits || until.left_ms() == 0 || (sys::poll(&out, 1, until.left_ms()) < 0 && errno != EINTR)) {
            return !waits;  // it is gone: nobody misses it
        }
    }
    return true;
}

// Every token that the other end has counted. False: some are still under way.
bool stream::take_last_tokens(int fd, bool wait) noexcept {
    shm::bell b(fd);
    auto& taken = _page->rx.tokens_taken;
    const base::deadline until(wait ? tokens_under_way_ms : 0);
    for (;;) {
        const uint32_t left = header().ring[in()].tokens_sent.load(std::memory_order_acquire) - taken;
        if (left == 0) {
            return true;
        }
        const uint32_t got = b.take_tokens(std::min(left, shm::bell_tokens_max));
        taken += got;
        pollfd p{fd, POLLIN, 0};
        if (got == 0 && (until.left_ms() == 0 || sys::poll(&p, 1, until.left_ms()) == 0)) {
            return false;
        }
        int gone = 0;
        if (got == 0 && shm::look_at_bell(fd, false, gone) == shm::bell_look::hangup) {
            return true;
        }
    }
}

bool stream::await_other_plain(int fd) noexcept {
    const base::deadline until(is_local() ? agree_program_ms : agree_daemon_ms);
    while (!other_is_plain() && until.left_ms() != 0) {
        pollfd p{fd, 0, 0};
        if (sys::poll(&p, 1, 0) == 1 && (p.revents & POLLHUP) != 0) {
            return other_is_plain();
        }
        nap();
    }
    return other_is_plain();
}

bool stream::become_plain(int fd) noexcept {
    if (is_plain()) {
        return true;
    }
    if (!stands(current()) || broken()) {
        return false;
    }
    auto e = end(fd);
    side_lock receives(_page->recv_lock), sends(_page->send_lock);
    if (!receives.take([&]() noexcept { e.in.recover(); }) || !sends.take([&]() noexcept { e.out.recover(e.doorbell); })) {
        return false;  // in a signal handler, above a call on this very connection
    }
    if (is_plain()) {
        return true;
    }
    auto lose = [&]() noexcept {
        break_with(ECONNRESET);
        reset_peer();
        return false;
    };
    const bool exact = !_page->rx.inexact && (e.in.flags() & shm::ring_inexact) == 0;
    if (!exact || (is_ours_plain() && e.in.has_data())) {
        return lose();  // nobody is left who could send anew what lies in the ring
    }
    if (!is_ours_plain()) {
        e.in.stay_awake();
        const bool rings = e.doorbell.writable();  // else tokens lie there unread, and wake it
        if (rings) {
            header().ring[out()].tokens_sent.fetch_add(1, std::memory_order_seq_cst);
        }
        send_plainly(fd, shm::end_plain | shm::end_reads_plain);
        if (rings) {
            e.doorbell.send_token();
        }
    }
    const bool agreed = await_other_plain(fd);
    if (!agreed && !is_local()) {
        return lose();
    }
    // One that has not agreed yet has sent nothing but tokens.
    if (!take_last_tokens(fd, agreed) || e.doorbell.foreign() || (agreed && !move_unread(fd))) {
        return lose();
    }
    _page->plain.store(1, std::memory_order_release);
    return true;
}

// The other end has asked, and both locks are free; the ring is empty. True: the doorbell carries the bytes now. False:
// tokens are under way, or more lies in the ring.
bool stream::follow_into_plain(int fd) noexcept {
    if (is_plain()) {
        return true;
    }
    auto e = end(fd);
    side_lock receives(_page->recv_lock), sends(_page->send_lock);
    if (!receives.take([&]() noexcept { e.in.recover(); }) || !sends.take([&]() noexcept { e.out.recover(e.doorbell); })) {
        return false;
    }
    if (!is_ours_plain()) {
        send_plainly(fd, shm::end_plain);
    }
    if (!move_unread(fd)) {
        break_with(ECONNRESET);
        reset_peer();
        return false;
    }
    if (e.in.has_data() || !take_last_tokens(fd, false)) {
        return false;
    }
    _page->plain.store(1, std::memory_order_release);
    return true;
}

ssize_t stream::receive_plain(int fd, const iovec* iov, size_t count, int flags, size_t done) noexcept {
    if (_page->reset_seen.load(std::memory_order_acquire) != 0) {
        const int err = take_error(fd);
        return err != 0 ? fail(err) : 0;
    }
    if (done != 0 && (flags & MSG_WAITALL) == 0) {
        return ssize_t(done);
    }
    constexpr int taken = MSG_DONTWAIT | MSG_PEEK | MSG_WAITALL | MSG_TRUNC;
    const ssize_t r = rest_of(iov, count, done, [&](const iovec* rest, size_t n) noexcept -> ssize_t {
        msghdr m{};
        m.msg_iov = const_cast<iovec*>(rest);
        m.msg_iovlen = n;
        return ::syscall(SYS_recvmsg, fd, &m, flags & taken);
    });
    return done != 0 ? ssize_t(done) + std::max<ssize_t>(r, 0) : r;
}

ssize_t stream::send_plain(int fd, const iovec* iov, size_t count, int flags, size_t done) noexcept {
    if (_page->reset_seen.load(std::memory_order_acquire) != 0) {
        return done != 0 ? ssize_t(done) : fail(pipe_error(fd, flags));
    }
    constexpr int taken = MSG_DONTWAIT | MSG_NOSIGNAL;
    const ssize_t r = rest_of(iov, count, done, [&](const iovec* rest, size_t n) noexcept -> ssize_t {
        msghdr m{};
        m.msg_iov = const_cast<iovec*>(rest);
        m.msg_iovlen = n;
        return ::syscall(SYS_sendmsg, fd, &m, flags & taken);
    });
    return done != 0 ? ssize_t(done) + std::max<ssize_t>(r, 0) : r;
}

}  // namespace vmsgr::client
