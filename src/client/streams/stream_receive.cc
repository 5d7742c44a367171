// The receiving half of a stream: the ring -> the program's memory.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>

#include <algorithm>

#include "base/keep_errno.hh"
#include "base/sockets.hh"
#include "base/sys.hh"
#include "client/streams/iov_cursor.hh"
#include "client/streams/late_tokens.hh"
#include "client/streams/side_lock.hh"
#include "client/streams/stream.hh"

namespace vmsgr::client {

namespace {

// Who reads more at once has gathered enough; who gathers less than so many times what there was waits for nothing.
constexpr size_t gather_below_bytes = 4096;
constexpr size_t gather_pays_times = 8;

}  // namespace

// One call that receives. Who has looked reads all that comes up to his mark (wake.hh): a pipe may take less.
struct stream::receiving {
    int fd;
    const int flags;
    const size_t wanted;
    const bool takes_all;
    const size_t enough;  // a call that waits goes on until then (MSG_WAITALL, SO_RCVLOWAT)
    size_t done = 0;
    bool looked = wanted == 0 || !takes_all;            // or may not, until something comes
    bool gathered = looked || (flags & MSG_PEEK) != 0;  // or may not
    bool stays = false;  // the daemon wants to leave, and it does not become the kernel's in this call
    int errnum = 0;                                     // with nothing done: what the call shows
    shm::waiting wait;

    bool peeks() const noexcept { return (flags & MSG_PEEK) != 0; }
    bool wants_all() const noexcept { return (flags & MSG_WAITALL) != 0; }
    bool dont_wait() const noexcept { return (flags & MSG_DONTWAIT) != 0; }
    size_t left() const noexcept { return wanted - done; }
    // The descriptor is readable already: only a hang-up can end this.
    void let_time_pass() noexcept {
        constexpr int peek_again_ms = 1;
        pollfd p{fd, 0, 0};
        wait.hung_up = sys::poll(&p, 1, peek_again_ms) == 1;
    }
    ssize_t result() const noexcept { return done == 0 && errnum != 0 ? fail(errnum) : ssize_t(done); }
};

// The waits of a receiver (shm/end.hh).
struct stream::receive_user {
    stream& s;
    receiving& r;
    shm::end& e;
    side_lock& lock;
    sleep& sleeps;

    bool looks() const noexcept { return s.look_before_sleep(r, e, lock); }
    void unlock() const noexcept {
        lock.release();
        end_turn();
        sleeps.begin();
    }
    bool over() const noexcept { return r.done >= r.enough || s.ends_here(r); }
    void broke_rules() const noexcept { s.break_with(EPROTO); }
    void left() const noexcept { s.other_end_gone(); }

