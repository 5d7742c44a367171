// The sending half of a stream: the program's memory -> the ring.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>

#include <algorithm>

#include "base/sockets.hh"
#include "base/sys.hh"
#include "client/streams/iov_cursor.hh"
#include "client/streams/late_tokens.hh"
#include "client/streams/restart.hh"
#include "client/streams/side_lock.hh"
#include "client/streams/stream.hh"

namespace vmsgr::client {

namespace {

constexpr int own_shutdown_ms = 50;

base::deadline send_deadline(int fd) noexcept {
    timeval t{};
    socklen_t len = sizeof t;
    if (sys::getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, &len) != 0 || (t.tv_sec == 0 && t.tv_usec == 0)) {
        return base::deadline(-1);
    }
    return base::deadline(int64_t(t.tv_sec) * 1000 + (t.tv_usec + 999) / 1000);
}

// From the flags of the other end, once the connection stands.
bool carries_urgent(uint32_t other_end) noexcept { return (other_end & shm::end_not_urgent) == 0; }

void raise_sigpipe() noexcept { sys::call(SYS_tgkill, ::getpid(), sys::call(SYS_gettid), SIGPIPE); }

}  // namespace

// One call that sends.
struct stream::sending {
    int fd;
    const int flags;
    const size_t wanted;
    size_t done = 0;
    bool stays = false;  // it was asked, and does not become the kernel's in this call
    bool dont_wait() const noexcept { return (flags & MSG_DONTWAIT) != 0; }
};

