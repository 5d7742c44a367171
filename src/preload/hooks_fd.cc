// Descriptor numbers: closing, duplicating, watching.
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>

#include "base/clock.hh"
#include "base/signal_lock.hh"
#include "base/sys.hh"
#include "preload/event_loop.hh"
#include "preload/hook.hh"
#include "preload/inherit.hh"
#include "preload/listening.hh"
#include "preload/own_numbers.hh"
#include "preload/runtime.hh"
#include "preload/swap.hh"

using namespace vmsgr;
using namespace vmsgr::preload;

namespace {

// Other threads use the connection by this number: those that sleep go on with its duplicate, the others are done
// with the number in a moment. In a signal handler the call that it interrupted is not.
void await_sleepers(object& o) noexcept {
    constexpr int64_t moment_ns = 5'000'000;
    const int64_t until_ns = base::now_ns() + moment_ns;
    while (o.users.load() > uint32_t(o.stream.sleepers()) && base::now_ns() < until_ns) {
        ::sched_yield();
    }
}

// Before the number is given up. The object, if this was its last number here.
object* leave_number(int fd) noexcept {
    object* gone = nullptr;
    if (use o(fd, kind::stream); o) {
        o->stream.send_late_token(fd);
        o->stream.show_late_bytes(fd, 0);
    }
    {
        base::signals_blocked together;
        bool unwatched = false;
        object* used = nullptr;
        {
            table_lock l;
            object* o = at_number(fd);
            if (o != nullptr && o->what == kind::stream && o->users.load() != 0) {
                used = o;
                if (!o->stream.is_parked()) {
                    o->stream.park(duplicate_internal(fd));
                }
            }
            // As long as a relative holds it too, it stays in its sets, which the relative may share.
            if (o != nullptr && o->what == kind::stream && o->refs == 1 && o->stream.page().holders.load() == 1) {
                unwatched = take_out_of_sets(o);
            }
            gone = clear_number(fd);
        }
        if (used != nullptr) {
            await_sleepers(*used);
        }
        if (gone != nullptr && gone->what == kind::stream && !gone->stream.is_parked()) {
            gone->stream.close_last(fd, unwatched);
            // With the number the port is free.
            const int port = std::exchange(gone->port_fd, -1);
            if (port >= 0) {
                close_internal(port);
            }
        }
    }
    if (gone != nullptr && gone->what == kind::listener) {
        stop_listening(gone);  // waits for the daemon
    }
    return gone;
}

bool is_internal(int fd) noexcept {
    use o(fd, kind::internal);
    return bool(o);
}

void finish_quietly(object* o) noexcept {
    if (o != nullptr) {
        int saved = errno;
        finish(o);
        errno = saved;
    }
}

int duplicated(int from, int to) noexcept {
    if (in_vfork_child()) {
        return to;
    }
    if (to >= 0 && known(from)) {
        object* stale = nullptr;
        {
            table_lock l;
            stale = add_alias(from, to);
        }
        finish_quietly(stale);
        settle_before_wait(from);
        serve_stdio(to);
    } else if (known(to)) {
        forget_number(to);  // closed behind our back
    }
    return to;
}

// A number that is open may be; the kernel takes no new one there.
bool beyond_limit(int fd) noexcept {
    rlimit limit{};
    return ::getrlimit(RLIMIT_NOFILE, &limit) == 0 && rlim_t(fd) >= limit.rlim_cur;
}

// The program wants a number that is the library's: ours moves.
void make_way(int fd) noexcept;

// All of ours in [first, last], the library's own left out; returns through `each` the ranges that may be closed.
template <typename Each>
int close_around_ours(unsigned first, unsigned last, Each&& each) {
    unsigned from = first;
    for (int fd = int(std::min<unsigned>(first, INT_MAX)); fd <= highest_number() && unsigned(fd) <= last; ++fd) {
        if (!known(fd)) {
            continue;
        }
        if (!is_internal(fd)) {
            if (!in_vfork_child()) {
                finish_quietly(leave_number(fd));
            }
        } else {
            if (unsigned(fd) > from) {
                if (int r = each(from, unsigned(fd) - 1); r != 0) {
                    return r;
                }
            }
            from = unsigned(fd) + 1;
        }
    }
    return from <= last ? each(from, last) : 0;
}

}  // namespace

void vmsgr::preload::leave_file(int fd) noexcept {
    if (known(fd) && !in_vfork_child() && !is_internal(fd)) {
        finish_quietly(leave_number(fd));
    }
}

VMSGR_INNER_HOOK int close_hook(int fd) {
    if (!known(fd)) {
        return real.close(fd);
    }
    if (is_internal(fd)) {
        return bad_descriptor();
    }
    if (in_vfork_child()) {
        return real.close(fd);
    }
    return keep_errno([&] {
        object* gone = leave_number(fd);
        int r = real.close(fd);
        finish_quietly(gone);
        return r;
    });
}
VMSGR_CALM_HOOK(int, close, (int fd), (fd))

