// The data path of a program: its memory <-> the rings.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>

#include <algorithm>

#include "base/assert.hh"
#include "base/sys.hh"
#include "client/streams/restart.hh"
#include "client/session.hh"
#include "client/streams/stream.hh"

namespace vmsgr::client {

namespace {

// Published and freed in steps of this size, so that both sides work at once.
constexpr size_t step_bytes = 64u << 10;
// A token with nothing in the ring is spurious now and then (another reader was faster), never for long.
constexpr int spurious_max = 1000;
// Who reads more at once has gathered enough; who gathers less than so many times what there was waits for nothing.
constexpr size_t gather_below_bytes = 4096;
constexpr size_t gather_pays_times = 8;
constexpr int own_shutdown_ms = 50;

ssize_t fail(int err) noexcept {
    errno = err;
    return -1;
}

// Walks over the caller's iovec.
class cursor {
    const iovec* _iov;
    size_t _count;
    size_t _at = 0;

public:
    cursor(const iovec* iov, size_t count) noexcept : _iov(iov), _count(count) {}

    template <typename Copy>
    void each(iovec piece, Copy&& copy) noexcept {
        auto* p = static_cast<std::byte*>(piece.iov_base);
        size_t left = piece.iov_len;
        while (left != 0) {
            VMSGR_ASSERT(_count != 0);
            size_t n = std::min(left, _iov->iov_len - _at);
            if (n != 0) {
                copy(p, static_cast<std::byte*>(_iov->iov_base) + _at, n);
            }
            p += n;
            left -= n;
            _at += n;
            if (_at == _iov->iov_len) {
                ++_iov;
                --_count;
                _at = 0;
            }
        }
    }
};

size_t total(const iovec* iov, size_t count, bool& too_much) noexcept {
    size_t n = 0;
    too_much = false;
    for (size_t i = 0; i < count; ++i) {
        if (iov[i].iov_len > size_t(SSIZE_MAX) - n) {
            too_much = true;
            return 0;
        }
        n += iov[i].iov_len;
    }
    return n;
}

int64_t send_timeout_ms(int fd) noexcept {
    timeval t{};
    socklen_t len = sizeof t;
    if (sys::getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, &len) != 0 || (t.tv_sec == 0 && t.tv_usec == 0)) {
        return -1;
    }
    return int64_t(t.tv_sec) * 1000 + (t.tv_usec + 999) / 1000;
}

void raise_sigpipe() noexcept { ::syscall(SYS_tgkill, ::getpid(), ::syscall(SYS_gettid), SIGPIPE); }

}  // namespace

// One direction's lock. A holder that was killed left its private index true and, at worst, unpublished.
struct stream::half {
    pthread_mutex_t& m;
    int state;
    explicit half(pthread_mutex_t& mutex) noexcept : m(mutex), state(pthread_mutex_lock(&mutex)) {
        if (state == EOWNERDEAD) {
            pthread_mutex_consistent(&m);
        }
    }
    ~half() { release(); }
    bool held() const noexcept { return state == 0 || state == EOWNERDEAD; }
    bool orphaned() const noexcept { return state == EOWNERDEAD; }
    void release() noexcept {
        if (held()) {
            pthread_mutex_unlock(&m);
            state = -1;
        }
    }
};

int stream::pipe_error(int fd, int flags) noexcept {
    int err = take_error(fd);
    if (err == 0) {
        err = EPIPE;
    }
    if (err == EPIPE && (flags & MSG_NOSIGNAL) == 0) {
        raise_sigpipe();
    }
    return err;
}

// Sleeps until the doorbell is writable. 0: look again; else the errno for the caller.
int stream::wait_for_room(int fd, int64_t& deadline_ms, bool partly_done) noexcept {
    if ((sys::fcntl(fd, F_GETFL) & O_NONBLOCK) != 0) {
        return EAGAIN;
    }
    if (deadline_ms == 0) {
        int64_t timeout = send_timeout_ms(fd);
        deadline_ms = timeout < 0 ? -1 : now_ms() + timeout;
    }
    for (;;) {
        int left = -1;
        if (deadline_ms > 0) {
            left = int(std::max<int64_t>(deadline_ms - now_ms(), 0));
        }
        // In a local conduit nobody answers our own shutdown(SHUT_WR) by another thread.
        bool looks_again = is_local() && (left < 0 || left > own_shutdown_ms);
        pollfd p{fd, POLLOUT, 0};
        int r = sys::poll(&p, 1, looks_again ? own_shutdown_ms : left);
        if (r == 0 && looks_again) {
            if (_page->shut_write.load(std::memory_order_acquire) != 0) {
                return 0;
            }
            continue;
        }
        if (r == 0) {
            return EAGAIN;
        }
        if (r > 0) {
            if ((p.revents & (POLLHUP | POLLERR)) != 0 && !broken() && current() != phase::failed_untold) {
                other_end_gone();
            }
            return (p.revents & POLLNVAL) != 0 ? EBADF : 0;
        }
        if (errno != EINTR || partly_done || deadline_ms > 0 || !signals_restart()) {
            return errno;
        }
    }
}

