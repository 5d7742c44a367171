// Waiting: epoll_wait, poll, select and their kin ask the kernel a few times without waiting before they sleep, when
// one of ours is among what they wait for (spin_wait.hh says for how long, and when not). Nothing is emulated: each
// look is the same call with timeout 0, so events, edges, one-shots and errors are the kernel's own, and descriptors
// that are not ours are seen as soon as ours. (A look at the rings would be cheaper and of no use: an event exists only
// once the producer's token has come. So cost does not depend on how many connections are open, either.)
//
// Masks of ppoll, pselect and epoll_pwait are for the sleeping call alone: what they let in interrupts that one, at
// once if it came during the spin. The looks are made through the C library: each is a cancellation point.
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <time.h>

#include <algorithm>
#include <bit>

#include "base/sys.hh"
#include "client/streams/late_tokens.hh"
#include "preload/event_loop.hh"
#include "preload/hook.hh"
#include "preload/listening.hh"
#include "preload/spin_wait.hh"
#include "preload/true_poll.hh"

using namespace vmsgr;
using namespace vmsgr::preload;

namespace {

constexpr int64_t ns_a_second = 1'000'000'000;
constexpr int64_t ns_a_ms = 1'000'000;
constexpr int ms_a_second = 1000;
constexpr int64_t us_a_second = 1'000'000;
constexpr int64_t no_end = -1;
// poll() and select() look at every descriptor each time: with more, the looking costs too much.
constexpr nfds_t poll_fds_max = 64;
// A spin that ends a call whose timeout is in whole milliseconds makes it late by this part of it at most.
constexpr int64_t part_of_timeout = 8;

bool is_stream(int fd) noexcept { return known(fd) && bool(use(fd, kind::stream)); }

bool any_stream(pollfd* fds, nfds_t n) noexcept {
    if (fds == nullptr || n > poll_fds_max) {
        return false;
    }
    return std::any_of(fds, fds + n, [](const pollfd& p) { return is_stream(p.fd); });
}

constexpr int bits_a_word = 8 * sizeof(fd_mask);
constexpr int words_of(int n) noexcept { return (n + bits_a_word - 1) / bits_a_word; }

// A program's set may be shorter than an fd_set: only what the kernel reads is looked at.
bool any_stream(int n, const fd_set* in, const fd_set* out) noexcept {
    if (n <= 0 || n > FD_SETSIZE) {
        return false;
    }
    int watched = 0;
    bool found = false;
    for (int w = 0; w < words_of(n); ++w) {
        auto bits = uint64_t((in != nullptr ? __FDS_BITS(in)[w] : 0) | (out != nullptr ? __FDS_BITS(out)[w] : 0));
        watched += std::popcount(bits);
        for (; bits != 0 && !found; bits &= bits - 1) {
            found = is_stream(w * bits_a_word + std::countr_zero(bits));
        }
    }
    return found && watched <= int(poll_fds_max);
}

// What a loop serves is to show what is true.
void settle_before_poll(const pollfd* fds, nfds_t n) noexcept {
    client::end_turn();
    if (!any_loop_serves() || fds == nullptr) {
        return;
    }
    for (nfds_t i = 0; i < n; ++i) {
        settle_before_wait(fds[i].fd);
    }
}
void settle_before_select(int n, const fd_set* in) noexcept {
    client::end_turn();
    if (!any_loop_serves() || in == nullptr) {
        return;
    }
    for (int w = 0; n > 0 && w < words_of(std::min(n, fds_max)); ++w) {
        for (auto bits = uint64_t(__FDS_BITS(in)[w]); bits != 0; bits &= bits - 1) {
            settle_before_wait(w * bits_a_word + std::countr_zero(bits));
        }
    }
}

// What the sleeping call is left with.
int less(int timeout_ms, int64_t spent_ns) noexcept {
    return timeout_ms < 0 ? timeout_ms : int(std::max<int64_t>(timeout_ms - spent_ns / ns_a_ms, 0));
}
timespec less(const timespec& timeout, int64_t spent_ns) noexcept {
    int64_t sec = timeout.tv_sec, nsec = timeout.tv_nsec - spent_ns;
    for (; nsec < 0; nsec += ns_a_second) {
        --sec;
    }
    return sec < 0 ? timespec{0, 0} : timespec{time_t(sec), long(nsec)};
}

// The caller's own while nothing is spent: what is wrong with it, the kernel says.
class rest_of {
    timespec _left{};
    const timespec* _at;

public:
    rest_of(const timespec* timeout, int64_t spent_ns) noexcept : _at(timeout) {
        if (timeout != nullptr && spent_ns != 0) {
            _left = less(*timeout, spent_ns);
            _at = &_left;
        }
    }
    operator const timespec*() const noexcept { return _at; }
};

int64_t budget_of(int timeout_ms) noexcept { return timeout_ms < 0 ? no_end : timeout_ms * ns_a_ms / part_of_timeout; }
// 0 also for what only the kernel may judge.
int64_t budget_of(const timespec* timeout) noexcept {
    if (timeout == nullptr) {
        return no_end;
    }
    if (timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= ns_a_second) {
        return 0;
    }
    return timeout->tv_sec > 0 ? no_end : timeout->tv_nsec;
}

bool anybody_owes() noexcept { return client::streams_that_owe.load(std::memory_order_relaxed) > 0; }

void follow_relatives() noexcept {
    if (listeners_were_given()) [[unlikely]] {
        follow_given_listeners();
    }
}

// Nothing is ours in this wait, and nothing has to be done meanwhile.
template <typename AnyStream>
bool is_plain_wait(AnyStream&& any_stream) noexcept {
    follow_relatives();
    return !anybody_owes() && (shm::spin_limit_ns() == 0 || !any_stream());
}

// A program that waits for an answer to what a stream still owes (streams/plain.cc) must not sleep meanwhile.
template <typename Look>
int wait_and_pay(int64_t at_most_ns, Look&& look) {
    const int64_t began_ns = base::now_ns();
    for (int64_t spent_ns = 0;; spent_ns = base::now_ns() - began_ns) {
        pay_debts();
        const int r = look(spent_ns);
        if (r != 0 || !anybody_owes() || (at_most_ns >= 0 && spent_ns >= at_most_ns)) {
            return r;
        }
        constexpr timespec pause{0, ns_a_ms};
        sys::call(SYS_nanosleep, &pause, nullptr);
    }
}

// look(spent_ns) is the call without waiting, sleep(spent_ns) the call itself, each after so much time.
template <typename Look, typename Sleep>
int look_then_sleep(int64_t at_most_ns, Look&& look, Sleep&& sleep) {
    const int64_t began_ns = base::now_ns();
    if (anybody_owes()) {
        const int r = wait_and_pay(at_most_ns, look);
        return r != 0 ? r : sleep(base::now_ns() - began_ns);
    }
    const int64_t budget_ns = at_most_ns != 0 ? spin_budget_ns(at_most_ns) : 0;
    if (budget_ns == 0) {
        return sleep(0);
    }
    int r = look(0);
    if (r != 0) {
        return r;  // it would not have slept
    }
    const auto spun = shm::look_until(shm::system_calls, budget_ns, [&] {
        r = look(base::now_ns() - began_ns);
        return r != 0;
    });
    note_spin(spun);
    return r != 0 ? r : sleep(base::now_ns() - began_ns);
}

// A turn of an event loop (event_loop.hh). look() and sleep(spent_ns) as above.
template <typename Look, typename Sleep>
int wait_in_loop(event_loop& loop, epoll_event* events, int max, int64_t at_most_ns, Look&& look, Sleep&& sleep) {
    constexpr int looks_a_call = 16;
    event_loop::turn turn(loop);
    const auto ask_kernel = [&] {
        const int n = look();
        const int worth = loop.sift(events, n);
        if (worth != 0 || n < max) {
            return worth;
        }
        // Nothing but tokens of empty rings in all the room there is: they are taken, and the others show.
        const int came = loop.settle(events, max);
        return came != 0 ? came : loop.sift(events, look());
    };
    const bool kernels_turn = loop.serves_any() ? loop.is_kernels_turn() : at_most_ns == 0;
    int r = kernels_turn ? ask_kernel() : 0;
    if (r != 0 || (r = loop.look(events, max)) != 0) {
        return r;
    }
    if (at_most_ns == 0) {
        return kernels_turn ? 0 : ask_kernel();
    }
    const int64_t began_ns = base::now_ns();
    const int64_t budget_ns = spin_budget_ns(at_most_ns);
    if (budget_ns == 0 && loop.serves_several() && !kernels_turn) {
        r = ask_kernel();  // to settle all in vain would cost more
    }
    if (budget_ns != 0) {
        int looks = 0;
        const auto spun = shm::look_until(loop.serves_any() ? shm::tight : shm::system_calls, budget_ns, [&] {
            r = loop.look(events, max);
            if (r == 0 && (!loop.serves_any() || looks++ % looks_a_call == 0)) {
                r = ask_kernel();
            }
            return r != 0;
        });
        note_spin(spun);
    }
    // Again, where nothing came but tokens whose bytes were read before.
    while (r == 0 && (r = loop.settle(events, max)) == 0) {
        turn.end();
        const int n = sleep(base::now_ns() - began_ns);
        turn.go_on();
        r = loop.sift(events, n);
        if (n <= 0) {
            break;
        }
    }
    return r;
}

// look() asks without waiting, sleep(spent_ns) is the call itself, after so much time.
template <typename Look, typename Sleep>
int wait_for_events(int epfd, epoll_event* events, int max, int64_t at_most_ns, Look&& look, Sleep&& sleep,
                    bool& has_streams) {
    follow_relatives();
    use set(epfd, kind::epoll);
    has_streams = set && set->watches_streams.load(std::memory_order_relaxed);
    if (!anybody_owes() && !has_streams) {
        set.drop();
        return sleep(0);
    }
    event_loop* const loop = set ? loop_of(*set.get()) : nullptr;
    if (loop != nullptr && max > 0 && loop->is_own_turn()) {
        if (!anybody_owes()) {
            return wait_in_loop(*loop, events, max, at_most_ns, look, sleep);
        }
        if (const int r = loop->settle(events, max); r != 0) {
            return r;
        }
    }
    set.drop();
    return look_then_sleep(at_most_ns, [&](int64_t) { return look(); }, sleep);
}

template <typename Look, typename Sleep>
int wait_epoll(int epfd, epoll_event* events, int max, int64_t at_most_ns, Look&& look, Sleep&& sleep) {
    bool has_streams = false;
    const int saved = errno;
    const int r = wait_for_events(epfd, events, max, at_most_ns, look, sleep, has_streams);
    if (r > 0 && has_streams) {
        client::begin_turn();
    }
    if (r >= 0) {
        errno = saved;
    }
    return r;
}

template <typename Sleep>
int wait_poll(pollfd* fds, nfds_t n, int64_t budget_ns, Sleep&& sleep) {
    return look_then_sleep(budget_ns, [&](int64_t) { return real.poll(fds, n, 0); }, sleep);
}

// The sets are the caller's until something is ready.
struct sets {
    fd_set* of[3];
    int n;

