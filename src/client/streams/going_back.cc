// The daemon is to be removed, and this connection becomes the kernel's again: the number gets the TCP socket itself,
// and nothing of ours stays behind it.
//
// The daemon marks the connection in its flags and sends a token; the program asks at its next call. It asks under its
// send lock, so nothing is published meanwhile, and the daemon grants it where both rings are empty: then all that
// was sent is in the socket, and all that comes is there, too. So nothing has to be moved or counted. Where a ring is
// not empty the daemon helps: it holds the writer up until its bytes have left (end_hold), or does not read the socket
// for a moment, until what came is read.
//
// A question may be given up, or its asker killed, before the answer; others would publish then. So the daemon grants
// it in the asker's own word, and only as long as that says that it asks. Whoever publishes takes that back first.
//
// Processes that share the connection ask for themselves, each for its own numbers, at any time after.
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/clock.hh"
#include "base/signal_lock.hh"
#include "base/sys.hh"
#include "base/unique_fd.hh"
#include "client/kept_fds.hh"
#include "client/streams/side_lock.hh"
#include "client/streams/stream.hh"

namespace vmsgr::client {

namespace {

// The daemon has let go of it, so it has the socket for whoever asks; where its worker was killed, the next one has.
constexpr int gone_patience_ms = 5000;
// For threads that sleep on the doorbell and have been woken.
constexpr int sleepers_patience_ms = 200;

bool is_empty(const shm::ring_words& r) noexcept {
    return r.head.load(std::memory_order_acquire) == r.tail.load(std::memory_order_acquire);
}

void set(int socket, int level, int name, int value) noexcept {
    sys::setsockopt(socket, level, name, &value, sizeof value);
}

bool is_worth_another_try(int answer) noexcept { return answer < 0 && answer != -ENOSYS && answer != -EPERM; }

void nap() noexcept {
    constexpr timespec t{0, 1'000'000};
    sys::call(SYS_nanosleep, &t, nullptr);
}

}  // namespace

bool stream::out_ring_is_empty() const noexcept { return is_empty(header().ring[out()]); }

// Under the send lock. False: the daemon has granted it.
bool stream::withdraw_question() noexcept {
    auto& word = flags();
    uint32_t seen = word.load(std::memory_order_acquire);
    while ((seen & shm::end_granted) == 0) {
        if (word.compare_exchange_weak(seen, seen & ~uint32_t(shm::end_asks), std::memory_order_seq_cst)) {
            return true;
        }
    }
    return false;
}

// What the socket is to be that was set on this end alone, or changed by the daemon.
void stream::dress(int socket) noexcept {
    auto& p = *_page;
    p.options.move_to(socket);
    set(socket, SOL_SOCKET, SO_OOBINLINE, int(p.urgent_inline.load()));
    if (const uint32_t low = p.lowat.load(); low > 1) {
        set(socket, SOL_SOCKET, SO_RCVLOWAT, int(low));
    }
    if (p.shut_read.load() != 0) {
        sys::call(SYS_shutdown, socket, SHUT_RD);
    }
}

// The send lock is held.
bool stream::may_ask() const noexcept {
    const uint32_t there = called_back();
    if (!stands(_page->state.load(std::memory_order_acquire)) || turns_plain() || is_plain() ||
        _page->reset_seen.load() != 0 || _page->urgent_met.load() != 0 || _page->peek_from.load() >= 0) {
        return false;
    }
    return (there & shm::end_hold) != 0 ? out_ring_is_empty() : is_empty(header().ring[in()]);
}

// The daemon has woken them (vm_conn::leave_to_program), and our locks keep them from sleeping anew. The kernel looks
// again by the number before poll() returns: where that is the socket by then, and not ready, poll sleeps on, and
// only the doorbell could wake it.
void stream::await_sleepers() const noexcept {
    for (const base::deadline until(sleepers_patience_ms); sleepers() != 0 && until.left_ms() != 0;) {
        nap();
    }
}

stream::goes stream::go_back(int fd) noexcept {
    if (went_back()) {
        return goes::gone;
    }
    if (called_back() == 0 || _page->reset_seen.load(std::memory_order_acquire) != 0) {
        return goes::no;
    }
    send_late_token(fd);
    auto e = end(fd);
    // A reader takes tokens by the number: it must be done before that is the socket, whose bytes are no tokens.
    side_lock receives(*this, e, side_lock::side::receives), sends(*this, e, side_lock::side::sends);
    if (!receives.take() || !sends.take()) {
        return goes::no;  // a handler above this thread's own call
    }
    base::signals_blocked together;
    if (went_back()) {
        return goes::gone;
    }
    const bool asks = (called_back() & shm::end_gone) == 0 && withdraw_question();
    if (asks && !may_ask()) {
        return goes::not_now;
    }
    if (asks) {
        flags().fetch_or(shm::end_asks, std::memory_order_seq_cst);
    }
    int socket = ask_back(fd, _page->id);
    if (socket < 0 && asks && withdraw_question()) {
        return socket == -EAGAIN ? goes::not_now : goes::no;
    }
    // Granted, to us or to a relative: the socket is there, at the latest in a moment.
    for (const base::deadline until(gone_patience_ms); is_worth_another_try(socket) && until.left_ms() != 0;) {
        nap();
        socket = ask_back(fd, _page->id);
    }
    if (socket == -EPERM) {
        return goes::no;  // the child of a vfork, whose numbers are its parent's
    }
    if (socket < 0) {
        break_with(ECONNRESET);
        return goes::no;
    }
    base::unique_fd owned(socket);
    // A relative that was faster may have set it otherwise since.
    const bool first = (flags().load(std::memory_order_acquire) & shm::end_recalled) == 0;
    if (first) {
        dress(socket);
        flags().fetch_or(shm::end_recalled, std::memory_order_seq_cst);
    }
    _went_back.store(true, std::memory_order_seq_cst);
    await_sleepers();
    become_socket(fd, socket, first);
    give_up_hold();
    return goes::gone;
}

}  // namespace vmsgr::client