// The waits of a sender (shm/end.hh); it has unlocked before it sleeps.
struct stream::send_user {
    stream& s;
    void unlock() const noexcept {}
    void left() const noexcept {
        if (!s.broken() && s.current() != phase::failed_untold) {
            s.other_end_gone();
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
int stream::wait_for_room(int& fd, std::optional<base::deadline>& until, bool partly_done) {
    if (!base::blocks(fd)) {
        return EAGAIN;
    }
    if (!until) {
        until = send_deadline(fd);
    }
    const send_user user{*this};
    sleep sleeps(*this, fd);
    auto e = end(fd);
    end_turn();
    for (shm::waiting w;;) {
        sleeps.begin();
        // In a local conduit nobody answers our own shutdown(SHUT_WR) by another thread.
        const int left_ms = until->left_ms();
        const bool looks_again = is_local() && (left_ms < 0 || left_ms > own_shutdown_ms);
        if (e.sleep_writable(user, w, looks_again ? base::deadline(own_shutdown_ms) : *until) == shm::woken::look) {
            return 0;
        }
        if (w.errnum == ETIMEDOUT) {
            if (!looks_again) {
                return EAGAIN;
            }
            if (_page->shut_write.load(std::memory_order_acquire) != 0) {
                return 0;
            }
        } else if (w.errnum != EINTR || partly_done || !until->is_never() || !signals_restart()) {
            return w.errnum;
        }
    }
}

int stream::connect_and_wait(int fd) {
    std::optional<base::deadline> until;
    while (current(fd) == phase::connecting) {
        int err = wait_for_room(fd, until, false);
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

int stream::await_connected(int fd, bool wait) {
    std::optional<base::deadline> until;
    for (;;) {
        switch (current(fd)) {
        case phase::up:
        case phase::up_untold: return 0;
        case phase::failed_untold: {
            int err = take_error(fd);
            return err != 0 ? err : ENOTCONN;
        }
        case phase::failed:
        case phase::undone: return ENOTCONN;
        case phase::connecting: break;
        }
        if (!wait) {
            return EAGAIN;
        }
        if (int err = wait_for_room(fd, until, false); err != 0) {
            return err;
        }
        if (broken()) {
            return take_error(fd);
        }
    }
}

// Something was published. In a turn of a loop its reader may be woken later; nobody else must have this end, as a kill
// of this process tells the reader only if the doorbell hangs up.
void stream::tell_reader(shm::end& e, int fd) noexcept {
    if (!is_in_turn() || _page->holders.load(std::memory_order_relaxed) != 1) {
        e.sent();
    } else if (e.out.owes_token() && !_owes_token.load(std::memory_order_relaxed)) {
        _owes_token.store(true, std::memory_order_seq_cst);
        if (!owe_token(fd, *this)) {
            _owes_token.store(false, std::memory_order_relaxed);
            e.sent();
        }
    }
}

void stream::send_late_token(int fd) noexcept {
    if (!_owes_token.load(std::memory_order_seq_cst)) {
        return;
    }
    auto e = end(fd);
    side_lock lock(*this, e, side_lock::side::sends);
    if (lock.take() && _owes_token.exchange(false) && !is_ours_plain()) {
        e.out.show_held_back(e.out.held_back(), [&]() noexcept { e.sent(); });
    }
}

// Nobody takes it any more: up to `most` bytes of what the call sends leave their place, and no more than a file or a
// pipe has. False: nothing was there; errno says why, or it has ended.
template <typename Fill>
bool stream::throw_away(sending& s, size_t most, Fill&& fill) {
    std::byte scratch[4096];
    for (size_t left = std::min(most, s.wanted - s.done); left != 0;) {
        const size_t n = std::min(left, sizeof scratch);
        const ssize_t got = fill(shm::pieces{{iovec{scratch, n}, iovec{scratch, 0}}});
        if (got <= 0) {
            return got == 0 || s.done != 0;
        }
        s.done += size_t(got);
        left = size_t(got) < n ? 0 : left - n;
    }
    return true;
}

// The daemon wants to leave, and nothing more is to go into the ring: until it is empty, which the doorbell shows.
// back: it is, or may be asked whether the connection can go.
bool stream::is_held_up(const sending& s, shm::end& e, put& how) noexcept {
    const uint32_t asked = called_back();
    if (asked == 0 || (s.stays && (asked & shm::end_gone) == 0)) {
        return false;  // once it is gone nobody takes what is published
    }
    how = put::back;
    if ((asked & shm::end_hold) != 0 && (asked & shm::end_gone) == 0 && !out_ring_is_empty()) {
        show_now(e);
        bool room = true;
        if (e.out.await_space(e.doorbell, room, size_t(e.out.most_unread())) != shm::look::ok) {
            break_with(EPROTO);
            return false;
        }
        how = room ? put::back : put::full;
    }
    return true;
}

// Under the lock: as much as fits. The ring is never left exactly full before the doorbell says so, as poll must not
// show OUT before there is room.
template <typename Fill>
stream::put stream::put_some(sending& s, shm::end& e, Fill&& fill) {
    for (;;) {
        if (broken() || _page->shut_write.load(std::memory_order_acquire) != 0) {
            return put::broken;
        }
        if (s.done == s.wanted) {
            return put::finished;
        }
        if (turns_plain()) {
            return put::plain;
        }
        if (put how; is_held_up(s, e, how)) [[unlikely]] {
            return how;
        }
        size_t free = 0;
        if (e.out.free_bytes(free) != shm::look::ok) {
            break_with(EPROTO);
            continue;
        }
        if (is_local() && other_listens(s.fd) == listens::gone) {
            send_into_nothing(s.fd);
            if (free == 0 && s.done == 0) {
                continue;
            }
            return throw_away(s, free, fill) ? put::finished : put::failed;
        }
        if (free != 0) {
            const size_t n = std::min({free, s.wanted - s.done, step_bytes});
            const ssize_t got = fill(e.out.space(n));
            if (got <= 0) {
                return s.done == 0 && got < 0 ? put::failed : put::finished;
            }
            s.done += size_t(got);
            publish(s, e, size_t(got));
            if (size_t(got) < n) {
                return put::finished;
            }
            if (s.done < s.wanted || free > n) {
                continue;
            }
        }
        if (free == 0 && is_local() && other_listens(s.fd) == listens::not_any_more) {
            // After its shutdown(SHUT_RD) the other program cannot be rung.
            return throw_away(s, s.wanted, fill) ? put::finished : put::failed;
        }
        show_now(e);
        bool room = true;
        if (e.out.await_space(e.doorbell, room) != shm::look::ok) {
            break_with(EPROTO);
        } else if (s.done == s.wanted) {
            return put::finished;
        } else if (!room) {
            return put::full;
        }
    }
}

// What was put into the ring, and who waits for it.
void stream::publish(const sending& s, shm::end& e, size_t n) noexcept {
    _sent.store(_sent.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
    const bool last = s.done == s.wanted, more = (s.flags & MSG_MORE) != 0;
    if (__builtin_expect(more && is_local(), 0)) {
        if (hold_back(s.fd, s.flags, e, n)) {
            return;
        }
    } else {
        e.out.set_more(more && last);
    }
    if (__builtin_expect((s.flags & MSG_OOB) != 0 && last, 0)) {
        const bool first = !e.out.has_urgent_unread();
        e.out.mark_urgent(n);
        e.out.publish(n);
        e.sent_urgent(first);
        return;
    }
    e.out.publish(n);
    tell_reader(e, s.fd);
}

// plainly: the rest of the call, once the doorbell carries the bytes; it gets what was done before.
template <typename Fill, typename Plainly>
ssize_t stream::send_loop(int fd, size_t wanted, int flags, Fill&& fill, Plainly&& plainly) {
    sending s{fd, may_hold_back(flags), wanted};
    if (!stands(_page->state.load(std::memory_order_acquire))) {
        if (int err = await_connected(fd, !s.dont_wait() && base::blocks(fd)); err != 0) {
            return fail(err == ENOTCONN ? pipe_error(fd, flags) : err);
        }
        if ((flags & MSG_OOB) != 0 && !carries_urgent(header().end[in()].flags)) {
            return fail(EOPNOTSUPP);
        }
    }
    auto e = end(fd);
    side_lock lock(*this, e, side_lock::side::sends);
    for (std::optional<base::deadline> until;;) {
        if (!lock.take()) {
            return s.done != 0 ? ssize_t(s.done) : fail(EAGAIN);
        }
        const put next = put_some(s, e, fill);
        lock.release();
        switch (next) {
        case put::finished: return ssize_t(s.done);
        case put::failed: return -1;
        case put::broken: return s.done != 0 ? ssize_t(s.done) : fail(pipe_error(fd, flags));
        case put::plain:
            follow_into_plain(fd);
            if (is_ours_plain() || broken()) {
                return plainly(s.done);
            }
            if (s.dont_wait() || !base::blocks(fd)) {
                return s.done != 0 ? ssize_t(s.done) : fail(EAGAIN);
            }
            sys::poll(nullptr, 0, 1);  // the other end's new socket is under way
            continue;
        case put::back:
            switch (go_back(fd)) {
            case goes::gone: return plainly(s.done);
            case goes::not_now: s.stays = (called_back() & shm::end_hold) == 0 || out_ring_is_empty(); break;
            case goes::no:
                s.stays = true;
                if ((called_back() & shm::end_gone) != 0 && !broken()) {
                    return s.done != 0 ? ssize_t(s.done) : fail(EAGAIN);
                }
                break;
            }
            continue;
        case put::full: break;
        }
        const int before = fd;
        const int err = s.dont_wait() ? EAGAIN : wait_for_room(fd, until, s.done != 0);
        if (fd != before) [[unlikely]] {
            s.fd = fd;
            e.doorbell = shm::bell(fd, 0, &header().end[in()].flags);
        }
        if (err != 0) {
            return s.done != 0 ? ssize_t(s.done) : fail(err);
        }
    }
}

ssize_t stream::send(int fd, const iovec* iov, size_t count, int flags) {
    const auto wanted = total_bytes(iov, count);
    if (!wanted) {
        return fail(EINVAL);
    }
    if ((flags & MSG_OOB) != 0 && stands(current()) && !carries_urgent(header().end[in()].flags)) {
        return fail(EOPNOTSUPP);
    }
    if (is_plain()) {
        return send_plain(fd, iov, count, flags, 0);
    }
    iov_cursor at(iov, count);
    auto fill = [&](const shm::pieces& to) -> ssize_t {
        for (const iovec& piece : to.iov) {
            at.each(piece, [](std::byte* ring, std::byte* user, size_t n) noexcept { memcpy(ring, user, n); });
        }
        return ssize_t(to.bytes());
    };
    return noted(
        fd, send_loop(fd, *wanted, flags, fill, [&](size_t done) { return send_plain(fd, iov, count, flags, done); }));
}

ssize_t stream::send_file(int fd, int file, int64_t& offset, size_t n) {
    auto fill = [&](const shm::pieces& to) -> ssize_t {
        ssize_t r = sys::call(SYS_preadv, file, to.iov.data(), to.count(), offset, 0);
        if (r > 0) {
            offset += r;
        }
        return r;
    };
    return noted(fd, send_loop(fd, n, 0, fill, [&](size_t done) -> ssize_t {
                     return done != 0          ? ssize_t(done)
                            : may_wait_there() ? fail(EINVAL)
                                               : sys::call(SYS_sendfile, fd, file, &offset, n);
                 }));
}

ssize_t stream::send_from_pipe(int fd, int pipe, size_t n) {
    auto fill = [&](const shm::pieces& to) -> ssize_t {
        return sys::call(SYS_preadv2, pipe, to.iov.data(), to.count(), -1L, -1L, RWF_NOWAIT);
    };
    return noted(fd, send_loop(fd, n, 0, fill, [&](size_t done) -> ssize_t {
                     return done != 0 ? ssize_t(done)
                            : may_wait_there()
                                ? fail(EINVAL)
                                : sys::call(SYS_splice, pipe, nullptr, fd, nullptr, n, SPLICE_F_NONBLOCK);
                 }));
}

}  // namespace vmsgr::client