    int look() {
        fd_set copy[3];
        fd_set* p[3]{};
        const size_t bytes = size_t(words_of(n)) * sizeof(fd_mask);
        for (int i = 0; i < 3; ++i) {
            if (of[i] != nullptr) {
                p[i] = static_cast<fd_set*>(memcpy(&copy[i], of[i], bytes));
            }
        }
        timeval none{0, 0};
        int r = real.select(n, p[0], p[1], p[2], &none);
        for (int i = 0; r > 0 && i < 3; ++i) {
            if (of[i] != nullptr) {
                memcpy(of[i], &copy[i], bytes);
            }
        }
        return r;
    }
};

// ordinary(): the call itself, which changes the sets; corrected(sets): the same where the kernel alone does not do.
template <typename Ordinary, typename Corrected>
int select_truly(int n, fd_set* const (&of)[3], Ordinary&& ordinary, Corrected&& corrected) {
    settle_before_select(n, of[0]);
    if (more_than_doorbells_among(n, of[0], of[2])) {
        return corrected(of);
    }
    if (table == nullptr || n <= 0 || n > FD_SETSIZE || (of[0] == nullptr && of[2] == nullptr)) {
        return ordinary();
    }
    fd_set before[3];
    const size_t bytes = size_t(words_of(n)) * sizeof(fd_mask);
    for (int i = 0; i < 3; ++i) {
        if (of[i] != nullptr) {
            memcpy(&before[i], of[i], bytes);
        }
    }
    const int r = ordinary();
    if (r <= 0 || !untrue_among_ready(n, of[0], of[2])) {
        return r;
    }
    for (int i = 0; i < 3; ++i) {
        if (of[i] != nullptr) {
            memcpy(of[i], &before[i], bytes);
        }
    }
    return corrected(of);
}

}  // namespace

