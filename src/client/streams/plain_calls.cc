// Calls on a connection in plain mode: the kernel's own, after what this end still owes (plain.cc).
#include <errno.h>
#include <sys/syscall.h>

#include <algorithm>

#include "base/clock.hh"
#include "base/sockets.hh"
#include "base/sys.hh"
#include "client/streams/side_lock.hh"
#include "client/streams/stream.hh"

namespace vmsgr::client {

constinit std::atomic<int> streams_that_owe{0};

namespace {

// What its program still owes an alien when it closes: sent while this lasts.
constexpr int close_waits_ms = 5000;

// The rest of an iovec behind its first `done` bytes. Calls then(iov, count).
constexpr size_t iov_max = 1024;
template <typename Then>
ssize_t rest_of(const iovec* iov, size_t count, size_t done, Then&& then) {
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

bool stream::pay(int fd) noexcept {
    if (_page->owes.load(std::memory_order_acquire) != 0) {
        auto e = end(fd);
        side_lock sends(*this, e, side_lock::side::sends);
        if (sends.take() && !broken() && !move_unread(fd)) {
            break_off(fd);
        }
        if (broken() && _page->owes.exchange(0, std::memory_order_acq_rel) != 0) {
            streams_that_owe.fetch_sub(1, std::memory_order_relaxed);  // nobody gets it
        }
    }
    return _page->owes.load(std::memory_order_acquire) == 0;
}

// Until all is paid, or the descriptor does not wait, or (for_input) something can be read. 0 or an errno.
int stream::pay_and_wait(int fd, bool for_input, bool dont_wait) {
    while (!pay(fd)) {
        pollfd p{fd, short(for_input ? POLLIN | POLLOUT : POLLOUT), 0};
        const bool waits = !dont_wait && base::blocks(fd);
        const int r = sys::sleeping.poll(&p, 1, waits ? -1 : 0);
        if (r < 0 || (r == 0 && !waits)) {
            return r < 0 ? errno : EAGAIN;
        }
        if ((p.revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
            return 0;
        }
    }
    return 0;
}

void stream::pay_at_close(int fd) noexcept {
    const base::deadline until(close_waits_ms);
    for (int left_ms = until.left_ms(); !pay(fd) && left_ms != 0; left_ms = until.left_ms()) {
        pollfd p{fd, POLLOUT, 0};
        sys::poll(&p, 1, left_ms);
    }
    if (_page->owes.exchange(0, std::memory_order_acq_rel) != 0) {
        streams_that_owe.fetch_sub(1, std::memory_order_relaxed);
    }
}

// A socket that the other program made: it may hold a duplicate, and change how a call on it waits. So no call on it
// waits by itself, and what the program has said last counts.
template <typename Call>
ssize_t stream::call_plain(int fd, short events, int flags, Call&& call) {
    if (_page->shared_socket.load(std::memory_order_relaxed) == 0) {
        return call(flags);
    }
    for (;;) {
        const ssize_t r = call((flags & ~MSG_WAITALL) | MSG_DONTWAIT);
        const bool waits = (flags & MSG_DONTWAIT) == 0 && _page->nonblocking.load(std::memory_order_relaxed) == 0;
        pollfd p{fd, events, 0};
        if (r >= 0 || errno != EAGAIN || !waits || sys::sleeping.poll(&p, 1, -1) < 0) {
            return r;
        }
    }
}

ssize_t stream::receive_plain(int fd, const iovec* iov, size_t count, int flags, size_t done) {
    if (is_left_behind(fd)) {
        return done != 0 ? ssize_t(done) : fail(ECONNRESET);
    }
    if (_page->reset_seen.load(std::memory_order_acquire) != 0) {
        const int err = take_error(fd);
        return err != 0 ? fail(err) : 0;
    }
    if (done != 0 && (flags & MSG_WAITALL) == 0) {
        return ssize_t(done);
    }
    pay_and_wait(fd, true, (flags & MSG_DONTWAIT) != 0);
    constexpr int taken = MSG_DONTWAIT | MSG_PEEK | MSG_WAITALL | MSG_TRUNC | MSG_OOB;
    const ssize_t r = rest_of(iov, count, done, [&](const iovec* rest, size_t n) -> ssize_t {
        return call_plain(fd, POLLIN, flags & taken, [&](int how) {
            msghdr m{};
            m.msg_iov = const_cast<iovec*>(rest);
            m.msg_iovlen = n;
            return sys::sleeping.recvmsg(fd, &m, how);
        });
    });
    // What came before a reset is read before it shows.
    if (r == 0 && done == 0 && broken()) {
        const int err = take_error(fd);
        return err != 0 ? fail(err) : 0;
    }
    return done != 0 ? ssize_t(done) + std::max<ssize_t>(r, 0) : r;
}

ssize_t stream::send_plain(int fd, const iovec* iov, size_t count, int flags, size_t done) {
    if (is_left_behind(fd)) {
        return done != 0 ? ssize_t(done) : fail(ECONNRESET);
    }
    if (_page->reset_seen.load(std::memory_order_acquire) != 0) {
        return done != 0 ? ssize_t(done) : fail(pipe_error(fd, flags));
    }
    if (const int err = pay_and_wait(fd, false, (flags & MSG_DONTWAIT) != 0); err != 0) {
        return done != 0 ? ssize_t(done) : fail(err);
    }
    constexpr int taken = MSG_DONTWAIT | MSG_NOSIGNAL | MSG_OOB;
    // Until the ring is read the number is the old doorbell, which says how to wait.
    const int socket = _next_socket >= 0 ? _next_socket : fd;
    if (socket != fd && !base::blocks(fd)) {
        flags |= MSG_DONTWAIT;
    }
    const ssize_t r = rest_of(iov, count, done, [&](const iovec* rest, size_t n) -> ssize_t {
        return call_plain(socket, POLLOUT, flags & taken, [&](int how) {
            msghdr m{};
            m.msg_iov = const_cast<iovec*>(rest);
            m.msg_iovlen = n;
            return sys::sleeping.sendmsg(socket, &m, how);
        });
    });
    return done != 0 ? ssize_t(done) + std::max<ssize_t>(r, 0) : r;
}

}  // namespace vmsgr::client
