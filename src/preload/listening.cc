#include "preload/listening.hh"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>

#include "base/netns.hh"
#include "base/signal_lock.hh"
#include "base/sockets.hh"
#include "base/sys.hh"
#include "client/dialled.hh"
#include "preload/inherit.hh"
#include "preload/objects.hh"
#include "preload/own_numbers.hh"
#include "preload/real.hh"
#include "preload/runtime.hh"
#include "preload/swap.hh"
#include "proto/control.hh"

namespace vmsgr::preload {

namespace {

uint32_t listen_flags(const listener_part& part) {
    const bool local = part.route->local && !defers_accept(part.kernel_fd);
    return (local ? 0u : uint32_t(proto::listen_no_local)) |
           (part.route->way == proto::via::local ? uint32_t(proto::listen_only_local) : 0u);
}

// Gives the listening socket to the daemon and puts a door behind the number. False: it stays the kernel's.
bool listen_by_daemon(int fd, object* o) noexcept {
    auto& rt = runtime();
    auto& part = o->listener;
    base::unique_fd door;
    // The daemon will change them, for all who share it.
    const int flags = sys::fcntl(part.kernel_fd, F_GETFL) & (O_NONBLOCK | O_ASYNC);
    const int e = rt.session.ensure()
                      ? client::listen_through_daemon(rt.session, part.kernel_fd, fd, part.route->name_text(),
                                                      listen_flags(part), int(part.backlog.load()), part.door, door)
                      : ENOTCONN;
    if (e != 0) {
        return false;
    }
    copy_description(part.kernel_fd, door.get());
    sys::fcntl(door.get(), F_SETFL, O_RDWR | flags);
    table_lock l;
    if (o->dead) {
        return false;
    }
    part.by_daemon.store(true);
    bool done = false;
    swap_behind(fd, o, o, door.get(), &done);
    if (!done) {
        part.by_daemon.store(false);
        return false;
    }
    log("listener %d goes through vmsgrd by route '%s'", fd, part.route->name.data());
    return true;
}

// The daemon is gone or has refused: the number becomes the kernel's listening socket, which never stopped.
void listen_by_kernel(int fd, object* o) noexcept {
    if (!put_kernel_socket_behind(fd, o)) {
        return;  // another thread was faster
    }
    log("vmsgrd is gone: listener %d is served by the kernel", fd);
    runtime().session.count_fall_back();
    watch_for_daemon();
}

std::atomic<int> last_number{0};  // that accept() gave

void forget_stale(object* stale) noexcept {
    if (stale != nullptr) {
        finish(stale);
    }
}

// Makes a stream of what arrived, on the number that accept() gave it. The number, or -1 with errno: the other end is
// reset.
int take_connection(client::arrived& a, object* listener, int listener_fd, int flags) noexcept {
    base::signals_blocked together;
    auto& rt = runtime();
    auto page = client::take_page();
    spare_object spare;
    if (!page || !spare) {
        if (page) {
            page->release(true);
        }
        errno = ECONNABORTED;
        return -1;
    }
    const uint64_t id = a.by_daemon ? a.hello.id : rt.session.next_id();
    const uint32_t shown = a.hello.shown;
    auto stream = client::make_accepted(a, std::move(*page), id);
    // A connection whose options do not lie on a socket that the listener's were inherited by.
    if (!a.by_daemon || (a.hello.flags & proto::dial_trunk) != 0) {
        auto& options = stream.page().options;
        options = listener->options;
        options.forget(SOL_SOCKET, SO_PRIORITY);  // these are not inherited
        options.forget(IPPROTO_TCP, TCP_QUICKACK);
    }
    stream.obey(listener->options, listener->listener.kernel_fd);
    if (listener->listener.timeouts) {
        copy_description(listener_fd, a.bell.get());
        sys::fcntl(a.bell.get(), F_SETFL, O_RDWR | ((flags & SOCK_NONBLOCK) != 0 ? O_NONBLOCK : 0));
    }
    stream.page().nonblocking.store((flags & SOCK_NONBLOCK) != 0, std::memory_order_relaxed);
    if ((flags & SOCK_CLOEXEC) == 0) {
        sys::fcntl(a.bell.get(), F_SETFD, 0);
    }
    const int fd = a.bell.get();
    if (const uint32_t low = stream.page().lowat.load(); low > 1) {
        stream.set_low_mark(fd, low);
    }
    if (stream.is_local()) {
        proto::copy_text(stream.page().route, listener->listener.route->name_text());
        stream.show_in(rt.session.show_local({fd, a.local, a.peer, true, listener->listener.route->name_text()}));
    }
    object* stale = nullptr;
    object* o = nullptr;
    {
        table_lock l;
        o = spare.take(kind::stream);
        o->stream = std::move(stream);
        o->port_fd = a.port.release();
        stale = set_number(fd, o);
    }
    if (o->port_fd >= 0) {
        make_internal(&o->port_fd);
    }
    forget_stale(stale);
    a.bell.release();
    rt.session.show_fd(shown, id, fd);
    return fd;
}

// vmsgrd does not carry this one: it is what the kernel's accept would have given, on the number of the door's.
int take_kernel_socket(client::arrived& a, const proto::route& route, int flags) noexcept {
    const int fd = replace_number(a.bell.get(), a.port.get(), (flags & SOCK_CLOEXEC) != 0) ? a.bell.get() : -1;
    if (fd < 0) {
        base::linger_no_time(a.port.get());
        errno = ECONNABORTED;
        return -1;
    }
    a.bell.release();
    sys::fcntl(fd, F_SETFL, O_RDWR | ((flags & SOCK_NONBLOCK) != 0 ? O_NONBLOCK : 0));
    object* stale = nullptr;
    {
        table_lock l;
        stale = clear_number(fd);
    }
    forget_stale(stale);
    if (route.way != proto::via::local) {
        runtime().session.count_fall_back();
    }
    return fd;
}

// The program has shut it down, and listens again: with another door.
void listen_anew(int fd, object* o, int backlog) noexcept {
    o->listener.backlog.store(uint32_t(std::max(backlog, 0)), std::memory_order_relaxed);
    if (!listen_by_daemon(fd, o)) {
        listen_by_kernel(fd, o);
    }
}

int accept_by_kernel(int fd, object* o, sockaddr* sa, socklen_t* len, int flags) {
    o->listener.kernel_waiters.fetch_add(1);
    int r = o->listener.by_daemon.load() ? -1 : real.accept4(fd, sa, len, flags);
    if (r < 0 && o->listener.by_daemon.load()) {
        r = -2;
    }
    o->listener.kernel_waiters.fetch_sub(1);
    return r;
}

// The socket listens. It goes to the daemon, or waits for it; without room for ours the kernel's listener does the job.
void take_listener(int fd, int backlog, const proto::route& route) noexcept {
    int kernel_fd = sys::fcntl(fd, F_DUPFD_CLOEXEC, fd + 1);
    listener_page* page = kernel_fd >= 0 ? make_listener_page(1) : nullptr;
    if (page == nullptr) {
        sys::close(kernel_fd);
        return;
    }
    object* o = nullptr;
    object* old = nullptr;
    {
        table_lock l;
        o = new_object(kind::listener);
        if (o != nullptr) {
            o->listener.kernel_fd = kernel_fd;
            o->listener.page = page;
            o->listener.route = &route;
            o->listener.backlog.store(uint32_t(std::max(backlog, 0)), std::memory_order_relaxed);
            if (object* before = at_number(fd)) {
                o->options = before->options;
            }
            old = swap_behind(fd, at_number(fd), o, kernel_fd);
        }
    }
    if (o == nullptr) {
        drop_listener_page(page);
        sys::close(kernel_fd);
        return;
    }
    make_internal(&o->listener.kernel_fd);
    forget_stale(old);
    if (!listen_by_daemon(fd, o)) {
        runtime().session.count_fall_back();
        log("no vmsgrd: listener %d is served by the kernel until it is there", fd);
        watch_for_daemon();
    }
}

}  // namespace

int routed_listen(int fd, int backlog) {
    {
        use o(fd, kind::listener);
        if (o) {
            const int r = real.listen(o->listener.kernel_fd, backlog);
            if (r == 0 && o->listener.shut.exchange(false)) {
                listen_anew(fd, o.get(), backlog);
            } else if (r == 0 && o->listener.by_daemon.load()) {
                real.listen(fd, backlog);  // the door's backlog too
            }
            return r;
        }
    }
    int r = real.listen(fd, backlog);
    if (r != 0) {
        return r;
    }
    auto& rt = runtime();
    base::address local = base::local_name(fd);
    const proto::route* route = local.family != 0 ? rt.routes.match(rt.program, proto::role::server, local) : nullptr;
    int type = 0, protocol = 0;
    socklen_t len = sizeof type;
    if (route == nullptr || route->way == proto::via::posix ||
        sys::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) != 0 || type != SOCK_STREAM ||
        sys::getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) != 0 || protocol != IPPROTO_TCP) {
        return r;
    }
    if (route->way == proto::via::local && defers_accept(fd)) {
        log("listener %d stays the kernel's: it defers accepting, and route '%s' is via: local", fd,
            route->name.data());
        return r;
    }
    if (route->way != proto::via::deny && !client::may_make_pages()) {
        log("listener %d stays the kernel's: RLIMIT_FSIZE leaves no room for memory", fd);
        return r;
    }
    if (route->way == proto::via::deny) {
        real.shutdown(fd, SHUT_RDWR);  // stops listening
        errno = EACCES;
        return -1;
    }
    take_listener(fd, backlog, *route);
    return 0;
}

