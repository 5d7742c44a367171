#include "client/channels/channel_listener.hh"

#include <errno.h>
#include <string.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <algorithm>

#include "base/clock.hh"
#include "base/sys.hh"
#include "base/sockets.hh"
#include "client/failures.hh"
#include "client/kept_fds.hh"
#include "proto/control.hh"
#include "shm/bell.hh"

namespace vmsgr::client {

namespace {

base::error denied(const base::address& at) {
    const std::string where = base::to_string(at);
    return {EACCES,
            "a route of vmsgrd denies listening on " + where + ": see vmsgr routes test " + where + " --role server"};
}

}  // namespace

channel_listener::channel_listener(channel_listener&& o) noexcept
    : _session(std::move(o._session)),
      _options(std::move(o._options)),
      _socket(std::move(o._socket)),
      _door(std::move(o._door)),
      _ready(std::move(o._ready)),
      _timer(std::move(o._timer)),
      _listener(std::exchange(o._listener, {})),
      _address(o._address),
      _strangers(std::move(o._strangers)) {}

channel_listener::~channel_listener() { drop_fd(&_listener.lifeline); }

base::result<bool> channel_listener::start(const base::address& at, int backlog) {
    if (auto bad = unfit(_options, _session->ring_bytes()); bad.errnum != 0) {
        return std::unexpected(bad);
    }
    _socket.reset(sys::socket(at.family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    _ready.reset(::epoll_create1(EPOLL_CLOEXEC));
    _timer.reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!_socket || !_ready || !_timer) {
        return std::unexpected(base::os_error("no descriptors for a listener (see ulimit -n)"));
    }
    watch(_timer.get(), true);
    const int on = 1;
    sys::setsockopt(_socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_storage ss{};
    const socklen_t length = base::to_sockaddr(at, ss);
    if (sys::call(SYS_bind, _socket.get(), &ss, length) != 0 || sys::call(SYS_listen, _socket.get(), backlog) != 0) {
        auto why = base::os_error("cannot listen on " + base::to_string(at));
        if (why.errnum == EADDRINUSE) {
            why.text += "; choose another port, or end who has it (ss -ltnp)";
        }
        return std::unexpected(why);
    }
    _address = base::local_name(_socket.get());
    switch (attach()) {
    case 0: break;
    case EACCES: return std::unexpected(denied(_address));
    default: return base::fail(EAGAIN, "vmsgrd takes no listener now (just ended, or its list is full): try again");
    }
    return true;
}

void channel_listener::watch(int fd, bool on) noexcept {
    epoll_event e{EPOLLIN, {.fd = fd}};
    ::epoll_ctl(_ready.get(), on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, fd, &e);
}

// A look at the daemon now and then, while it is away.
void channel_listener::rest(bool on) noexcept {
    itimerspec t{};
    if (on) {
        t.it_value.tv_nsec = t.it_interval.tv_nsec = reattach_period_ms * 1'000'000L;
    }
    ::timerfd_settime(_timer.get(), 0, &t, nullptr);
}

// 0, or EACCES, or that it will be tried again.
int channel_listener::attach() {
    proto::route route;
    if (_session->way(proto::role::server, _address, route) == 0 && route.way == proto::via::deny) {
        rest(true);  // so that the descriptor stays readable
        return EACCES;
    }
    const int e = _session->ensure() ? listen_through_daemon(*_session, _socket.get(), _socket.get(), _options.name, 0,
                                                             SOMAXCONN, _listener, _door)
                                     : ENOTCONN;
    if (e != 0) {
        rest(true);
        return EAGAIN;
    }
    // Nobody waits in its accept, but in poll().
    sys::fcntl(_door.get(), F_SETFL, O_RDWR | O_NONBLOCK);
    watch(_door.get(), true);
    watch(_listener.lifeline, true);
    rest(false);
    return 0;
}

void channel_listener::refuse(std::string why) {
    ++_refused;
    _last_refusal = std::move(why);
}

// False: nothing more comes now.
base::result<bool> channel_listener::take_one() {
    arrived a;
    if (hangs_up(_listener.lifeline)) {
        sys::call(SYS_shutdown, _door.get(), SHUT_RD);  // what waits in the door is still taken, and no more comes
    }
    const int e = accept_dialled(*_session, _door.get(), _listener, SOCK_NONBLOCK, a);
    if (e == EAGAIN || e == EINTR) {
        return false;
    }
    if (e == EMFILE || e == ENFILE) {
        return base::fail(e, "no descriptor for a connection (see ulimit -n)");
    }
    if (e != 0) {
        watch(_listener.lifeline, false);
        watch(_door.get(), false);
        _door.reset();  // vmsgrd ended; the port stays open
        drop_fd(&_listener.lifeline);
        rest(true);
        return false;
    }
    if (a.plain) {
        refuse(base::to_string(a.hello.peer) + ": vmsgrd has no room to carry it (limits)");
        return true;
    }
    if (a.by_daemon) {
        shm::prepare_bell(a.bell.get(), a.hello.id);
    }
    auto c = make_channel({std::move(a.slot), std::move(a.bell), std::move(a.port), a.by_daemon ? 0u : 1u, !a.by_daemon,
                           a.local, a.peer, true, _options.name},
                          _session, _options.settings);
    if (!c) {
        refuse(base::to_string(a.peer) + ": " + c.error().text);
        return true;
    }
    _session->show_fd(a.hello.shown, a.hello.id, (*c)->fd());
    watch((*c)->fd(), true);
    _strangers.push_back({std::move(*c), base::now_ms() + hello_timeout_ms});
    return true;
}

base::result<bool> channel_listener::take_connections() {
    uint64_t ticks = 0;
    if (sys::call(SYS_read, _timer.get(), &ticks, sizeof ticks) > 0 && !_door && attach() == EACCES) {
        return std::unexpected(denied(_address));
    }
    while (_door && _strangers.size() <= unknown_max) {
        auto more = take_one();
        if (!more || !*more) {
            return more;
        }
    }
    return true;
}

std::unique_ptr<channel> channel_listener::first_greeted() {
    const int64_t now = base::now_ms();
    for (auto at = _strangers.begin(); at != _strangers.end();) {
        int e = at->end->greet(0);
        if (e == EAGAIN && now < at->until_ms) {
            ++at;
            continue;
        }
        auto end = std::move(at->end);
        at = _strangers.erase(at);
        watch(end->fd(), false);
        if (e == 0) {
            ++_accepted;
            return end;
        }
        refuse(end->ended() == channel_end::open ? base::to_string(end->peer()) + " said no hello in time: no channel?"
                                                 : how_it_ended(*end));
    }
    return nullptr;
}

// Until something comes, or a stranger's time is over.
int channel_listener::wait_ms(int left_ms) const noexcept {
    for (const auto& s : _strangers) {
        int own = int(std::max<int64_t>(s.until_ms - base::now_ms(), 1));
        left_ms = left_ms < 0 ? own : std::min(left_ms, own);
    }
    return left_ms;
}

base::error channel_listener::nothing_came(int errnum) const {
    return {errnum, by_daemon() ? "no channel came in time"
                                : "no channel came in time: vmsgrd is away, or takes no more listeners (limits)"};
}

base::result<std::unique_ptr<channel>> channel_listener::accept(int timeout_ms) {
    const base::deadline limit(timeout_ms);
    for (;;) {
        auto taken = take_connections();
        if (!taken) {
            return std::unexpected(taken.error());
        }
        if (auto c = first_greeted()) {
            return c;
        }
        if (_strangers.size() > unknown_max) {
            refuse(base::to_string(_strangers.front().end->peer()) + " said no hello, and " +
                   std::to_string(unknown_max) + " others came");
            _strangers.pop_front();
        }
        const int left = limit.left_ms();
        if (left == 0) {
            return std::unexpected(nothing_came(timeout_ms == 0 ? EAGAIN : ETIMEDOUT));
        }
        pollfd p{_ready.get(), POLLIN, 0};
        if (sys::poll(&p, 1, wait_ms(left)) < 0) {
            const int e = errno;
            return base::fail(e, strerror(e));
        }
    }
}

}  // namespace vmsgr::client
