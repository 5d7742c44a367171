#include "client/channels/channel_listener.hh"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <algorithm>

#include "base/clock.hh"
#include "base/sys.hh"
#include "client/carry.hh"
#include "client/failures.hh"
#include "proto/control.hh"
#include "shm/bell.hh"

namespace vmsgr::client {

namespace {

base::error os_error(const std::string& what) {
    const int e = errno;
    return {e, what + ": " + strerror(e)};
}

base::error denied(const base::address& at) {
    const std::string where = base::to_string(at);
    return {EACCES, "a route of vmsgrd denies listening on " + where + ": see vmsgr routes test " + where +
                        " --role server"};
}

}  // namespace

base::result<bool> channel_listener::start(const base::address& at, int backlog) {
    if (auto bad = unfit(_options, _session->ring_bytes()); bad.errnum != 0) {
        return std::unexpected(bad);
    }
    _socket.reset(sys::socket(at.family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    _ready.reset(::epoll_create1(EPOLL_CLOEXEC));
    _timer.reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!_socket || !_ready || !_timer) {
        return std::unexpected(os_error("no descriptors for a listener (see ulimit -n)"));
    }
    watch(_timer.get(), true);
    const int on = 1;
    sys::setsockopt(_socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_storage ss{};
    const socklen_t length = base::to_sockaddr(at, ss);
    if (::syscall(SYS_bind, _socket.get(), &ss, length) != 0 || ::syscall(SYS_listen, _socket.get(), backlog) != 0) {
        auto why = os_error("cannot listen on " + base::to_string(at));
        if (why.errnum == EADDRINUSE) {
            why.text += "; choose another port, or end who has it (ss -ltnp)";
        }
        return std::unexpected(why);
    }
    _address = local_name(_socket.get());
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
    auto way = proto::via::direct;
    if (_session->way(proto::role::server, _address, way) == 0 && way == proto::via::deny) {
        rest(true);  // so that the descriptor stays readable
        return EACCES;
    }
    auto bell = _session->ensure() ? shm::make_listener_bell() : base::fail(ENOTCONN, "");
    job j{.key = random_key(),
          .fd = _socket.get(),
          .address = _address,
          .route = _options.name,
          .backlog = uint32_t(SOMAXCONN)};
    if (!bell || !_session->post_listen(j, _socket.get(), bell->other.get())) {
        rest(true);
        return EAGAIN;
    }
    _bell = std::move(bell->program);
    watch(_bell.get(), true);
    rest(false);
    return 0;
}

void channel_listener::refuse(std::string why) {
    ++_refused;
    _last_refusal = std::move(why);
}

// False: nothing more comes now.
base::result<bool> channel_listener::take_one() {
    proto::accepted_msg m;
    proto::received got;
    int e = proto::receive_with_fds(_bell.get(), &m, sizeof m, MSG_DONTWAIT, got);
    if (e == EAGAIN || e == EINTR) {
        return false;
    }
    if (e != 0 || got.bytes == 0) {
        watch(_bell.get(), false);
        _bell.reset();  // vmsgrd ended, or does not take this listener; the port stays open
        rest(true);
        return false;
    }
    if (got.bytes == sizeof m && m.magic == proto::control_magic && (m.flags & proto::accepted_plain) != 0) {
        refuse(base::to_string(m.peer) + ": vmsgrd has no room to carry it (limits)");
        return true;
    }
    if (got.bytes != sizeof m || m.magic != proto::control_magic || got.fd_count != 3) {
        return base::fail(EMFILE, "a connection was lost: no descriptors came with it (see ulimit -n)");
    }
    const bool local = (m.flags & proto::accepted_local) != 0;
    auto c = make_channel({std::move(got.fds[1]), std::move(got.fds[0]), local ? 1u : 0u, local, m.local, m.peer, true},
                          _session, _options.settings);
    if (!c) {
        refuse(base::to_string(m.peer) + ": " + c.error().text);
        return true;
    }
    _session->show_fd(m.slot, m.key, (*c)->fd());
    watch((*c)->fd(), true);
    _strangers.push_back({std::move(*c), now_ms() + hello_timeout_ms});
    return true;
}

base::result<bool> channel_listener::take_connections() {
    uint64_t ticks = 0;
    if (::syscall(SYS_read, _timer.get(), &ticks, sizeof ticks) > 0 && !_bell && attach() == EACCES) {
        return std::unexpected(denied(_address));
    }
    while (_bell && _strangers.size() <= unknown_max) {
        auto more = take_one();
        if (!more || !*more) {
            return more;
        }
    }
    return true;
}

std::unique_ptr<channel> channel_listener::first_greeted() {
    const int64_t now = now_ms();
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
        int own = int(std::max<int64_t>(s.until_ms - now_ms(), 1));
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