int routed_accept(int fd, sockaddr* sa, socklen_t* len, int flags) {
    if ((flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) != 0) {
        errno = EINVAL;
        return -1;
    }
    if (sa != nullptr && len != nullptr && int(*len) < 0) {
        errno = EINVAL;
        return -1;
    }
    for (;;) {
        use o(fd, kind::listener);
        if (!o) {
            return real.accept4(fd, sa, len, flags);
        }
        if (!o->listener.by_daemon.load()) {
            int r = accept_by_kernel(fd, o.get(), sa, len, flags);
            if (r != -2) {
                return r;
            }
            continue;
        }
        client::arrived a;
        const int err = room_to_accept(last_number.load(std::memory_order_relaxed))
                            ? client::accept_dialled(runtime().session, fd, o->listener.door, flags, a)
                            : EMFILE;
        if (err == EMFILE && o->listener.told_shortage.exchange(true) && !base::blocks(fd)) {
            // Once for each shortage: the fifth error in a row aborts an OSD of Ceph. The connection waits.
            errno = EAGAIN;
            return -1;
        }
        if (err == ESTALE) {
            listen_by_kernel(fd, o.get());
            continue;
        }
        if (err != 0) {
            errno = err == EAGAIN && o->listener.shut.load() ? EINVAL : err;
            return -1;
        }
        const base::address peer = a.peer;
        const int r = a.plain ? take_kernel_socket(a, *o->listener.route, flags)
                              : take_connection(a, o.get(), fd, flags);
        if (r < 0) {
            return -1;
        }
        last_number.store(r, std::memory_order_relaxed);
        o->listener.told_shortage.store(false, std::memory_order_relaxed);
        if (sa != nullptr && len == nullptr) {
            ::close(r);  // our own: the kernel, too, ends the connection in order
            errno = EFAULT;
            return -1;
        }
        serve_stdio(r);
        if (sa != nullptr) {
            base::give_name(peer, sa, len);
        }
        return r;
    }
}