int stream::connect_and_wait(int fd) noexcept {
    int64_t deadline_ms = 0;
    while (current() == phase::connecting) {
        int err = wait_for_room(fd, deadline_ms, false);
        if (err == EINTR || err == EAGAIN) {
            errno = err == EAGAIN ? EINPROGRESS : EINTR;  // SO_SNDTIMEO counts for connect() too
            return -1;
        }
        if (err != 0) {
            break;
        }
    }
    bool retry = false;
    return connect_again(fd, retry);
}

int stream::await_connected(int fd, bool wait) noexcept {
    int64_t deadline_ms = 0;
    for (;;) {
        switch (current()) {
        case phase::up:
        case phase::up_untold:
            return 0;
        case phase::failed_untold: {
            int err = take_error(fd);
            return err != 0 ? err : ENOTCONN;
        }
        case phase::failed:
            return ENOTCONN;
        case phase::connecting:
            break;
        }
        if (!wait) {
            return EAGAIN;
        }
        if (int err = wait_for_room(fd, deadline_ms, false); err != 0) {
            return err;
        }
        if (broken()) {
            return take_error(fd);
        }
    }
}

template <typename Fill>
ssize_t stream::send_loop(int fd, size_t wanted, int flags, Fill&& fill) {
    const bool dont_wait = (flags & MSG_DONTWAIT) != 0;
    if (!stands(_page->state.load(std::memory_order_acquire))) {
        if (int err = await_connected(fd, !dont_wait && (sys::fcntl(fd, F_GETFL) & O_NONBLOCK) == 0); err != 0) {
            if (err != ENOTCONN) {
                return fail(err);
            }
            return fail(pipe_error(fd, flags));
        }
    }
    size_t done = 0;
    int64_t deadline_ms = 0;
    for (;;) {
        half lock(_page->send_lock);
        if (!lock.held()) {
            return fail(EAGAIN);
        }
        auto ring = sender();
        shm::bell bell(fd);
        if (lock.orphaned()) {
            ring.recover(bell);
        }
        bool room = true;
        while (room) {
            if (broken() || _page->shut_write.load(std::memory_order_acquire) != 0) {
                lock.release();
                return done != 0 ? ssize_t(done) : fail(pipe_error(fd, flags));
            }
            if (done == wanted) {
                return ssize_t(done);
            }
            if (is_local() && other_listens(fd) == listens::gone) {
                send_into_nothing(fd);
                return ssize_t(wanted);
            }
            size_t free = 0;
            if (ring.free_bytes(free) != shm::look::ok) {
                break_with(EPROTO);
                continue;
            }
            if (free != 0) {
                size_t n = std::min({free, wanted - done, step_bytes});
                ssize_t got = fill(ring.space(n), done);
                if (got <= 0) {
                    return done != 0 ? ssize_t(done) : got;
                }
                ring.set_more((flags & MSG_MORE) != 0 && done + size_t(got) == wanted);
                ring.publish(size_t(got));
                done += size_t(got);
                ring.wake(bell);
                if (size_t(got) < n) {
                    return ssize_t(done);
                }
                if (done < wanted || free > n) {
                    continue;
                }
            }
            // Exactly full now: poll must not show OUT before there is room.
            if (free == 0 && is_local() && other_listens(fd) == listens::not_any_more) {
                return ssize_t(wanted);  // after its shutdown(SHUT_RD) the other program cannot be rung
            }
            if (ring.await_space(bell, room) != shm::look::ok) {
                break_with(EPROTO);
                room = true;
            } else if (done == wanted) {
                return ssize_t(done);
            }
        }
        lock.release();
        int err = dont_wait ? EAGAIN : wait_for_room(fd, deadline_ms, done != 0);
        if (err != 0) {
            return done != 0 ? ssize_t(done) : fail(err);
        }
    }
}