VMSGR_INNER_HOOK int close_range_hook(unsigned first, unsigned last, int flags) {
    // CLOEXEC only marks: ours are marked already, and the program's stay what they are.
    if (table == nullptr || first > last || (unsigned(flags) & CLOSE_RANGE_CLOEXEC) != 0) {
        return real.close_range(first, last, flags);
    }
    return close_around_ours(first, last, [&](unsigned a, unsigned b) { return real.close_range(a, b, flags); });
}
VMSGR_CALM_HOOK(int, close_range, (unsigned first, unsigned last, int flags), (first, last, flags))

VMSGR_HOOK void closefrom(int first) {
    if (table == nullptr && real.closefrom != nullptr) {
        return real.closefrom(first);
    }
    close_range(unsigned(std::max(first, 0)), ~0u, 0);
}

VMSGR_HOOK int dup(int fd) { return duplicated(fd, real.dup(fd)); }

VMSGR_INNER_HOOK int dup3_hook(int from, int to, int flags) {
    if (in_vfork_child()) {
        return duplicated(from, real.dup3(from, to, flags));
    }
    if (from == to || !(known(from) || known(to))) {
        return real.dup3(from, to, flags);
    }
    // What fails leaves the target as it is: the kernel's own checks, before ours is taken apart.
    if ((flags & ~O_CLOEXEC) != 0) {
        return real.dup3(from, to, flags);
    }
    if (sys::fcntl(from, F_GETFD) < 0 || beyond_limit(to)) {
        return bad_descriptor();
    }
    make_way(to);
    object* gone = leave_number(to);
    int r = real.dup3(from, to, flags);
    finish_quietly(gone);
    return duplicated(from, r);
}
VMSGR_CALM_HOOK(int, dup3, (int from, int to, int flags), (from, to, flags))

VMSGR_INNER_HOOK int dup2_hook(int from, int to) {
    if (in_vfork_child()) {
        return duplicated(from, real.dup2(from, to));
    }
    if (from == to || !(known(from) || known(to))) {
        return real.dup2(from, to);
    }
    return dup3(from, to, 0);
}
VMSGR_CALM_HOOK(int, dup2, (int from, int to), (from, to))

static int fcntl_hook(int (*call)(int, int, ...), int fd, int cmd, void* arg) {
    if (table != nullptr && (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC)) {
        return duplicated(fd, call(fd, cmd, arg));
    }
    if (known(fd) && cmd == F_SETFL) {
        use o(fd, kind::stream);
        if (o) {
            bool waits = (reinterpret_cast<uintptr_t>(arg) & O_NONBLOCK) == 0;
            o->stream.page().nonblocking.store(!waits, std::memory_order_relaxed);
            expect_signals(*o.get(), fd);
        }
    }
    return call(fd, cmd, arg);
}

VMSGR_HOOK int fcntl(int fd, int cmd, ...) {
    va_list ap;
    va_start(ap, cmd);
    void* arg = va_arg(ap, void*);
    va_end(ap);
    return fcntl_hook(real.fcntl, fd, cmd, arg);
}

VMSGR_HOOK int fcntl64(int fd, int cmd, ...) {
    va_list ap;
    va_start(ap, cmd);
    void* arg = va_arg(ap, void*);
    va_end(ap);
    return fcntl_hook(real.fcntl64, fd, cmd, arg);
}

VMSGR_INNER_HOOK int epoll_ctl_hook(int epfd, int op, int fd, epoll_event* event) {
    if (!(known(epfd) || known(fd)) || in_vfork_child()) {
        return real.epoll_ctl(epfd, op, fd, event);
    }
    before_epoll_ctl(epfd, op, fd, event);
    int r = real.epoll_ctl(epfd, op, fd, event);
    if (r != 0) {
        return r;
    }
    after_epoll_ctl(epfd, op, fd, event);
    if (!known(fd)) {
        return r;
    }
    // Followed is what may still be swapped; and for a connection that stands, in which sets it is, for its close.
    use o(fd);
    if (o && o->what == kind::stream && event != nullptr) {
        note_interest(o->stream, event->events);
    }
    bool final = o && o->what == kind::stream && client::stands(o->stream.page().state.load());
    bool nothing_new = final && is_recorded(*o.get(), epfd, op, fd);
    if (o && !nothing_new && (o->what == kind::socket || o->what == kind::listener || o->what == kind::stream)) {
        table_lock l;
        record_registration(epfd, op, fd, event);
    }
    return r;
}
VMSGR_CALM_HOOK(int, epoll_ctl, (int epfd, int op, int fd, epoll_event* event), (epfd, op, fd, event))

namespace {

void make_way(int fd) noexcept {
    if (is_internal(fd)) {
        move_internal(fd);
    }
}

}  // namespace
