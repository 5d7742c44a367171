#include "client/streams/stream.hh"

#include <errno.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <new>

#include "base/assert.hh"
#include "base/sockets.hh"
#include "base/sys.hh"
#include "client/kept_fds.hh"
#include "client/streams/side_lock.hh"

namespace vmsgr::client {

namespace {

// What TCP's two sockets on one host take while nobody reads, with Linux's defaults: measured; receive_buffer_bytes is
// the other one.
constexpr uint64_t send_buffer_bytes = 4u << 20;

void init_lock(pthread_mutex_t& m) noexcept {
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    // A signal handler that meets its own thread's lock gets EDEADLK instead of waiting for ever.
    pthread_mutexattr_settype(&a, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&m, &a);
    pthread_mutexattr_destroy(&a);
}

}  // namespace

const char* implausible(const end_page& p, uint64_t capacity) noexcept {
    if (p.which > 1 || (p.other != far_end::daemon && p.other != far_end::program) ||
        p.state.load(std::memory_order_relaxed) > phase::undone || (p.family != AF_INET && p.family != AF_INET6)) {
        return "a state that does not exist";
    }
    if (p.tx.head - p.tx.tail_seen > capacity || p.rx.head_seen - p.rx.tail > capacity) {
        return "an index beyond the ring";
    }
    return nullptr;
}

stream stream::create(held_memory slot, held_memory page, phase state, uint64_t id, unsigned which,
                      far_end other) noexcept {
    static_assert(sizeof(end_page) <= end_page_bytes);
    stream s;
    s._memory = slot.conduit();
    s._slot = std::move(slot);
    s._held_page = std::move(page);
    s._page = new (s._held_page.page()) end_page{};
    init_lock(s._page->send_lock);
    init_lock(s._page->recv_lock);
    s._page->state.store(state, std::memory_order_relaxed);
    s._page->id = id;
    s._page->which = uint16_t(which);
    s._page->other = other;
    s._page->holders.store(1, std::memory_order_relaxed);
    s._page->peek_from.store(-1, std::memory_order_relaxed);
    s.bound_buffers({});
    s._page->magic.store(end_page_magic, std::memory_order_release);
    return s;
}

stream stream::adopt(held_memory slot, held_memory page) noexcept {
    stream s;
    auto* p = reinterpret_cast<end_page*>(page.page());
    const auto memory = slot.conduit();
    if (p->magic.load(std::memory_order_acquire) != end_page_magic || implausible(*p, memory.capacity) != nullptr) {
        return s;
    }
    s._memory = memory;
    s._slot = std::move(slot);
    s._held_page = std::move(page);
    s._page = p;
    s.add_holder();
    s.show_when_used();
    return s;
}

void stream::start_connecting(int fd) noexcept {
    shm::bell b(fd);
    auto& sent = header().ring[out()].tokens_sent;
    while (b.writable()) {
        sent.fetch_add(1, std::memory_order_relaxed);
        if (VMSGR_NEVER(!b.send_token())) {
            sent.fetch_sub(1, std::memory_order_relaxed);
            return;
        }
    }
}

phase stream::current(int fd) noexcept {
    phase p = _page->state.load(std::memory_order_acquire);
    if (p != phase::connecting) {
        return p;
    }
    const bool left = fd >= 0 && hung_up(fd);  // what the daemon had decided stood there before
    // It writes addresses and error before status.
    uint32_t status = header().status.load(std::memory_order_acquire);
    phase next = phase::connecting;
    if (status == shm::conduit_established) {
        if (_page->local.family == 0 || _page->local.port == 0 || _page->local.is_any()) {
            _page->local = header().local;
        }
        next = phase::up_untold;
    } else if (status == shm::conduit_failed) {
        _page->error.store(base::ending_of_tcp(header().error.load(std::memory_order_relaxed), EPROTO));
        next = phase::failed_untold;
    } else if (left) {
        _page->error.store(ECONNRESET);  // never ECONNREFUSED: to Ceph that says that the peer is dead
        next = phase::failed_untold;
    } else {
        return p;
    }
    if (_page->state.compare_exchange_strong(p, next, std::memory_order_acq_rel)) {
        return next;
    }
    return p;
}

int stream::take_error(int fd) noexcept {
    current(fd);
    if (is_plain() && _page->error.load(std::memory_order_acquire) == 0) {
        const int err = base::socket_option(fd, SO_ERROR);
        return std::max(err, 0);
    }
    if (!broken() && is_local() && hung_up(fd)) {
        other_end_gone();
    }
    int err = _page->error.exchange(0, std::memory_order_acq_rel);
    if (err != 0) {
        int ignored = 0;
        socklen_t len = sizeof ignored;
        sys::getsockopt(fd, SOL_SOCKET, SO_ERROR, &ignored, &len);
    }
    return err;
}

uint8_t stream::tcp_state() noexcept {
    const phase p = current();
    if (p == phase::connecting) {
        return TCP_SYN_SENT;
    }
    if (!stands(p) || closed_both_ways()) {
        return TCP_CLOSE;
    }
    if (_page->shut_write.load(std::memory_order_acquire) != 0) {
        return TCP_FIN_WAIT2;
    }
    return !is_plain() && other_finished() ? TCP_CLOSE_WAIT : TCP_ESTABLISHED;
}

bool stream::closed_both_ways() noexcept {
    return broken() || (_page->shut_write.load() != 0 && !is_plain() && other_finished());
}

// The first to see the break keeps its errno for whoever asks next.
bool stream::broken() noexcept {
    if (_page->reset_seen.load(std::memory_order_acquire) != 0) {
        return true;
    }
    auto r = receiver();
    if ((r.flags() & shm::ring_reset) == 0) {
        return false;
    }
    break_with(base::ending_of_tcp(r.error(), ECONNRESET));
    return true;
}

void stream::break_with(int err) noexcept {
    if (_page->reset_seen.exchange(1, std::memory_order_acq_rel) == 0) {
        _page->error.store(err, std::memory_order_release);
    }
}

int stream::connect_again(int fd, bool& retry) noexcept {
    retry = false;
    phase p = current(fd);
    switch (p) {
    case phase::connecting: errno = EALREADY; return -1;
    case phase::up_untold:
        if (!closed_both_ways()) {
            _page->state.compare_exchange_strong(p, phase::up);
            return 0;
        }
        [[fallthrough]];  // it came to stand, and has ended since
    case phase::failed_untold: {
        int err = take_error(fd);
        _page->state.store(phase::failed);
        errno = err != 0 ? err : ECONNABORTED;
        return -1;
    }
    case phase::up: errno = EISCONN; return -1;
    case phase::undone: errno = EINVAL; return -1;
    case phase::failed: break;
    }
    retry = true;
    return -1;
}

int stream::shutdown(int fd, int how) noexcept {
    if (how < SHUT_RD || how > SHUT_RDWR) {
        errno = EINVAL;
        return -1;
    }
    phase p = current(fd);
    if (p == phase::connecting || p >= phase::failed_untold || closed_both_ways()) {
        if (p == phase::up_untold || p == phase::failed_untold) {
            _page->state.compare_exchange_strong(p, phase::undone);
        }
        errno = ENOTCONN;
        return -1;
    }
    if (p == phase::up_untold) {
        _page->state.compare_exchange_strong(p, phase::up);  // as in the kernel: connect() says EISCONN from now on
    }
    if (turns_plain()) {
        follow_into_plain(fd);  // what the other end is to get still lies before the end of file
    }
    if (goes_back(fd)) {
        return int(sys::call(SYS_shutdown, fd, how));
    }
    if (how != SHUT_WR) {
        _page->shut_read.store(1, std::memory_order_release);
        flags().fetch_or(shm::end_read_shut, std::memory_order_release);
    }
    if (how != SHUT_RD) {
        auto e = end(fd);
        side_lock sends(*this, e, side_lock::side::sends);
        sends.take();  // not in a handler above this thread's own send
        _page->shut_write.store(1, std::memory_order_release);
        show_rest();
        e.out.set_flags(shm::ring_fin);
    }
    const bool waits = how != SHUT_RD && !pay(fd);  // the end of file follows what is owed
    if (!waits || how == SHUT_RDWR) {
        sys::call(SYS_shutdown, fd, waits ? SHUT_RD : how);  // the other end sees RDHUP or HUP
    }
    return 0;
}

int stream::number_now(int fd) const noexcept {
    const int parked = _parked.load(std::memory_order_seq_cst);
    return parked < 0 || still_holds(fd, this) ? fd : parked;
}

// TCP counts the memory that holds the bytes, here they count alone. A direct connection's daemon reads at once, into a
// socket with buffers of its own, so only what was asked for is bounded.
void stream::bound_buffers(const base::asked_buffers& asked) noexcept {
    auto& most = _page->tx.most;
    uint64_t own = asked.send != 0 ? asked.send : is_local() ? send_buffer_bytes : shm::bounds::none;
    if (asked.unsent != 0) {
        own = std::min<uint64_t>(own, asked.unsent);
    }
    most.reader = is_local() ? receive_buffer_bytes : 0;
    std::atomic_ref(most.own).store(own, std::memory_order_relaxed);
    receiver().set_window(asked.receive);
}

size_t stream::unread_bytes(int fd) noexcept {
    size_t n = 0;
    auto r = receiver();
    if (is_plain()) {
        int there = 0;
        const bool says = !is_left_behind(fd) && sys::call(SYS_ioctl, fd, FIONREAD, &there) == 0;
        return says && there > 0 ? size_t(there) : 0;
    }
    uint64_t head = header().ring[in()].head.load(std::memory_order_acquire);
    n = head - _page->rx.tail;
    return n <= r.capacity() ? n : 0;
}

size_t stream::unsent_bytes() noexcept {
    if (is_plain()) {
        return 0;
    }
    if (is_local()) {
        return sender().held_back();  // what lies in the ring is at the other program already
    }
    uint64_t n = _page->tx.head - header().ring[out()].tail.load(std::memory_order_acquire);
    return n <= _memory.capacity ? n : 0;
}

}  // namespace vmsgr::client