// The ring is empty and settled: is there an end, or an error, or will more come? Data may have come meanwhile.
// An error is taken only when the call will show it.
stream::empty stream::at_empty(int fd, bool partly_done, int& err) noexcept {
    auto ring = receiver();
    uint32_t flags = ring.flags();  // before the look: fin comes after the last byte
    if (ring.has_data()) {
        return empty::more;
    }
    err = 0;
    // The peer's end of file came before whatever broke afterwards: reading shows that, as the kernel does.
    if ((flags & shm::ring_fin) != 0 || _page->shut_read.load(std::memory_order_acquire) != 0 ||
        _page->other_gone.load(std::memory_order_acquire) != 0) {
        return empty::end;
    }
    if (broken() || current() == phase::failed_untold) {
        err = partly_done ? 0 : take_error(fd);
        return err != 0 ? empty::failed : empty::end;
    }
    if (current() == phase::failed) {
        err = ENOTCONN;
        return empty::failed;
    }
    return empty::more;
}

// Only where a system call would sleep otherwise, and where a killed spinner leaves nobody behind.
bool stream::may_spin(int flags) noexcept {
    return spin_limit_ns() != 0 && (flags & (MSG_PEEK | MSG_DONTWAIT)) == 0 &&
           _page->nonblocking.load(std::memory_order_relaxed) == 0 &&
           _page->shared.load(std::memory_order_relaxed) == 0 && stands(_page->state.load());
}

// A little came, and more comes before this call could be made again: to return each time with a message or two costs
// an announcement, and the writer a token and a cache line for each. Only where nothing is sent the other way (nobody
// waits for an answer), and while it pays.
bool stream::may_gather(size_t done, int flags) noexcept {
    return done < gather_below_bytes && (flags & MSG_WAITALL) == 0 && may_spin(flags) && _page->gathers.pays() &&
           _page->gathers.how(header().ring[out()].head.load(std::memory_order_relaxed)) == gaze::far;
}

// Nothing will follow what lies in the ring now.
bool stream::ending() noexcept {
    return other_finished() || broken() || _page->shut_read.load() != 0;
}

template <typename Drain>
ssize_t stream::receive_loop(int fd, size_t wanted, int flags, Drain&& drain, bool takes_all) {
    const bool peek = (flags & MSG_PEEK) != 0;
    const bool all = (flags & MSG_WAITALL) != 0;
    const bool dont_wait = (flags & MSG_DONTWAIT) != 0;
    size_t done = 0;
    int spurious = 0;
    bool gone = false;
    // Who spins reads all that comes up to his mark (ring.hh): a pipe may take less.
    bool spun = wanted == 0 || !takes_all;
    bool gathered = spun || peek;
    for (;;) {
        half lock(_page->recv_lock);
        if (!lock.held()) {
            return done != 0 ? ssize_t(done) : fail(EAGAIN);
        }
        auto ring = receiver();
        shm::bell bell(fd);
        if (lock.orphaned()) {
            ring.recover();
        }
        size_t n = 0;
        for (;;) {
            if (ring.data_bytes(n) != shm::look::ok) {
                break_with(EPROTO);  // nothing here can be read any more, and the ring will never look empty
                const int err = done == 0 ? take_error(fd) : 0;
                return err != 0 ? fail(err) : ssize_t(done);
            }
            if (n == 0 && !spun && may_spin(flags) && _page->spins.pays()) {
                // Without the lock: a handler, or another thread, may read meanwhile.
                spun = true;
                auto s = ring.begin_spin(wanted - done);
                gaze how = _page->spins.how(header().ring[out()].head.load(std::memory_order_relaxed));
                lock.release();
                bool found = spin_until(how, [&]() noexcept { return ring.spin_over(s); });
                _page->spins.note(found);
                break;
            }
            if (n == 0) {
                if (ring.settle(bell)) {
                    if (done != 0 && !all) {
                        return ssize_t(done);
                    }
                    break;
                }
                continue;
            }
            size_t take = std::min({n, wanted - done, step_bytes});
            ssize_t used = peek ? drain(ring.data(take = std::min(n, wanted)), 0) : drain(ring.data(take), done);
            if (used <= 0) {
                return done != 0 ? ssize_t(done) : used;
            }
            if (peek) {
                if (!all || size_t(used) == wanted || n == ring.capacity() || dont_wait || gone || ending()) {
                    return used;
                }
                break;
            }
            ring.consume(size_t(used));
            done += size_t(used);
            spurious = 0;
            spun = !takes_all;
            bool now_empty = false;
            if (size_t(used) == n && done < wanted && !gathered && may_gather(done, flags)) {
                gathered = spun = true;
                auto s = ring.begin_spin(wanted - done);
                const size_t enough = std::min<size_t>(wanted - done, ring.capacity() / 2);
                lock.release();
                spin_until(gaze::far, [&]() noexcept { return ring.gathered(s, enough); });
                _page->gathers.note(ring.gathered(s, gather_pays_times * done));
                break;
            }
            if (size_t(used) == n) {
                // A program that waits for edges and reads until EAGAIN does not mind a token left lying.
                bool lazy = !all && _page->edges.load(std::memory_order_relaxed) != 0 &&
                            _page->nonblocking.load(std::memory_order_relaxed) != 0;
                now_empty = lazy ? ring.settle_lazily(bell) : ring.settle(bell);
            } else {
                if (_page->edges.load(std::memory_order_relaxed) != 0) {
                    ring.announce_with_data(bell);
                }
                ring.relieve(bell);
            }
            if (done == wanted || size_t(used) < take || (now_empty && !all)) {
                return ssize_t(done);
            }
        }
        if (!lock.held()) {
            continue;  // has spun: look again
        }
        if (bell.foreign()) {
            break_with(EPROTO);
        }
        int err = 0;
        empty what = at_empty(fd, done != 0, err);
        lock.release();
        if (what != empty::more) {
            return done != 0 || what == empty::end ? ssize_t(done) : fail(err);
        }
        if (peek && n != 0) {
            // MSG_PEEK | MSG_WAITALL: the descriptor is readable already, so only time can pass.
            pollfd p{fd, 0, 0};
            gone = sys::poll(&p, 1, 1) == 1;
            continue;
        }
        if (gone) {
            other_end_gone();
            continue;
        }
        switch (shm::look_at_bell(fd, !dont_wait, err)) {
        case shm::bell_look::token:
            if (++spurious > spurious_max) {
                break_with(EPROTO);
            }
            break;
        case shm::bell_look::hangup:
            gone = true;  // fin and reset were written before it: one more look
            break;
        case shm::bell_look::nothing:
            if (done != 0) {
                return ssize_t(done);
            }
            return fail(err);
        }
    }
}

