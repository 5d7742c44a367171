#include "preload/event_loop.hh"

#include <fcntl.h>

#include <algorithm>
#include <new>

#include "base/clock.hh"
#include "base/keep_errno.hh"
#include "base/pages.hh"
#include "base/sys.hh"
#include "preload/runtime.hh"

namespace vmsgr::preload {

namespace {

constexpr uint32_t in_bits = EPOLLIN | EPOLLRDNORM, out_bits = EPOLLOUT | EPOLLWRNORM;
constexpr uint64_t nothing_shown = ~uint64_t{0};

std::atomic<int> loops_that_serve{0};

// A signal for each message needs a token for each.
bool wants_signals(object& o, int fd) noexcept {
    if (o.wants_signals.load(std::memory_order_relaxed) == known_as::unknown_yet) {
        const int flags = sys::fcntl(fd, F_GETFL);
        const bool wants = flags < 0 || (flags & O_ASYNC) != 0;
        o.wants_signals.store(wants ? known_as::yes : known_as::no, std::memory_order_relaxed);
    }
    return o.wants_signals.load(std::memory_order_relaxed) == known_as::yes;
}

}  // namespace

event_loop* loop_of(const object& o) noexcept {
    return o.what == kind::epoll && o.is_followed.load(std::memory_order_acquire) ? o.loop : nullptr;
}

bool any_loop_serves() noexcept { return loops_that_serve.load(std::memory_order_relaxed) != 0; }

bool event_loop::is_own_turn() noexcept {
    if (_off.load(std::memory_order_relaxed)) {
        return false;
    }
    const void* const me = client::stream::this_thread();
    const void* thread = nullptr;
    if (!_thread.compare_exchange_strong(thread, me) && thread != me) {
        retire();
        return false;
    }
    if (_busy) {
        settle_all();  // a handler above a turn
        return false;
    }
    if (client::a_low_mark_was_lowered.load(std::memory_order_relaxed)) [[unlikely]] {
        serve_what_only_looks_show();
    }
    return true;
}

bool event_loop::is_kernels_turn() noexcept {
    constexpr uint32_t turns_without_kernel = 8;
    constexpr int64_t time_without_kernel_ns = 100'000;
    const int64_t now_ns = base::now_ns();
    if (++_turns % turns_without_kernel != 0 && now_ns - _asked_kernel_ns < time_without_kernel_ns) {
        return false;
    }
    _asked_kernel_ns = now_ns;
    return true;
}

// True: event is what the program is to be told of s now.
bool event_loop::show(served& s, epoll_event& event) noexcept {
    const registrations::entry& e = *told.find(s.fd);
    const uint32_t version = e.version.load(std::memory_order_acquire);
    const uint32_t wanted = e.events.load(std::memory_order_relaxed);
    if ((wanted & registrations::registered) == 0 || (wanted & in_bits) == 0) {
        return false;
    }
    if (version != s.version) {
        s.version = version;
        s.shown = nothing_shown;
    }
    uint64_t head = 0;
    if (!s.o->stream.look_into_ring(head) || ((wanted & EPOLLET) != 0 && head == s.shown)) {
        return false;
    }
    s.shown = head;
    event.data.u64 = e.data.load(std::memory_order_relaxed);
    event.events = wanted & in_bits;
    if ((wanted & out_bits) != 0 && s.o->stream.has_much_room()) {
        event.events |= wanted & out_bits;
    }
    return true;
}

int event_loop::look(epoll_event* events, int max) noexcept {
    int found = 0;
    const uint32_t from = _n != 0 ? _from++ % _n : 0;
    for (uint32_t i = 0; i < _n && found < max; ++i) {
        const uint32_t at = from + i < _n ? from + i : from + i - _n;
        use o(_served[at].fd, kind::stream);
        if (o && o.get() == _served[at].o && o->stream.is_served() && show(_served[at], events[found])) {
            ++found;
        }
    }
    return found;
}

// The other end has asked for plain mode, and all that the doorbell shows comes from that.
static bool is_asked_and_no_more(int fd) noexcept {
    use o(fd, kind::stream);
    return o && o->stream.turns_plain() && !o->stream.is_plain() && o->stream.shows_in_for_nothing(fd);
}

// The number is the kernel's socket now, which the set has, and shows by itself.
static bool goes_back(int fd) noexcept {
    use o(fd, kind::stream);
    return o && o->stream.goes_back(fd);
}

bool event_loop::is_worth_telling(epoll_event& event) noexcept {
    const int fd = told.owner_of(event.data.u64);
    if (fd < 0) {
        return true;
    }
    registrations::entry& e = *told.find(fd);
    const uint32_t slot = e.loop_slot;
    const bool is_served = slot != 0 && slot <= _n && _served[slot - 1].fd == fd;
    const bool is_more = (event.events & ~(in_bits | out_bits)) != 0;
    if (goes_back(fd)) [[unlikely]] {
        if (is_served) {
            leave(slot - 1);
        }
        return false;
    }
    // A ONESHOT registration is spent by any event.
    if ((e.events.load(std::memory_order_relaxed) & EPOLLONESHOT) == 0 && is_asked_and_no_more(fd)) {
        if (is_served) {
            leave(slot - 1);
        }
        event.events &= out_bits;
        return event.events != 0;
    }
    if (!is_served) {
        if (!is_more && (event.events & in_bits) != 0) {
            serve(fd, e);
            use o(fd, kind::stream);
            if (o && (e.events.load(std::memory_order_relaxed) & EPOLLONESHOT) == 0 &&
                o->stream.shows_in_for_nothing(fd)) {
                event.events &= ~in_bits;
            }
        }
        return event.events != 0;
    }
    use o(fd, kind::stream);
    if (is_more || !o || o.get() != _served[slot - 1].o || !o->stream.is_served() || o->stream.is_ending() ||
        o->stream.called_back() != 0) {
        leave(slot - 1);
        return true;
    }
    epoll_event shown{};
    if ((event.events & in_bits) != 0 && !show(_served[slot - 1], shown)) {
        event.events &= ~in_bits;
    }
    return event.events != 0;
}

int event_loop::sift(epoll_event* events, int n) noexcept {
    int kept = 0;
    for (int i = 0; i < n; ++i) {
        epoll_event e = events[i];
        if (is_worth_telling(e)) {
            events[kept++] = e;
        }
    }
    return n < 0 ? n : kept;
}

// Reading without the lock, as is_recorded does: what another thread adds at this moment it settles itself.
bool event_loop::is_in_other_set(const object& o) const noexcept {
    const uint32_t n = __atomic_load_n(&o.registered, __ATOMIC_RELAXED);
    const registration* all = __atomic_load_n(&o.registrations, __ATOMIC_ACQUIRE);
    return n == 0 || n > registrations_kept || o.unfollowed || std::any_of(all, all + n, [&](const registration& r) {
               const object* set = at_number(r.epfd);
               event_loop* l = set != nullptr ? loop_of(*set) : nullptr;
               if (l == this) {
                   return false;
               }
               const registrations::entry* e = l != nullptr ? l->told.find(r.fd) : nullptr;
               return l == nullptr || (e != nullptr && (e->events.load() & registrations::registered) != 0);
           });
}

void event_loop::serve(int fd, registrations::entry& e) noexcept {
    const uint32_t wanted = e.events.load(std::memory_order_relaxed);
    if (_n == served_max || (wanted & in_bits) == 0 || (wanted & (EPOLLONESHOT | EPOLLEXCLUSIVE | EPOLLPRI)) != 0) {
        return;
    }
    use o(fd, kind::stream);
    if (!o || o->refs != 1 || o->stream.is_ending() || o->stream.called_back() != 0 || o->stream.has_seen_urgent() ||
        !client::stands(o->stream.page().state.load(std::memory_order_relaxed)) ||
        o->stream.page().holders.load(std::memory_order_relaxed) != 1 || is_in_other_set(*o.get()) ||
        wants_signals(*o.get(), fd)) {
        return;
    }
    served& s = _served[_n];
    s = {fd, o.get(), e.version.load(std::memory_order_acquire), nothing_shown};
    o->stream.look_into_ring(s.shown);
    e.loop_slot = ++_n;
    if (_n == 1) {
        loops_that_serve.fetch_add(1, std::memory_order_seq_cst);
    }
    o->served_in.store(this, std::memory_order_relaxed);
    o->stream.serve(client::stream::this_thread());
    if (_off.load(std::memory_order_seq_cst)) {
        o->stream.settle(fd);
    }
}

// Those whose low mark (SO_RCVLOWAT) was lowered to what lies unread.
void event_loop::serve_what_only_looks_show() noexcept {
    for (int fd = 0; fd <= highest_number(); ++fd) {
        registrations::entry* const e = known(fd) ? told.find(fd) : nullptr;
        const uint32_t wanted = e != nullptr ? e->events.load(std::memory_order_relaxed) : 0;
        if ((wanted & registrations::registered) == 0) {
            continue;
        }
        if (use o(fd, kind::stream); o && o->stream.shows_by_look() && !o->stream.is_served()) {
            serve(fd, *e);
            if (o->stream.is_served()) {
                _served[_n - 1].shown = nothing_shown;
                o->stream.leave_to_look((wanted & EPOLLET) != 0);
            }
        }
    }
}

// The descriptor shows what is true again, and the kernel's events are left as they are.
void event_loop::leave(uint32_t at) noexcept {
    const served s = _served[at];
    _served[at] = _served[_n - 1];
    told.find(_served[at].fd)->loop_slot = at + 1;
    told.find(s.fd)->loop_slot = 0;
    --_n;
    if (_n == 0) {
        loops_that_serve.fetch_sub(1, std::memory_order_seq_cst);
    }
    use o(s.fd, kind::stream);
    if (o && o.get() == s.o) {
        o->served_in.store(nullptr, std::memory_order_relaxed);
        o->stream.settle(s.fd);
    }
}

int event_loop::settle(epoll_event* events, int max) noexcept {
    int found = 0;
    for (uint32_t i = 0; i < _n;) {
        served& s = _served[i];
        use o(s.fd, kind::stream);
        if (!o || o.get() != s.o) {
            leave(i);
            continue;
        }
        const uint32_t wanted = told.find(s.fd)->events.load(std::memory_order_relaxed);
        if (o->stream.settle(s.fd, (wanted & EPOLLET) != 0, s.shown)) {
            leave(i);
            continue;
        }
        o->stream.serve(client::stream::this_thread());
        ++i;
        if (found < max && show(s, events[found])) {
            ++found;
        }
    }
    return found;
}

void event_loop::settle_all() noexcept {
    for (int fd = 0; fd <= highest_number(); ++fd) {
        if (known(fd) && told.find(fd) != nullptr) {
            if (use o(fd, kind::stream); o && o->served_in.load(std::memory_order_relaxed) == this) {
                o->stream.settle(fd);
            }
        }
    }
}

void event_loop::retire() noexcept {
    _off.store(true, std::memory_order_seq_cst);
    settle_all();
}

void event_loop::reset() noexcept {
    told.clear();
    if (_n != 0) {
        loops_that_serve.fetch_sub(1, std::memory_order_seq_cst);
    }
    _n = 0;
    _busy = false;
    _thread.store(nullptr, std::memory_order_relaxed);
    _off.store(false, std::memory_order_seq_cst);
}

void follow_set(int epfd) noexcept {
    if (epfd < 0 || table == nullptr || in_vfork_child()) {
        return;
    }
    base::keep_errno([&] {
        table_lock l;
        object* o = new_object(kind::epoll);
        if (o != nullptr && o->loop == nullptr) {
            void* at = base::new_pages(sizeof(event_loop));
            o->loop = at == nullptr ? nullptr : new (at) event_loop;
        }
        if (o != nullptr) {
            set_number(epfd, o);
            if (o->loop != nullptr) {
                o->loop->reset();
                o->is_followed.store(true, std::memory_order_release);
            }
        }
        return 0;
    });
}

void before_epoll_ctl(int epfd, int op, int fd, const epoll_event* event) noexcept {
    if (op == EPOLL_CTL_DEL || event == nullptr || !known(fd)) {
        return;
    }
    use o(fd);
    if (o && o->what == kind::epoll) {
        settle_before_wait(fd);  // a set in a set
        return;
    }
    if (!o || o->what != kind::stream || !o->stream.is_unsettled()) {
        return;
    }
    use set(epfd, kind::epoll);
    // Without IN for a while, too: programs that send and then await the answer change to and fro for each message.
    const bool stays = set && loop_of(*set.get()) != nullptr && o->served_in.load() == set->loop &&
                       (event->events & (EPOLLONESHOT | EPOLLEXCLUSIVE)) == 0;
    if (!stays) {
        o->stream.settle(fd);
    }
}

void after_epoll_ctl(int epfd, int op, int fd, const epoll_event* event) noexcept {
    use set(epfd, kind::epoll);
    event_loop* const l = set ? loop_of(*set.get()) : nullptr;
    if (l == nullptr || l->is_retired() || l->told.note_same(op, fd, event)) {
        return;
    }
    bool room = true;
    int other = -1;
    {
        table_lock lock;
        other = l->told.alone_beside(event->data.u64);
        room = l->told.note(fd, *event);
    }
    if (!room) {
        l->retire();
    } else if (other >= 0 && other != fd) {
        settle_before_wait(other);  // its events cannot be told from those of fd any more
    }
}

void forget_in_loops(const object& o, int fd) noexcept {
    for (uint32_t i = 0; i < o.registered; ++i) {
        const object* set = o.registrations[i].fd == fd ? at_number(o.registrations[i].epfd) : nullptr;
        if (event_loop* l = set != nullptr ? loop_of(*set) : nullptr; l != nullptr) {
            l->told.forget(fd);
        }
    }
}

void expect_signals(object& o, int fd) noexcept {
    o.wants_signals.store(known_as::unknown_yet, std::memory_order_relaxed);
    o.stream.settle(fd);
}

void settle_before_wait(int fd) noexcept {
    use o(fd);
    if (o && o->what == kind::stream) {
        if (o->stream.is_unsettled()) {
            o->stream.settle(fd);
        }
    } else if (event_loop* l = o ? loop_of(*o.get()) : nullptr; l != nullptr && !l->is_retired()) {
        l->retire();
    }
}

}  // namespace vmsgr::preload
