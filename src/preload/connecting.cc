#include "preload/connecting.hh"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>

#include "base/signal_lock.hh"
#include "base/sockets.hh"
#include "base/source.hh"
#include "base/sys.hh"
#include "client/dialled.hh"
#include "client/hand_over.hh"
#include "client/local_routing.hh"
#include "preload/objects.hh"
#include "preload/own_numbers.hh"
#include "preload/real.hh"
#include "preload/runtime.hh"
#include "preload/swap.hh"
#include "proto/control.hh"

namespace vmsgr::preload {

namespace {

// No number leads to it any more. Under the lock.
void take_numbers_from(object* o) noexcept {
    for (int fd = 0; fd <= highest_number(); ++fd) {
        if (at_number(fd) == o) {
            clear_number(fd);
        }
    }
}

// Puts the end of a connection behind the number. `keep_port`: the socket that was there is kept, as it holds the port.
// False: the kernel refuses that; the other end sees a reset.
bool put_behind(int fd, client::conduit_end& end, spare_object& place, bool keep_port,
                std::string_view route) noexcept {
    base::signals_blocked together;
    int port = keep_port ? duplicate_internal(fd) : -1;
    object* old = nullptr;
    object* o = nullptr;
    bool done = false;
    {
        table_lock l;
        o = place.take(kind::stream);
        o->stream = std::move(end.stream);
        object* before = at_number(fd);
        if (before != nullptr && o->stream.is_local()) {
            o->stream.page().options = before->options;
            o->stream.page().options.forget(IPPROTO_TCP, TCP_QUICKACK);
        }
        if (before != nullptr) {
            o->stream.obey(before->options, fd);
            if (o->stream.page().lowat.load() > 1) {
                const int any = 1;
                sys::setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &any, sizeof any);  // who carries it moves what there is
            }
            o->stream.page().port_bound.store(before->bound ? 1 : 0);
        }
        o->port_fd = port;
        old = swap_behind(fd, before, o, end.bell.get(), &done);
        if (!done) {
            o->stream.reset_peer();
            take_numbers_from(o);
        }
    }
    if (port >= 0) {
        mark_internal(&o->port_fd);
    }
    if (const uint32_t low = o->stream.page().lowat.load(); done && low > 1) {
        o->stream.set_low_mark(fd, low);
    }
    if (done && o->stream.is_local()) {
        auto& page = o->stream.page();
        proto::copy_text(page.route, route);
        o->stream.show_in(runtime().session.show_local({fd, page.local, page.peer, false, route}));
    }
    for (object* dead : {old, done ? nullptr : o}) {
        if (dead != nullptr) {
            finish(dead);
        }
    }
    return done;
}

// The kernel has connected the socket, or is about to: from here on the daemon carries it. Or the socket is only bound,
// and the daemon finds a way. False: nothing was changed, the socket stays the kernel's.
bool hand_over(int fd, const base::address& peer, const proto::route& route, client::phase state,
               std::optional<proto::without_trunk> by_trunk = {}) noexcept {
    auto& rt = runtime();
    client::conduit_end end;
    spare_object place;
    if (!place || !client::make_conduit_end(rt.session, fd, peer, state, end)) {
        return false;
    }
    // The message carries a duplicate of the socket, so the number may change after it.
    if (!client::hand_over(rt.session, end, fd, fd, peer, route.name_text(), by_trunk)) {
        return false;
    }
    if (!put_behind(fd, end, place, false, route.name_text())) {
        sockaddr none{};  // the daemon has it, and nobody else can: reset
        none.sa_family = AF_UNSPEC;
        sys::connect(fd, &none, sizeof none);
    }
    log("connect of %d goes through vmsgrd by route '%s'", fd, route.name.data());
    return true;
}

// How far a connect() has come that did not return 0. On one host it is often decided by now, though connect() says
// EINPROGRESS; a failure stays the kernel's to tell.
enum class attempt : uint8_t { pending, up, failed };
attempt look_at_attempt(int fd) noexcept {
    pollfd p{fd, POLLOUT, 0};
    if (sys::poll(&p, 1, 0) == 0) {
        return attempt::pending;
    }
    return (p.revents & (POLLERR | POLLHUP)) != 0 ? attempt::failed : attempt::up;
}

// Nearly half of the numbers below the limit may go to ports, so that the program can have the other half; beyond that
// the other end keeps them.
bool port_fits(int fd) noexcept {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    const rlim_t kept_free = limit.rlim_cur / client::slots_a_file_min * 2 + 64;  // files of memory
    return rlim_t(fd) + kept_free < limit.rlim_cur / 2;
}

// TCP signals that a connection stands, where O_ASYNC was set before. The doorbell has that flag from now on, and what
// came before, the first bytes maybe, brought no signal.
void signal_connected(int fd) noexcept {
    f_owner_ex owner{};
    const int chosen = sys::fcntl(fd, F_GETSIG);
    if (sys::fcntl(fd, F_GETOWN_EX, long(&owner)) != 0 || owner.pid == 0 || chosen < 0) {
        return;
    }
    siginfo_t info{};
    info.si_signo = chosen != 0 ? chosen : SIGIO;
    info.si_code = POLL_OUT;
    info.si_fd = fd;
    info.si_band = POLLOUT | POLLWRNORM | POLLWRBAND;
    if (chosen != 0 && owner.type == F_OWNER_PID && owner.pid == ::getpid()) {
        sys::call(SYS_rt_sigqueueinfo, owner.pid, info.si_signo, &info);
    } else if (chosen != 0 && owner.type == F_OWNER_TID) {
        sys::call(SYS_rt_tgsigqueueinfo, ::getpid(), owner.pid, info.si_signo, &info);
    } else if (owner.type == F_OWNER_TID) {
        sys::call(SYS_tgkill, ::getpid(), owner.pid, info.si_signo);
    } else {
        sys::call(SYS_kill, owner.type == F_OWNER_PGRP ? -owner.pid : owner.pid, info.si_signo);
    }
}

// A peer that listens in a program of the same daemon is dialled: the two share one conduit, and TCP has no part in
// it but the port, which the socket keeps. False: nothing has changed, but that the socket may be bound.
bool connect_locally(int fd, const base::address& asked, const proto::route& route) noexcept {
    auto& rt = runtime();
    if (!route.local) {
        return false;
    }
    const auto to = client::find_local_peer(rt.session, fd, asked);
    // By a route via: local a connect that the kernel has begun is its own.
    if (to.listener.id == 0 || !base::is_unconnected(fd)) {
        return false;
    }
    spare_object place;
    if (!place) {
        return false;
    }
    const bool waits = base::blocks(fd);
    const bool keep_port = port_fits(fd);
    client::conduit_end end;
    const int e = client::dial_local(rt.session, fd, to, rt.session.local_ring_bytes(),
                                     waits ? client::phase::up : client::phase::up_untold, !keep_port, end);
    if (e != 0) {
        log("the listener of '%s' was not dialled (%s): TCP brings it there", route.name.data(), strerror(e));
        return false;
    }
    if (!put_behind(fd, end, place, keep_port, route.name_text())) {
        return false;
    }
    if (end.wants_signals) {
        signal_connected(fd);
    }
    log("connect of %d goes to another program by route '%s'", fd, route.name.data());
    errno = EINPROGRESS;
    return true;
}

// The daemon finds the way: the socket is bound, so that it has its address and port, and connects only if there is no
// trunk. False: nothing has changed, but that the socket may be bound.
bool connect_by_trunk(int fd, const base::address& peer, const proto::route& route) noexcept {
    auto& rt = runtime();
    return client::bind_for_trunk(rt.session, fd, peer) &&
           hand_over(fd, peer, route, client::phase::connecting, route.without_trunk);
}

// The kernel's socket stands behind the number again.
bool give_back(int fd, base::unique_fd socket) noexcept {
    copy_description(fd, socket.get());
    object* old = nullptr;
    {
        table_lock l;
        object* fresh = new_object(kind::socket);
        if (fresh == nullptr) {
            errno = ENOMEM;
            return false;
        }
        old = swap_behind(fd, at_number(fd), fresh, socket.get());
    }
    if (old != nullptr) {
        finish(old);
    }
    return true;
}

// After a failed connect the daemon has sent the socket back over the doorbell, with all its options.
base::unique_fd sent_back(int fd) noexcept {
    unsigned char tokens[64];
    proto::received got;
    while (proto::receive_with_fds(fd, tokens, sizeof tokens, MSG_DONTWAIT, got) == 0 && got.bytes != 0) {
        if (got.fd_count == 1) {
            return std::move(got.fds[0]);
        }
    }
    return {};
}

// A failed connect has been told: the number is the kernel's socket again, for another attempt.
bool become_socket(int fd, object* o) noexcept {
    base::unique_fd socket = sent_back(fd);
    if (socket) {
        // The daemon took the error; the kernel still has to be told that the attempt is over.
        sockaddr none{};
        none.sa_family = AF_UNSPEC;
        sys::connect(socket.get(), &none, sizeof none);
    } else {
        socket.reset(sys::socket(o->stream.page().family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    }
    if (!socket) {
        return false;
    }
    o->stream.give_up_hold();
    return give_back(fd, std::move(socket));
}

// connect() on a number that is a conduit already. `again`: it is the kernel's socket now, for another attempt.
int connect_stream(int fd, object* o, bool& again) noexcept {
    int r = o->stream.connect_again(fd, again);
    if (again) {
        again = become_socket(fd, o);
        r = again ? 0 : -1;
    }
    return r;
}

// A blocking connect() that the daemon carries out.
int wait_connected(int fd, object* o) {
    int r = o->stream.connect_and_wait(fd);
    const int err = errno;
    if (r != 0 && o->stream.current() == client::phase::failed) {  // it may stand: another thread was told so first
        become_socket(fd, o);
    }
    errno = err;
    return r;
}

// The route carries something.
int connect_by_route(int fd, const sockaddr* sa, socklen_t len, const base::address& peer, const proto::route& route) {
    auto& rt = runtime();
    const bool attached = rt.session.ensure();
    // A listener that was known before the daemon went away is dialled without it.
    if (connect_locally(fd, peer, route)) {
        use o(fd, kind::stream);
        return o && o->stream.page().state.load() == client::phase::up ? 0 : -1;
    }
    if (route.way == proto::via::local) {
        return real.connect(fd, sa, len);
    }
    if (!attached) {
        rt.session.count_fall_back();
        if (route.without_daemon == proto::fallback::fail) {
            log("no vmsgrd, and route '%s' has fallback: fail", route.name.data());
            errno = ENETUNREACH;
            return -1;
        }
        return real.connect(fd, sa, len);
    }
    if (route.way == proto::via::trunk && connect_by_trunk(fd, peer, route)) {
        use o(fd, kind::stream);
        bool waits = base::blocks(fd);
        if (o && waits) {
            return wait_connected(fd, o.get());
        }
        errno = EINPROGRESS;
        return -1;
    }
    if (route.only_by_trunk() && !base::is_this_host(peer)) {
        log("no way by trunk for %d, and route '%s' allows no other", fd, route.name.data());
        errno = ENETUNREACH;
        return -1;
    }
    // The kernel connects, so its errors, its waiting and its EINTR are exact. What stands is handed over.
    int r = real.connect(fd, sa, len);
    int err = errno;
    if (r == 0 || err == EINPROGRESS || err == EALREADY) {
        attempt now = r == 0 ? attempt::up : look_at_attempt(fd);
        auto state = r == 0               ? client::phase::up
                     : now == attempt::up ? client::phase::up_untold
                                          : client::phase::connecting;
        if (now != attempt::failed && !hand_over(fd, peer, route, state)) {
            rt.session.count_fall_back();
        }
    }
    errno = err;
    return r;
}

}  // namespace

bool recall(int fd, object* o) noexcept {
    int socket = o->stream.is_local() ? sys::fcntl(o->port_fd, F_DUPFD_CLOEXEC, 0)
                                      : runtime().session.borrow(fd, o->stream.page().id, true);
    if (socket < 0 && o->stream.is_local()) {
        socket = sys::socket(o->stream.page().family, SOCK_STREAM | SOCK_CLOEXEC, 0);  // the end that accepted has none
    }
    if (socket < 0) {
        return false;
    }
    o->stream.flags().fetch_or(shm::end_recalled, std::memory_order_release);
    if (o->stream.is_local()) {
        o->stream.reset_peer();
    }
    o->stream.give_up_hold();
    return give_back(fd, base::unique_fd(socket));
}

int routed_connect(int fd, const sockaddr* sa, socklen_t len) {
    {
        use o(fd);
        if (o && o->what == kind::internal) {
            errno = EBADF;
            return -1;
        }
        if (o && o->what == kind::listener) {
            return real.connect(o->listener.kernel_fd, sa, len);
        }
        if (o && o->what == kind::stream && len >= sizeof(sa_family_t) && sa != nullptr && sa->sa_family == AF_UNSPEC) {
            return recall(fd, o.get()) ? real.connect(fd, sa, len) : 0;
        }
        if (o && o->what == kind::stream) {
            bool again = false;
            int r = connect_stream(fd, o.get(), again);
            if (!again) {
                return r;
            }
        }
    }
    auto peer = base::from_sockaddr(sa, len);
    auto& rt = runtime();
    const proto::route* route = peer ? rt.routes.match(rt.program, proto::role::client, *peer) : nullptr;
    if (route == nullptr || route->way == proto::via::posix || base::socket_option(fd, SO_TYPE) != SOCK_STREAM ||
        base::socket_option(fd, SO_PROTOCOL) != IPPROTO_TCP || base::peer_name(fd).family != 0) {
        return real.connect(fd, sa, len);
    }
    if (route->way == proto::via::deny) {
        errno = EACCES;
        return -1;
    }
    return connect_by_route(fd, sa, len, *peer, *route);
}

}  // namespace vmsgr::preload
