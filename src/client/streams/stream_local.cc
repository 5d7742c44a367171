// What a kernel does at the ends of a TCP connection, between two programs that share a conduit: nobody else sees both
// ends. A program that closes says so in its ring; one that is killed, or exits, shows it by its doorbell's hang-up.
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/sys.hh"
#include "client/streams/stream.hh"
#include "proto/control.hh"

namespace vmsgr::client {

// The doorbell has hung up, and neither fin nor reset stands in the ring. The daemon leaves so only when it dies.
// Another program was killed, or exited: what it has not read decides between reset and end of file, as in the kernel.
void stream::other_end_gone() noexcept {
    if (is_local()) {
        auto& h = header();
        bool accepted = out() == 1 || (h.end[in()].flags.load(std::memory_order_acquire) & shm::end_accepted) != 0;
        auto& ring = h.ring[out()];
        if (accepted && ring.head.load(std::memory_order_acquire) == ring.tail.load(std::memory_order_acquire)) {
            receiver().take_what_was_held_back();
            _page->other_gone.store(1, std::memory_order_release);
            return;
        }
    }
    break_with(ECONNRESET);
}

// Every holder of the other end is gone: HUP without our own shutdown.
bool stream::hung_up(int fd) const noexcept {
    if (_page->shut_write.load(std::memory_order_acquire) != 0) {
        return false;
    }
    pollfd p{fd, 0, 0};
    return sys::poll(&p, 1, 0) == 1 && (p.revents & POLLHUP) != 0;
}

bool stream::other_finished() const noexcept {
    return (receiver().flags() & shm::ring_fin) != 0 || _page->other_gone.load(std::memory_order_acquire) != 0;
}

// Does anybody take what is sent now?
stream::listens stream::other_listens(int fd) const noexcept {
    uint32_t there = header().end[in()].flags.load(std::memory_order_relaxed);
    bool finished = (receiver().flags() & shm::ring_fin) != 0;
    if (__builtin_expect((there & (shm::end_left | shm::end_read_shut)) == 0 && !finished, 1)) {
        return _page->other_gone.load(std::memory_order_relaxed) == 0 ? listens::yes : listens::gone;
    }
    if ((there & shm::end_left) != 0 || ((there & shm::end_read_shut) != 0 && finished)) {
        return listens::gone;
    }
    if ((there & shm::end_read_shut) != 0) {
        return listens::not_any_more;
    }
    return hung_up(fd) ? listens::gone : listens::yes;  // it has half closed, and may have ended since
}

// The other program has closed: its kernel would take these bytes, and answer with a reset, which the next call and
// poll show. That end of the doorbell may lie among our own tokens (leave); with them taken it closes, and a token that
// it has not read makes the hang-up an error.
void stream::send_into_nothing(int fd) noexcept {
    break_with(EPIPE);
    shm::bell b(fd);
    b.send_token();
    b.drain();
}

void stream::add_holder() noexcept {
    _page->shared.store(1, std::memory_order_relaxed);
    flags().fetch_or(shm::end_shared, std::memory_order_relaxed);
    _page->holders.fetch_add(1, std::memory_order_relaxed);
}

void stream::give_up_hold() noexcept {
    if (_page->holders.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        _page->over.store(1, std::memory_order_release);
    }
}

void stream::close_last(int fd, bool may_linger) noexcept {
    give_up_hold();
    if (turns_plain() && _page->over.load(std::memory_order_acquire) != 0) {
        follow_into_plain(fd);
        pay_at_close(fd);
        flags().fetch_or(shm::end_left, std::memory_order_release);
        return;  // what is unread in the doorbell makes it a reset
    }
    if (_page->over.load(std::memory_order_acquire) == 0) {
        return;
    }
    const bool urgent_left = _page->urgent_met.load(std::memory_order_relaxed) != 0;
    linger how{};
    socklen_t len = sizeof how;
    bool abort = _page->options.find(SOL_SOCKET, SO_LINGER, &how, len) && how.l_onoff != 0 && how.l_linger == 0;
    if (!is_local()) {
        // Unread, and the ring no longer shows it; or the daemon was away when it was set on the socket.
        if (urgent_left || abort) {
            reset_peer();
        }
        await_port(fd);
        return;
    }
    if (broken()) {
        flags().fetch_or(shm::end_left, std::memory_order_release);
        proto::drop_unread(fd);  // who broke the rules may send a socket still whose last close waits
        return;
    }
    if (abort || unread_bytes(fd) != 0 || urgent_left) {
        reset_peer();
        return;  // the hang-up follows, and tokens that lie unread here make it an error
    }
    if (_page->shared.load() == 0) {
        // The open file may stay at the other end for a while, which is not to know it again.
        shm::mark_bell(fd, 0);
    }
    bool had_shut = _page->shut_write.exchange(1, std::memory_order_acq_rel) != 0;
    show_rest();
    sender().set_flags(shm::ring_fin);
    flags().fetch_or(shm::end_left, std::memory_order_release);
    if (may_linger && _page->shared.load() == 0 && !had_shut && !other_finished()) {
        // TCP shows an end of file now, and a hang-up only when the other side has closed as well. So our end stays
        // open, in a message that lies at the other end until that is closed.
        if (proto::send_with_fds(fd, &shm::token_byte, 1, {&fd, 1}, MSG_DONTWAIT) == 0) {
            sys::call(SYS_shutdown, fd, SHUT_WR);
            return;
        }
    }
    shm::bell(fd).drain();
}

// The daemon holds the port until it has closed the socket. Where the program chose it, and the kernel would free it
// with close() (the peer has ended before), close() waits for that.
void stream::await_port(int fd) noexcept {
    constexpr int64_t look_ns = 50'000;
    constexpr int patience_ms = 100;
    if (_page->port_bound.load(std::memory_order_relaxed) == 0 || !other_finished()) {
        return;
    }
    flags().fetch_or(shm::end_left, std::memory_order_release);
    sys::call(SYS_shutdown, fd, SHUT_RDWR);  // a hang-up for the daemon
    const auto& theirs = header().end[in()].flags;
    const base::deadline until(patience_ms);
    for (const int64_t began_ns = base::now_ns();
         (theirs.load(std::memory_order_acquire) & shm::end_done) == 0 && until.left_ms() != 0;) {
        if (base::now_ns() - began_ns < look_ns) {
            sys::call(SYS_sched_yield);
            continue;
        }
        constexpr timespec pause{0, look_ns};
        sys::call(SYS_nanosleep, &pause, nullptr);
    }
}

void stream::recycle() noexcept {
    if (_page == nullptr) {
        return;
    }
    if (_next_socket >= 0) {
        sys::close(std::exchange(_next_socket, -1));
    }
    const bool over = _page->over.load(std::memory_order_acquire) != 0;
    const bool shared = _page->shared.load(std::memory_order_relaxed) != 0;
    if (over) {
        _page->magic.store(0, std::memory_order_release);
        // Both ends have said so: the slot serves the next connection.
        flags().fetch_or(shm::end_left | shm::end_done, std::memory_order_release);
    }
    _page = nullptr;
    _held_page.release(over && !shared);
    *this = stream();
}

held_memory stream::take_memory() noexcept {
    held_memory slot = std::move(_slot);
    _page->magic.store(0, std::memory_order_release);
    _page = nullptr;
    _held_page.release(true);
    *this = stream();
    return slot;
}

void stream::reset_peer() noexcept {
    sender().reset(ECONNRESET);
    flags().fetch_or(shm::end_left, std::memory_order_release);
}

}  // namespace vmsgr::client
