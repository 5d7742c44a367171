// Plain mode: the doorbell itself carries the bytes, for a holder without the library (a static program, a cleared
// environment, stdio inside libc). The end that wants it asks in its flags; the other agrees at its next call, or at
// once if it sleeps in one. For each direction, in this order: what lies in the ring, the tokens that were counted,
// plain bytes. So each side knows by counting where the bytes begin.
//
// What the asking end has not read yet it cannot read any more: the other sends it anew, through the doorbell. What the
// other has not read it takes from the ring, as ever.
//
// A doorbell that the other end has shut down carries no more bytes to the asking one. Then both move to another
// socket, which the asking end makes and sends with its last token. (Relatives of the asking process that hold the
// connection too do not get it: they find it ended. A doorbell that carries on is theirs as well, so it is
// preferred.)
//
// How it is asked for is here; plain_calls.cc has the calls on such a connection. Locks: recv_lock, then send_lock.
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include <algorithm>

#include "base/clock.hh"
#include "base/sockets.hh"
#include "base/sys.hh"
#include "base/unique_fd.hh"
#include "client/kept_fds.hh"
#include "client/streams/side_lock.hh"
#include "client/streams/stream.hh"
#include "proto/control.hh"

namespace vmsgr::client {

namespace {

// A daemon agrees in its reactor's next turn, a program that sleeps on this connection when its token wakes it. One
// that does not is elsewhere, outside this library, so no token of its is under way: it agrees at its next call.
constexpr int agree_daemon_ms = 5000;
constexpr int agree_program_ms = 50;
constexpr int tokens_under_way_ms = 1000;

ssize_t send_pieces(int socket, const shm::pieces& p) noexcept {
    msghdr m{};
    m.msg_iov = const_cast<iovec*>(p.iov.data());
    m.msg_iovlen = size_t(p.count());
    return sys::call(SYS_sendmsg, socket, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
}

// In a process of its own, which nobody waits for: writes all of it and ends the socket's output. For what does not fit
// into the socket, when nobody else is left to send it. False: no process.
bool feed(int socket, shm::pieces rest) noexcept {
    // Without SIGCHLD, of which the program would be told.
    const long child = sys::call(SYS_clone, 0, nullptr, nullptr, nullptr, nullptr);
    if (child != 0) {
        int status = 0;
        return child > 0 && sys::call(SYS_wait4, child, &status, __WALL, nullptr) == child;
    }
    if (sys::call(SYS_clone, 0, nullptr, nullptr, nullptr, nullptr) != 0) {
        sys::call(SYS_exit_group, 0);  // so that the writer is nobody's child
    }
    // The other descriptors of the program must not stay open here.
    const auto low = unsigned(socket);
    if (low != 0) {
        sys::call(SYS_close_range, 0u, low - 1, 0);
    }
    sys::call(SYS_close_range, low + 1, ~0u, 0);
    while (rest.bytes() != 0) {
        pollfd p{socket, POLLOUT, 0};
        const ssize_t n = sys::poll(&p, 1, -1) == 1 ? send_pieces(socket, rest) : -1;
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            break;
        }
        for (size_t left = size_t(std::max<ssize_t>(n, 0)); left != 0;) {
            auto& piece = rest.iov[0].iov_len != 0 ? rest.iov[0] : rest.iov[1];
            const size_t step = std::min(left, piece.iov_len);
            piece.iov_base = static_cast<std::byte*>(piece.iov_base) + step;
            piece.iov_len -= step;
            left -= step;
        }
        if (rest.iov[0].iov_len == 0) {
            std::swap(rest.iov[0], rest.iov[1]);
        }
    }
    sys::call(SYS_shutdown, socket, SHUT_WR);
    sys::call(SYS_exit_group, 0);
    __builtin_unreachable();
}

// What stands behind the number shows ECONNRESET from now on, to whoever has it: the doorbell holds tokens, and perhaps
// bytes out of order.
void put_reset_socket(int fd) noexcept {
    auto made = shm::make_bell();
    if (made && shm::bell(made->program.get()).send_token()) {
        made->other.reset();  // with that unread
        replace_fd(fd, made->program.get());
    }
}

void nap() noexcept {
    const timespec t{0, 50'000};
    sys::call(SYS_nanosleep, &t, nullptr);
}

}  // namespace

// The send lock is held. The last token is counted before this, as its count is part of what the other end is told.
void stream::send_plainly(int socket, uint32_t how) noexcept {
    shm::tune_plain(socket, sender().most_unread());
    show_rest();
    flags().fetch_or(how, std::memory_order_seq_cst);
}

// The send lock is held. What the other end left in our ring goes through the socket, as far as that takes it now;
// the rest is `owed`. False: a tail that cannot be, or who did this before was killed, or jumped away, when it had sent
// a piece and not noted that.
bool stream::move_unread(int socket) noexcept {
    auto& p = *_page;
    if ((header().end[in()].flags.load(std::memory_order_acquire) & shm::end_reads_plain) == 0) {
        return true;  // it reads the ring
    }
    p.moved = std::max(p.moved, header().ring[out()].tail.load(std::memory_order_acquire));
    if (p.moved > p.tx.head || p.tx.head - p.moved > _memory.capacity || p.moving.exchange(1) != 0) {
        return false;
    }
    bool goes_on = true;
    while (goes_on && p.moved != p.tx.head) {
        const auto from = shm::ring_pieces(_memory.ring_data(int(out())), _memory.capacity, p.moved - p.tx.base,
                                           size_t(p.tx.head - p.moved));
        const ssize_t n = send_pieces(socket, from);
        p.moved += uint64_t(std::max<ssize_t>(n, 0));
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            p.moved = p.tx.head;  // it is gone: nobody misses them
        }
        goes_on = n >= 0 || errno == EINTR;
    }
    p.moving.store(0);
    const uint32_t owes = p.moved != p.tx.head ? 1 : 0;
    if (p.owes.exchange(owes, std::memory_order_acq_rel) != owes) {
        streams_that_owe.fetch_add(owes != 0 ? 1 : -1, std::memory_order_relaxed);
        if (owes == 0 && p.shut_write.load(std::memory_order_acquire) != 0) {
            sys::call(SYS_shutdown, socket, SHUT_WR);  // it came before, and waited
        }
    }
    return true;
}

// No holder of either end was killed where a token may have been counted and not sent, or taken and not counted.
bool stream::counts_tokens(const shm::end& e) const noexcept {
    return !_page->rx.inexact && ((e.in.flags() | e.out.flags_set()) & shm::ring_inexact) == 0;
}

void stream::break_off(int fd) noexcept {
    break_with(ECONNRESET);
    reset_peer();
    _page->plain.store(1, std::memory_order_release);
    sys::call(SYS_shutdown, fd, SHUT_RDWR);  // for those that wait, at both ends
}

// Every token that the other end has counted. False: some are still under way.
bool stream::take_last_tokens(int fd, const base::deadline& until) noexcept {
    shm::bell b(fd);
    for (auto r = receiver(); !r.take_counted(b);) {
        pollfd p{fd, POLLIN, 0};
        if (until.left_ms() == 0 || sys::poll(&p, 1, until.left_ms()) == 0) {
            return false;
        }
        int gone = 0;
        if (shm::look_at_bell(fd, false, gone) == shm::bell_look::hangup) {
            return true;
        }
    }
    return true;
}

// The other end has asked too, in the same moment: each agrees to the other. False: it has moved, or does not ask.
bool stream::agree_to_asking_end() noexcept {
    auto& asked = header().end[in()].flags;
    uint32_t word = asked.load(std::memory_order_acquire);
    while ((word & shm::end_reads_plain) != 0 && (word & (shm::end_moved | shm::end_agreed)) == 0) {
        if (asked.compare_exchange_weak(word, word | shm::end_agreed, std::memory_order_seq_cst)) {
            return true;
        }
    }
    return (word & shm::end_agreed) != 0;
}

// Whether the other end has agreed, or had asked before. Both locks are held.
bool stream::await_other_plain(int fd, const base::deadline& limit) noexcept {
    const base::deadline until = limit.sooner(is_local() ? agree_program_ms : agree_daemon_ms);
    for (;;) {
        const bool agreed = (flags().load(std::memory_order_acquire) & shm::end_agreed) != 0;
        const bool mutual = is_local() && agree_to_asking_end();
        if (agreed || mutual) {
            return true;
        }
        pollfd p{fd, 0, 0};
        const bool gone = sys::poll(&p, 1, 0) == 1 && (p.revents & POLLHUP) != 0;
        if (gone || (receiver().flags() & shm::ring_fin) != 0 || until.left_ms() == 0) {
            return false;
        }
        nap();
    }
}

// The other end had asked before, and is not heard of: it is plain already. What it has sent by the ring nobody sends
// anew, and what it sends now stands in the doorbell, which is to come behind it.
bool stream::is_too_late(const shm::end& e, const base::deadline& limit) const noexcept {
    const base::deadline until = limit.sooner(tokens_under_way_ms);
    while (e.in.has_data() && (flags().load(std::memory_order_acquire) & shm::end_agreed) == 0) {
        if (until.left_ms() == 0) {
            return true;
        }
        nap();
    }
    return false;
}

// Both locks are held.
bool stream::turn_plain_here(int fd, shm::end& e, const base::deadline& until) noexcept {
    const bool asked_before = is_local() && other_is_plain();
    if (!is_ours_plain()) {
        e.in.stay_awake();
        const bool rings = e.doorbell.writable();  // else tokens lie there unread, and wake it
        if (rings) {
            e.out.count_token();
        }
        send_plainly(fd, shm::end_plain | shm::end_reads_plain);
        if (rings) {
            e.doorbell.send_token();
        }
    }
    const bool agreed = await_other_plain(fd, until);
    if (asked_before && is_too_late(e, until)) {
        return false;
    }
    if ((header().end[in()].flags.load(std::memory_order_acquire) & shm::end_moved) != 0) {
        return false;  // both have moved: neither will find the other
    }
    // It has shut down meanwhile; or it is asleep elsewhere, and what it has sent must not wait until it looks.
    const bool finished = other_finished();
    if (!agreed && (finished || (is_local() && e.in.has_data()))) {
        const moves moved = move_to_new_socket(fd, e, finished, until);
        if (moved != moves::not_now) {
            return moved == moves::done;
        }
    }
    // A program that has not agreed yet has sent nothing but tokens.
    const bool follows = agreed || (flags().load(std::memory_order_acquire) & shm::end_agreed) != 0;
    if (follows && is_local()) {
        agree_to_asking_end();  // it may wait for that (is_too_late)
    }
    return (follows || is_local()) && counts_tokens(e) &&
           take_last_tokens(fd, follows ? until.sooner(tokens_under_way_ms) : base::deadline(0)) &&
           !e.doorbell.foreign() && (!follows || move_unread(fd));
}

// All of the ring, from a socket that nobody else sends on yet; `ends`: and then the end of file. Both locks are held.
bool stream::fill(int socket, shm::end& e, bool ends) noexcept {
    size_t there = 0;
    if (e.in.data_bytes(there) != shm::look::ok) {
        return false;
    }
    const ssize_t n = there != 0 ? send_pieces(socket, e.in.data(there)) : 0;
    const size_t fits = size_t(std::max<ssize_t>(n, 0));
    if (fits == there) {
        if (ends) {
            sys::call(SYS_shutdown, socket, SHUT_WR);
        }
        return true;
    }
    return ends && feed(socket, e.in.data(there - fits, fits));
}

// The other end sends no more through this doorbell (finished), or is not expected to look soon. Both locks are held.
// not_now: it has agreed just now, or what lies in the ring does not fit into a socket.
stream::moves stream::move_to_new_socket(int fd, shm::end& e, bool finished, const base::deadline& limit) noexcept {
    auto made = shm::make_bell();
    if (!made) {
        return moves::lost;
    }
    const int ours = made->program.get(), theirs = made->other.get();
    for (int half : {ours, theirs}) {
        shm::tune_plain(half, sender().most_unread());
    }
    if (!shm::bell(ours).send_token()) {  // the resident one
        return moves::lost;
    }
    // The daemon sends what lies in the ring by itself.
    if (is_local() && !fill(theirs, e, finished)) {
        return finished ? moves::lost : moves::not_now;
    }
    e.in.stay_awake();
    show_rest();
    constexpr uint32_t all = shm::end_plain | shm::end_reads_plain | shm::end_moved;
    uint32_t word = flags().load(std::memory_order_acquire);
    do {
        if ((word & shm::end_agreed) != 0) {
            return moves::not_now;
        }
    } while (!flags().compare_exchange_weak(word, word | all, std::memory_order_seq_cst));
    const uint32_t there = header().end[in()].flags.load(std::memory_order_acquire);
    const bool ended = _page->shut_write.load(std::memory_order_acquire) != 0;
    if (ended || (there & shm::end_left) != 0 || hung_up(fd)) {
        if (!is_local()) {
            return moves::lost;
        }
        shm::bell(theirs).drain();
        if (ended) {
            sys::call(SYS_shutdown, ours, SHUT_WR);
        }
    } else {
        // Counted after it was said (shm::bell::take_tokens).
        e.out.count_token();
        const base::deadline until = limit.sooner(tokens_under_way_ms);
        int err = EAGAIN;
        while ((err = proto::send_with_fds(fd, &shm::token_byte, 1, {&theirs, 1}, MSG_DONTWAIT)) == EAGAIN) {
            pollfd p{fd, POLLOUT, 0};
            if (until.left_ms() == 0 || sys::poll(&p, 1, until.left_ms()) <= 0) {
                return moves::lost;
            }
        }
        if (err != 0 && err != EPIPE && err != ECONNRESET) {  // it went away just now
            return moves::lost;
        }
    }
    move_to(fd, ours);
    return moves::done;
}

void stream::move_to(int fd, int socket) noexcept {
    _page->moved_to.store(base::socket_cookie(socket), std::memory_order_release);
    replace_fd(fd, socket);
}

bool stream::is_left_behind(int fd) const noexcept {
    const uint64_t to = _page->moved_to.load(std::memory_order_acquire);
    return to != 0 && is_plain() && base::socket_cookie(fd) != to;
}

bool stream::become_plain(int fd, const base::deadline& until, proto::plain_cause why) noexcept {
    if (is_left_behind(fd)) {
        put_reset_socket(fd);
        return false;
    }
    if (is_plain() || goes_back(fd)) {
        return true;
    }
    if (!stands(current()) || broken()) {
        return false;
    }
    send_late_token(fd);
    show_late_bytes(fd, 0);
    auto e = end(fd);
    side_lock receives(*this, e, side_lock::side::receives), sends(*this, e, side_lock::side::sends);
    if (!receives.take() || !sends.take()) {
        return false;  // in a signal handler, above a call on this very connection
    }
    if (is_plain()) {
        return true;
    }
    // Killed, it has sent no fin: what it has not read of ours makes that a reset, as in the kernel.
    if (is_local() && !other_finished() && hung_up(fd)) {
        other_end_gone();
    }
    if (!other_is_plain()) {
        flags().fetch_or(uint32_t(why) << shm::end_cause_shift, std::memory_order_relaxed);
    }
    const bool finished = other_finished() && !broken();
    // In another socket no tokens have to be counted.
    const bool moves_on = (finished || !counts_tokens(e)) && !other_is_plain();
    // Where this end has followed the other already, nobody is left who could send anew what lies in the ring.
    const bool possible = (moves_on || counts_tokens(e)) && !(is_ours_plain() && e.in.has_data());
    if (!possible ||
        !(moves_on ? move_to_new_socket(fd, e, finished, until) == moves::done : turn_plain_here(fd, e, until))) {
        break_off(fd);
        put_reset_socket(fd);
        return false;
    }
    _page->plain.store(1, std::memory_order_release);
    note_plain();
    return true;
}

// The other end has shut this doorbell's other direction down, or we have: it sends a new socket with its last token.
// Both locks are held. False: it is under way.
bool stream::take_new_socket(int fd) noexcept {
    if (_next_socket < 0) {
        _next_socket = proto::take_moved_socket(fd, _page->rx.tokens_taken).release();
        if (_next_socket < 0) {
            return false;
        }
        _page->shared_socket.store(1, std::memory_order_relaxed);
        shm::bell(_next_socket).take_tokens(shm::resident_tokens);
    }
    return true;
}

// The other end has asked, and both locks are free. True: the doorbell carries the bytes now. False: more lies in the
// ring, or what the other end promised is under way. What it is to get is sent in any case.
bool stream::follow_into_plain(int fd) noexcept {
    if (is_plain()) {
        return true;
    }
    auto e = end(fd);
    side_lock receives(*this, e, side_lock::side::receives), sends(*this, e, side_lock::side::sends);
    if (!receives.take() || !sends.take()) {
        return false;
    }
    if (is_plain() || !other_is_plain() || broken()) {
        return is_plain();
    }
    auto& asked = header().end[in()].flags;
    const bool shut = _page->shut_write.load(std::memory_order_acquire) != 0;
    uint32_t word = asked.load(std::memory_order_acquire);
    if ((word & shm::end_moved) == 0 && shut && !is_ours_plain()) {
        return false;  // the other end finds that out, and moves
    }
    while ((word & (shm::end_moved | shm::end_agreed)) == 0 &&
           !asked.compare_exchange_weak(word, word | shm::end_agreed, std::memory_order_seq_cst)) {
    }
    const bool moved = (word & shm::end_moved) != 0;
    if (moved && !take_new_socket(fd)) {
        return false;
    }
    const int socket = moved ? _next_socket : fd;
    if (!is_ours_plain()) {
        send_plainly(socket, shm::end_plain);
    }
    // Of an end that has moved, the asking one sends the rest itself.
    if (!moved && (!counts_tokens(e) || !move_unread(socket))) {
        break_off(fd);
        return false;
    }
    if (e.in.has_data() || (!moved && !take_last_tokens(fd, base::deadline(0)))) {
        return false;
    }
    if (moved) {
        if (_page->shut_read.load(std::memory_order_acquire) != 0) {
            sys::call(SYS_shutdown, socket, SHUT_RD);
        }
        move_to(fd, socket);
        base::unique_fd(std::exchange(_next_socket, -1)).reset();
    }
    _page->plain.store(1, std::memory_order_release);
    note_plain();
    return true;
}

}  // namespace vmsgr::client