VMSGR_INNER_HOOK int epoll_wait_hook(int epfd, epoll_event* events, int max, int timeout) {
    client::end_turn();
    if (!known(epfd)) {
        return real.epoll_wait(epfd, events, max, timeout);
    }
    return wait_epoll(
        epfd, events, max, budget_of(timeout), [&] { return real.epoll_wait(epfd, events, max, 0); },
        [&](int64_t spent_ns) { return real.epoll_wait(epfd, events, max, less(timeout, spent_ns)); });
}
VMSGR_CALM_HOOK(int, epoll_wait, (int epfd, epoll_event* events, int max, int timeout), (epfd, events, max, timeout))

VMSGR_INNER_HOOK int epoll_pwait_hook(int epfd, epoll_event* events, int max, int timeout, const sigset_t* mask) {
    client::end_turn();
    if (!known(epfd)) {
        return real.epoll_pwait(epfd, events, max, timeout, mask);
    }
    return wait_epoll(
        epfd, events, max, budget_of(timeout), [&] { return real.epoll_pwait(epfd, events, max, 0, mask); },
        [&](int64_t spent_ns) { return real.epoll_pwait(epfd, events, max, less(timeout, spent_ns), mask); });
}
VMSGR_CALM_HOOK(int, epoll_pwait, (int epfd, epoll_event* events, int max, int timeout, const sigset_t* mask),
                (epfd, events, max, timeout, mask))