namespace {

bool waits_for_daemon(const listener_part& part) noexcept {
    return !part.by_daemon.load() && !part.shut.load() && part.page != nullptr && part.page->given.load() == 0;
}

}  // namespace

bool listeners_wait() noexcept {
    table_lock l;
    for (int fd = 0; fd <= highest_number(); ++fd) {
        object* o = at_number(fd);
        if (o != nullptr && o->what == kind::listener && waits_for_daemon(o->listener)) {
            return true;
        }
    }
    return false;
}

void listen_again() noexcept {
    for (int fd = 0; fd <= highest_number(); ++fd) {
        use o(fd, kind::listener);
        // A thread that sleeps in the kernel's accept would miss what comes over a doorbell: its turn is later.
        if (o && waits_for_daemon(o->listener) && o->listener.kernel_waiters.load() == 0) {
            listen_by_daemon(fd, o.get());
        }
    }
}

namespace {

// What an heir of a listener finds with the daemon (docs/PROTOCOL.md, 9).
struct deposited {
    proto::secret word;
    uint64_t id;
    uint32_t flags;  // proto::listen_flag
    uint32_t spare;
};
static_assert(sizeof(deposited) == 32 && sizeof(deposited) <= proto::data_bytes);

}  // namespace

void deposit_listener(int fd, const object& o) noexcept {
    const auto& door = o.listener.door;
    const deposited d{door.word, door.id, listen_flags(o.listener), 0};
    std::array<uint8_t, proto::data_bytes> data{};
    memcpy(data.data(), &d, sizeof d);
    runtime().session.deposit(fd, {}, data, door.id);
}

object* inherited_listener(client::inherited& from) noexcept {
    static constexpr proto::route inherited{.name = {"inherited"}};
    static constexpr proto::route inherited_local{.name = {"inherited"}, .way = proto::via::local};
    if (from.fd_count != 2 || base::not_tcp(from.fds[0].get()) != nullptr) {
        return nullptr;
    }
    client::daemon_listener door;
    if (!client::learn_place(from.fds[0].get(), door)) {
        return nullptr;
    }
    // Its relative may hold it still: the last holder is never known.
    listener_page* page = make_listener_page(2);
    if (page == nullptr) {
        return nullptr;
    }
    object* o = nullptr;
    {
        table_lock l;
        o = new_object(kind::listener);
        if (o == nullptr) {
            drop_listener_page(page);
            return nullptr;
        }
        auto& rt = runtime();
        auto& part = o->listener;
        part.kernel_fd = from.fds[0].release();
        part.door = door;
        part.door.lifeline = from.fds[1].release();
        deposited d;
        memcpy(&d, from.data.data(), sizeof d);
        part.door.word = d.word;
        part.door.id = d.id;
        part.page = page;
        const proto::route* route = rt.routes.match(rt.program, proto::role::server, part.door.own);
        const bool only_local = (d.flags & proto::listen_only_local) != 0;
        part.route = route != nullptr ? route : only_local ? &inherited_local : &inherited;
        part.by_daemon.store(true);
    }
    make_internal(&o->listener.kernel_fd);
    make_internal(&o->listener.door.lifeline);
    return o;
}

void stop_listening(object* o) noexcept {
    auto& part = o->listener;
    if (part.page->holders.fetch_sub(1) == 1 && part.by_daemon.load()) {
        part.shut.store(true);
        leave_daemon(part);
    }
}

bool defers_accept(int socket) noexcept {
    int seconds = 0;
    socklen_t len = sizeof seconds;
    return sys::getsockopt(socket, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, &len) == 0 && seconds != 0;
}

}  // namespace vmsgr::preload