ssize_t stream::send(int fd, const iovec* iov, size_t count, int flags) {
    bool too_much = false;
    size_t wanted = total(iov, count, too_much);
    if (too_much) {
        return fail(EINVAL);
    }
    if ((flags & MSG_OOB) != 0) {
        return fail(EOPNOTSUPP);
    }
    cursor at(iov, count);
    return noted(send_loop(fd, wanted, flags, [&](const shm::pieces& to, size_t) -> ssize_t {
        for (const iovec& piece : to.iov) {
            at.each(piece, [](std::byte* ring, std::byte* user, size_t n) noexcept { memcpy(ring, user, n); });
        }
        return ssize_t(to.bytes());
    }));
}

ssize_t stream::receive(int fd, const iovec* iov, size_t count, int flags) {
    bool too_much = false;
    size_t wanted = total(iov, count, too_much);
    if (too_much) {
        return fail(EINVAL);
    }
    if ((flags & MSG_OOB) != 0) {
        return fail(EINVAL);
    }
    if ((flags & MSG_ERRQUEUE) != 0) {
        return fail(EAGAIN);
    }
    cursor at(iov, count);
    return noted(receive_loop(fd, wanted, flags, [&](const shm::pieces& from, size_t done) -> ssize_t {
        if ((flags & MSG_TRUNC) != 0) {
            return ssize_t(from.bytes());
        }
        if (done == 0) {
            at = cursor(iov, count);  // a repeated peek begins anew
        }
        for (const iovec& piece : from.iov) {
            at.each(piece, [](std::byte* ring, std::byte* user, size_t n) noexcept { memcpy(user, ring, n); });
        }
        return ssize_t(from.bytes());
    }));
}

ssize_t stream::send_file(int fd, int file, int64_t& offset, size_t n) {
    return noted(send_loop(fd, n, 0, [&](const shm::pieces& to, size_t) -> ssize_t {
        ssize_t r = ::syscall(SYS_preadv, file, to.iov.data(), to.count(), offset, 0);
        if (r > 0) {
            offset += r;
        }
        return r;
    }));
}

ssize_t stream::send_from_pipe(int fd, int pipe, size_t n) {
    return noted(send_loop(fd, n, 0, [&](const shm::pieces& to, size_t) -> ssize_t {
        return ::syscall(SYS_preadv2, pipe, to.iov.data(), to.count(), -1L, -1L, RWF_NOWAIT);
    }));
}

ssize_t stream::receive_to_pipe(int fd, int pipe, size_t n) {
    auto drain = [&](const shm::pieces& from, size_t) -> ssize_t {
        return ::syscall(SYS_pwritev2, pipe, from.iov.data(), from.count(), -1L, -1L, RWF_NOWAIT);
    };
    return noted(receive_loop(fd, n, 0, drain, false));
}

}  // namespace vmsgr::client