VMSGR_INNER_HOOK int epoll_pwait2_hook(int epfd, epoll_event* events, int max, const timespec* timeout,
                                       const sigset_t* mask) {
    client::end_turn();
    if (!known(epfd)) {
        return real.epoll_pwait2(epfd, events, max, timeout, mask);
    }
    constexpr timespec none{0, 0};
    const int64_t budget_ns = budget_of(timeout);
    return wait_epoll(
        epfd, events, max, budget_ns,
        [&] { return real.epoll_pwait2(epfd, events, max, budget_ns == 0 ? timeout : &none, mask); },
        [&](int64_t spent_ns) {
            rest_of left(timeout, spent_ns);
            return real.epoll_pwait2(epfd, events, max, left, mask);
        });
}
VMSGR_CALM_HOOK(int, epoll_pwait2,
                (int epfd, epoll_event* events, int max, const timespec* timeout, const sigset_t* mask),
                (epfd, events, max, timeout, mask))

VMSGR_INNER_HOOK int poll_hook(pollfd* fds, nfds_t n, int timeout) {
    const int64_t began_ns = timeout > 0 ? base::now_ns() : 0;
    settle_before_poll(fds, n);
    if (!more_than_doorbells_among(fds, n)) {
        const int r = is_plain_wait([&] { return any_stream(fds, n); })
                          ? real.poll(fds, n, timeout)
                          : wait_poll(fds, n, budget_of(timeout),
                                      [&](int64_t spent_ns) { return real.poll(fds, n, less(timeout, spent_ns)); });
        if (r <= 0 || !untrue_among_ready(fds, n)) {
            return r;
        }
    }
    const timespec t{timeout / ms_a_second, timeout % ms_a_second * ns_a_ms};
    return true_poll(fds, n, timeout < 0 ? nullptr : &t, began_ns, nullptr);
}
VMSGR_CALM_HOOK(int, poll, (pollfd * fds, nfds_t n, int timeout), (fds, n, timeout))

VMSGR_INNER_HOOK int ppoll_hook(pollfd* fds, nfds_t n, const timespec* timeout, const sigset_t* mask) {
    const int64_t began_ns = timeout != nullptr ? base::now_ns() : 0;
    settle_before_poll(fds, n);
    if (!more_than_doorbells_among(fds, n)) {
        const int r = is_plain_wait([&] { return any_stream(fds, n); })
                          ? real.ppoll(fds, n, timeout, mask)
                          : wait_poll(fds, n, budget_of(timeout), [&](int64_t spent_ns) {
                                rest_of left(timeout, spent_ns);
                                return real.ppoll(fds, n, left, mask);
                            });
        if (r <= 0 || !untrue_among_ready(fds, n)) {
            return r;
        }
    }
    return true_poll(fds, n, timeout, began_ns, mask);
}
VMSGR_CALM_HOOK(int, ppoll, (pollfd * fds, nfds_t n, const timespec* timeout, const sigset_t* mask),
                (fds, n, timeout, mask))