    // The number may be another one afterwards.
    shm::woken wait(const std::optional<base::deadline>& until) {
        const size_t shows_from = e.readable_from;
        if (__builtin_expect(shows_from > 1, 0) && !r.dont_wait() && base::blocks(r.fd)) {
            e.readable_from = 1;  // this call takes each byte as it comes
        }
        const shm::woken woken = e.wait_readable(*this, r.wait, until);
        e.readable_from = shows_from;
        const int before = r.fd;
        sleeps.end();
        if (r.fd != before) [[unlikely]] {
            e.doorbell = shm::bell(r.fd, 0, &s.header().end[s.in()].flags);
        }
        return woken;
    }
};

// The ring is empty: is there an end, or an error? Then the call is over. Data may have come meanwhile. An error is
// taken only when the call will show it.
bool stream::ends_here(receiving& r) noexcept {
    const auto flags = end(r.fd).flags_at_end();
    if (!flags) {
        return false;
    }
    // The peer's end of file came before whatever broke afterwards: reading shows that, as the kernel does.
    if ((*flags & shm::ring_fin) != 0 || _page->shut_read.load(std::memory_order_acquire) != 0 ||
        _page->other_gone.load(std::memory_order_acquire) != 0) {
        return true;
    }
    if (const phase p = current(); broken() || p == phase::failed_untold || p == phase::undone) {
        r.errnum = r.done != 0 ? 0 : take_error(r.fd);
        return true;
    }
    if (current() == phase::failed) {
        r.errnum = ENOTCONN;
        return true;
    }
    return false;
}

// Only where a system call would sleep otherwise, and where a killed spinner leaves nobody behind. 0: not at all.
int64_t stream::look_limit_ns(int flags) noexcept {
    const bool may = (flags & (MSG_PEEK | MSG_DONTWAIT)) == 0 &&
                     _page->nonblocking.load(std::memory_order_relaxed) == 0 &&
                     _page->shared.load(std::memory_order_relaxed) == 0 && stands(_page->state.load());
    return may ? shm::spin_limit_ns() : 0;
}

uint64_t stream::bytes_sent() const noexcept { return header().ring[out()].head.load(std::memory_order_relaxed); }

// Nothing will follow what lies in the ring now.
bool stream::ending() noexcept { return turns_plain() || other_finished() || broken() || _page->shut_read.load() != 0; }

// Before it sleeps the call looks for a while, once after each success. Without the lock: a handler, or another thread,
// may read meanwhile. False: it did not look, and still holds the lock.
bool stream::look_before_sleep(receiving& r, shm::end& e, side_lock& lock) noexcept {
    if (r.looked) {
        return false;
    }
    const int64_t limit_ns = look_limit_ns(r.flags);
    if (!_page->spins.pays(limit_ns)) {
        return false;
    }
    r.looked = true;
    const shm::spin s = e.in.begin_spin(r.left());
    const shm::pace pace = _page->spins.awaits_answer(bytes_sent()) ? shm::tight : shm::gathering;
    lock.release();
    _page->spins.look(pace, limit_ns, [&]() noexcept { return e.in.spin_over(s); });
    return true;
}

// A little came, and more comes before this call could be made again: to return each time with a message or two costs
// an announcement, and the writer a token and a cache line for each. Only where nothing is sent the other way (nobody
// waits for an answer), and while it pays. Once a call. False: it did not gather, and still holds the lock.
bool stream::gather_more(receiving& r, shm::end& e, side_lock& lock) noexcept {
    if (r.gathered || r.done >= gather_below_bytes || r.done < r.enough) {
        return false;
    }
    const int64_t limit_ns = look_limit_ns(r.flags);
    if (!_page->gathers.pays(limit_ns) || _page->gathers.awaits_answer(bytes_sent())) {
        return false;
    }
    r.gathered = r.looked = true;
    const shm::spin s = e.in.begin_spin(r.left());
    const size_t enough = std::min<size_t>(r.left(), e.in.capacity() / 2);
    lock.release();
    _page->gathers.gather(
        limit_ns, [&]() noexcept { return e.in.gathered(s, enough); },
        [&]() noexcept { return e.in.gathered(s, gather_pays_times * r.done); });
    return true;
}

// MSG_PEEK: what lies in the ring, from its beginning or SO_PEEK_OFF. With MSG_WAITALL not before all of it is there,
// or no more can come; the descriptor is readable already, so only time can pass.
template <typename Drain>
stream::took stream::peek_some(receiving& r, shm::end& e, size_t there, Drain&& drain) {
    const int from = _page->peek_from.load(std::memory_order_relaxed);
    const auto skip = size_t(std::max(from, 0));
    if (skip >= there) {
        return took::nothing_behind;
    }
    const ssize_t used = drain(e.in.data(std::min(there - skip, r.wanted), skip), 0);
    if (used <= 0) {
        return used < 0 ? took::failed : took::finished;
    }
    if (!r.wants_all() || size_t(used) == r.wanted || there == e.in.capacity() || r.dont_wait() || r.wait.hung_up ||
        ending()) {
        r.done = size_t(used);
        if (from >= 0) {
            _page->peek_from.store(from + int(used), std::memory_order_relaxed);
        }
        return took::finished;
    }
    return took::too_short;
}

// Under the lock: what lies in the ring, as much as the call takes.
template <typename Drain>
stream::took stream::take_some(receiving& r, shm::end& e, side_lock& lock, Drain&& drain) {
    for (;;) {
        size_t there = 0;
        if (e.in.data_bytes(there) != shm::look::ok) {
            break_with(EPROTO);  // nothing here can be read any more, and the ring will never look empty
            r.errnum = r.done == 0 ? take_error(r.fd) : 0;
            return took::finished;
        }
        if (there == 0) {
            if (has_seen_urgent() && !r.peeks()) {
                go_past_urgent();
            }
            return took::empty;
        }
        const size_t upto = has_seen_urgent() ? up_to_urgent(e, there, r.peeks()) : there;
        if (upto == 0) {
            return took::empty;
        }
        if (r.peeks()) {
            return peek_some(r, e, upto, drain);
        }
        const size_t take = std::min({upto, r.left(), step_bytes});
        const ssize_t used = drain(e.in.data(take), r.done);
        if (used <= 0) {
            return r.done == 0 && used < 0 ? took::failed : took::finished;
        }
        e.in.consume(size_t(used));
        _received.store(_received.load(std::memory_order_relaxed) + size_t(used), std::memory_order_relaxed);
        if (const int from = _page->peek_from.load(std::memory_order_relaxed); from > 0) [[unlikely]] {
            _page->peek_from.store(std::max(from - int(used), 0), std::memory_order_relaxed);
        }
        r.done += size_t(used);
        r.wait.spurious = 0;
        r.looked = !r.takes_all;
        const bool at_mark = size_t(used) == upto && upto != there;  // a read ends before an urgent byte
        const bool took_all = size_t(used) + (at_mark && came_to_urgent(e) ? 1 : 0) == there;
        if (!at_mark && took_all && r.left() != 0 && gather_more(r, e, lock)) {
            return took::unlocked;
        }
        const bool now_empty = tell_writer(r, e, took_all);
        if (at_mark || r.left() == 0 || size_t(used) < take || (now_empty && r.done >= r.enough)) {
            return took::finished;
        }
    }
}

// The loop of this thread looks into the ring before it sleeps: nothing has to be announced now. Not for ever, though:
// a program that only reads, and waits for nothing, would not learn that the other side was killed.
bool stream::is_left_to_loop(const receiving& r) const noexcept {
    constexpr uint32_t found_nothing_max = 2;
    return _served_by.load(std::memory_order_relaxed) == this_thread() && !r.peeks() && !r.wants_all() &&
           (r.dont_wait() || _page->nonblocking.load(std::memory_order_relaxed) != 0) &&
           _page->holders.load(std::memory_order_relaxed) == 1 &&
           _found_nothing.load(std::memory_order_relaxed) < found_nothing_max;
}

// The ring is empty: what such a call returns.
ssize_t stream::leave_to_loop(const receiving& r, bool over) noexcept {
    _found_nothing.fetch_add(1, std::memory_order_relaxed);
    _unsettled.store(true, std::memory_order_relaxed);
    return over || r.done != 0 ? r.result() : fail(EAGAIN);
}

// After a read. True: the ring is empty, and this end is announced, or left to the loop.
bool stream::tell_writer(const receiving& r, shm::end& e, bool took_all) noexcept {
    if (is_left_to_loop(r)) {
        _found_nothing.store(0, std::memory_order_relaxed);
        _unsettled.store(true, std::memory_order_relaxed);
        e.left_some(false);
        return took_all;
    }
    const bool edges = _page->edges.load(std::memory_order_relaxed) != 0;
    if (!took_all) {
        if (__builtin_expect(e.readable_from > 1, 0) && e.in.is_below(e.readable_from)) {
            e.emptied();
        } else {
            e.left_some(edges);
        }
        return false;
    }
    if (__builtin_expect(has_seen_urgent(), 0) && keeps_urgent() && _page->watches_urgent.load() != 0) {
        return e.emptied(shm::tidy::but_last);
    }
    // A program that waits for edges and reads until EAGAIN does not mind a token left lying; unless another edge shows
    // IN by it, which is none of the data's.
    const bool lazy = r.done >= r.enough && edges && _page->out_edges.load(std::memory_order_relaxed) == 0 &&
                      _page->nonblocking.load(std::memory_order_relaxed) != 0;
    return e.emptied(lazy ? shm::tidy::lazily : shm::tidy::fully);
}

bool stream::wants_back(const receiving& r) const noexcept {
    return (called_back() & (r.stays ? uint32_t(shm::end_gone) : ~0u)) != 0;
}

// By the other end: to turn plain, or the daemon wants to leave.
bool stream::is_asked(const receiving& r) const noexcept {
    return wants_back(r) || (other_is_plain() && !is_ours_plain());
}

// Without the lock. True: the rest of the call is the kernel's.
bool stream::becomes_kernels(receiving& r) noexcept {
    if (wants_back(r)) {
        const goes how = go_back(r.fd);
        r.stays = how == goes::no;
        if (how == goes::gone) {
            return true;
        }
    }
    if (other_is_plain() && !is_ours_plain()) {
        follow_into_plain(r.fd);  // the other end waits for what it has not read
    }
    return false;
}

// The daemon may want to leave: who waits for IN before each read never calls with an empty ring.
ssize_t stream::result_of(receiving& r, side_lock& lock) noexcept {
    if (called_back() != 0) [[unlikely]] {
        lock.release();
        base::keep_errno([&] { return go_back(r.fd), 0; });
    }
    return r.result();
}

// plainly: the rest of the call, once the doorbell carries the bytes; it gets what was done before.
template <typename Drain, typename Plainly>
ssize_t stream::receive_loop(receiving r, Drain&& drain, Plainly&& plainly) {
    auto e = end(r.fd);
    e.readable_from = readable_from();
    side_lock lock(*this, e, side_lock::side::receives);
    sleep sleeps(*this, r.fd);
    receive_user user{*this, r, e, lock, sleeps};
    const auto until = r.dont_wait() ? std::optional(base::deadline(0)) : std::nullopt;
    for (;;) {
        if (!lock.take()) {
            return r.done != 0 ? ssize_t(r.done) : fail(EAGAIN);
        }
        if (is_asked(r)) [[unlikely]] {
            lock.release();
            if (becomes_kernels(r)) {
                return plainly(r.done);
            }
            if (!lock.take()) {
                return r.done != 0 ? ssize_t(r.done) : fail(EAGAIN);
            }
        }
        switch (is_plain() ? took::plain : take_some(r, e, lock, drain)) {
        case took::finished: return result_of(r, lock);
        case took::failed: return -1;
        case took::unlocked: continue;
        case took::plain: lock.release(); return plainly(r.done);
        case took::nothing_behind:
            if (r.dont_wait() || !base::blocks(r.fd) || ending()) {
                return ending() ? 0 : fail(EAGAIN);
            }
            [[fallthrough]];
        case took::too_short:
            lock.release();
            r.let_time_pass();
            continue;
        case took::empty: break;
        }
        if (turns_plain()) {
            lock.release();
            if (follow_into_plain(r.fd)) {
                continue;
            }
            if (!lock.take()) {
                return r.done != 0 ? ssize_t(r.done) : fail(EAGAIN);
            }
        }
        if (is_left_to_loop(r)) {
            return leave_to_loop(r, user.over());
        }
        const shm::woken woken = user.wait(until);
        switch (woken) {
        case shm::woken::look: break;
        case shm::woken::over: return r.result();
        case shm::woken::failed:
            return r.done != 0 ? ssize_t(r.done) : fail(r.wait.errnum == ETIMEDOUT ? EAGAIN : r.wait.errnum);
        }
    }
}

size_t stream::enough_of(size_t wanted, int flags) const noexcept {
    const size_t low = _page->lowat.load(std::memory_order_relaxed);
    return std::max<size_t>(1, (flags & MSG_WAITALL) != 0 ? wanted : std::min(low, wanted));
}

ssize_t stream::receive(int fd, const iovec* iov, size_t count, int flags) {
    const auto wanted = total_bytes(iov, count);
    if (!wanted) {
        return fail(EINVAL);
    }
    if ((flags & MSG_OOB) != 0 && !is_plain()) {
        return receive_urgent(fd, iov, count, flags);
    }
    if ((flags & MSG_ERRQUEUE) != 0) {
        return fail(EAGAIN);
    }
    if (is_plain()) {
        return receive_plain(fd, iov, count, flags, 0);
    }
    iov_cursor at(iov, count);
    auto drain = [&](const shm::pieces& from, size_t done) -> ssize_t {
        if ((flags & MSG_TRUNC) != 0) {
            return ssize_t(from.bytes());
        }
        if (done == 0) {
            at = iov_cursor(iov, count);  // a repeated peek begins anew
        }
        for (const iovec& piece : from.iov) {
            at.each(piece, [](std::byte* ring, std::byte* user, size_t n) noexcept { memcpy(user, ring, n); });
        }
        return ssize_t(from.bytes());
    };
    return noted(fd, receive_loop({fd, flags, *wanted, true, enough_of(*wanted, flags)}, drain,
                                  [&](size_t done) { return receive_plain(fd, iov, count, flags, done); }));
}

ssize_t stream::receive_to_pipe(int fd, int pipe, size_t n) {
    auto drain = [&](const shm::pieces& from, size_t) -> ssize_t {
        return sys::call(SYS_pwritev2, pipe, from.iov.data(), from.count(), -1L, -1L, RWF_NOWAIT);
    };
    return noted(fd, receive_loop({fd, 0, n, false, 1}, drain, [&](size_t done) -> ssize_t {
                     return done != 0 ? ssize_t(done)
                            : may_wait_there()
                                ? fail(EINVAL)
                                : sys::call(SYS_splice, fd, nullptr, pipe, nullptr, n, SPLICE_F_NONBLOCK);
                 }));
}

}  // namespace vmsgr::client