VMSGR_INNER_HOOK int __poll_chk_hook(pollfd* fds, nfds_t n, int timeout, size_t room) {
    if (n > room / sizeof *fds) {
        __builtin_trap();
    }
    return poll(fds, n, timeout);
}
VMSGR_CALM_HOOK(int, __poll_chk, (pollfd * fds, nfds_t n, int timeout, size_t room), (fds, n, timeout, room))

VMSGR_INNER_HOOK int __ppoll_chk_hook(pollfd* fds, nfds_t n, const timespec* timeout, const sigset_t* mask,
                                      size_t room) {
    if (n > room / sizeof *fds) {
        __builtin_trap();
    }
    return ppoll(fds, n, timeout, mask);
}
VMSGR_CALM_HOOK(int, __ppoll_chk, (pollfd * fds, nfds_t n, const timespec* timeout, const sigset_t* mask, size_t room),
                (fds, n, timeout, mask, room))

// select() says in `timeout` what is left of it.
static int select_ordinary(int n, fd_set* in, fd_set* out, fd_set* except, timeval* timeout) {
    if (is_plain_wait([&] { return any_stream(n, in, out); })) {
        return real.select(n, in, out, except, timeout);
    }
    timespec whole{};
    if (timeout != nullptr) {
        // More than a second of microseconds is left to libc, as what is negative is to the kernel.
        whole = {timeout->tv_sec, timeout->tv_usec < us_a_second ? timeout->tv_usec * 1000 : ns_a_second};
    }
    auto take_off = [&](int64_t spent_ns) {
        if (timeout != nullptr && spent_ns != 0) {
            timespec left = less(whole, spent_ns);
            *timeout = {left.tv_sec, left.tv_nsec / 1000};
        }
    };
    sets all{{in, out, except}, n};
    return look_then_sleep(
        budget_of(timeout != nullptr ? &whole : nullptr),
        [&](int64_t spent_ns) {
            int r = all.look();
            if (r > 0) {
                take_off(spent_ns);
            }
            return r;
        },
        [&](int64_t spent_ns) {
            take_off(spent_ns);
            return real.select(n, in, out, except, timeout);
        });
}
VMSGR_INNER_HOOK int select_hook(int n, fd_set* in, fd_set* out, fd_set* except, timeval* timeout) {
    return select_truly(
        n, {in, out, except}, [&] { return select_ordinary(n, in, out, except, timeout); },
        [&](fd_set* const(&of)[3]) {
            timespec t{};
            if (timeout != nullptr) {
                t = {timeout->tv_sec, timeout->tv_usec * 1000};
            }
            return true_select(n, of, timeout != nullptr ? &t : nullptr, base::now_ns(), nullptr);
        });
}
VMSGR_CALM_HOOK(int, select, (int n, fd_set* in, fd_set* out, fd_set* except, timeval* timeout),
                (n, in, out, except, timeout))

static int pselect_ordinary(int n, fd_set* in, fd_set* out, fd_set* except, const timespec* timeout,
                            const sigset_t* mask) {
    if (is_plain_wait([&] { return any_stream(n, in, out); })) {
        return real.pselect(n, in, out, except, timeout, mask);
    }
    sets all{{in, out, except}, n};
    return look_then_sleep(
        budget_of(timeout), [&](int64_t) { return all.look(); },
        [&](int64_t spent_ns) {
            rest_of left(timeout, spent_ns);
            return real.pselect(n, in, out, except, left, mask);
        });
}
VMSGR_INNER_HOOK int pselect_hook(int n, fd_set* in, fd_set* out, fd_set* except, const timespec* timeout,
                                  const sigset_t* mask) {
    const int64_t began_ns = timeout != nullptr ? base::now_ns() : 0;
    return select_truly(
        n, {in, out, except}, [&] { return pselect_ordinary(n, in, out, except, timeout, mask); },
        [&](fd_set* const(&of)[3]) { return true_select(n, of, timeout, began_ns, mask); });
}
VMSGR_CALM_HOOK(int, pselect,
                (int n, fd_set* in, fd_set* out, fd_set* except, const timespec* timeout, const sigset_t* mask),
                (n, in, out, except, timeout, mask))
