#include "local/listener.hh"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include <seastar/core/coroutine.hh>
#include <seastar/coroutine/maybe_yield.hh>
#include <seastar/util/defer.hh>

#include "base/random.hh"
#include "base/sockets.hh"
#include "conn/kernel_socket.hh"
#include "conn/log.hh"
#include "proto/control.hh"
#include "ssx/pause.hh"
#include "ssx/reserve.hh"

namespace vmsgr::local {

namespace {

constexpr auto pause_time = std::chrono::milliseconds(20);
// Between two tries at a door whose queue is full: the kernel tells nobody when there is room.
constexpr auto first_retry = std::chrono::microseconds(500);
constexpr auto longest_retry = std::chrono::milliseconds(20);

// The connection that accept would have returned failed by itself; the next one may be good.
bool concerns_one_connection(int err) noexcept {
    return err == ECONNABORTED || err == EPROTO || err == ENETDOWN || err == ENOPROTOOPT || err == EHOSTDOWN ||
           err == ENONET || err == EHOSTUNREACH || err == EOPNOTSUPP || err == ENETUNREACH || err == EPERM;
}
bool is_shortage(int err) noexcept { return err == EMFILE || err == ENFILE || err == ENOMEM || err == ENOBUFS; }

bool defers_accept(int socket) noexcept {
    int seconds = 0;
    socklen_t len = sizeof seconds;
    return ::getsockopt(socket, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, &len) == 0 && seconds != 0;
}

}  // namespace

listener::listener(listeners& owner, listen_request r, uint64_t id)
    : _owner(owner), _r(std::move(r)), _id(id), _address(conn::local_address(_r.tcp.get())) {}

listener::~listener() {
    close();
    finish();
}

listener::lifeline::~lifeline() { close(); }

void listener::lifeline::close() noexcept {
    events.reset();
    auto& here = l._owner.local();
    if (entry != nullptr) {
        conn::kept_descriptors fds;
        fds[keeper::kept_lifeline] = std::move(fd);
        here.close_when_back(*std::exchange(entry, nullptr), std::move(fds), l._r.owner->owner);
    } else {
        here.let_go(fd, *l._r.owner->owner);
    }
}

int listener::prepare(listen_answer& out) try {
    base::random_bytes(_word.data(), _word.size());
    if (conn::make_nonblocking(_r.tcp.get()) < 0) {
        return errno;
    }
    out.lifeline = make_lifeline();
    if (!out.lifeline) {
        return EMFILE;
    }
    auto door = make_door(_owner._doors, int(std::min<uint32_t>(_r.backlog, SOMAXCONN)));
    if (!door) {
        static thread_local seastar::logger::rate_limit rate(std::chrono::seconds(1));
        conn::log.log(seastar::log_level::warn, rate, "{} (pid {}) listens by the kernel alone: {}", _r.owner->name,
                      _r.owner->pid, door.error().text.view());
        return door.error().errnum;
    }
    _door = std::move(door->place);
    out.door = std::move(door->fd);
    out.word = _word;
    out.id = _id;
    auto t = _owner.local().events().add(_r.tcp.get(), *this);
    if (!t) {
        return ENOMEM;
    }
    _tcp_events = std::move(*t);
    return 0;
} catch (const std::bad_alloc&) {
    return ENOMEM;
}

// Null: no descriptor or no memory is left for it; fd is as it was.
listener::lifeline* listener::watch_lifeline(base::unique_fd& fd) {
    auto place = conn::lease::take(_owner._budget.fds, _r.owner->owner->of.fds);
    if (!place) {
        return nullptr;
    }
    auto& made = _lifelines.emplace_back(*this);
    auto events = _owner.local().events().add(fd.get(), made);
    if (!events) {
        _lifelines.pop_back();
        return nullptr;
    }
    made.place = std::move(*place);
    made.events = std::move(*events);
    made.fd = std::move(fd);
    return &made;
}

base::unique_fd listener::make_lifeline() noexcept try {
    int pair[2];
    if (_closed || ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        return {};
    }
    base::unique_fd theirs(pair[1]), ours(pair[0]);
    if (watch_lifeline(ours) == nullptr) {
        return {};
    }
    if (_entry != nullptr) {
        hand_over();
    }
    return theirs;
} catch (const std::bad_alloc&) {
    return {};
}

listener_info listener::info() const {
    return {_id,      _r.owner->session_id, _r.owner->pid, _r.program_fd,
            _address, seastar::smp::count,  _accepted,     _r.owner->uid()};
}

conn::door_target listener::target() const { return {_id, _door.path, _word}; }

listeners::reserved listener::reserve() {
    listeners::reserved out;
    if (!_closed) {
        out.place = take_places(_owner.local().settings().ring_bytes);
        out.no_room = !out.place;
        out.route = _r.route;
        out.door = target();
    }
    return out;
}

void listener::close() noexcept {
    if (std::exchange(_closed, true)) {
        return;
    }
    _tcp_events.reset();
    if (_entry == nullptr) {
        let_go_of_socket();
    } else {
        _owner.local().kept().ask_back(*_entry);  // the keeper's copy goes first; run() waits for that
    }
    _point.wake();
}

// Then whoever does not find it in the registry any more is not to reach it by TCP either.
void listener::let_go_of_socket() noexcept {
    // Its program may have made a connection of it, which lingers.
    _owner.local().alarm().guard([this] {
        if (!conn::is_listening(_r.tcp.get())) {
            base::stop_lingering(_r.tcp.get());
        }
        _r.tcp.reset();
        return true;
    });
    _owner._registry.retract(_id);
}

// All that was accepted is in the door, or lost.
void listener::finish() noexcept {
    if (std::exchange(_finished, true)) {
        return;
    }
    for (auto& l : _lifelines) {
        l.events.reset();
    }
    leave_entry();
    let_go_of_socket();
    for (auto& l : _lifelines) {
        ::shutdown(l.fd.get(), SHUT_RDWR);
        l.close();
    }
    if (!_door.path.empty()) {
        knock(_door.path.c_str());
        remove_door(_door);
    }
}

void listener::on_lifeline(lifeline& which, uint32_t events) noexcept {
    if ((events & (EPOLLHUP | EPOLLRDHUP)) == EPOLLRDHUP) {
        close();
    } else if ((events & EPOLLHUP) != 0) {
        std::erase_if(_lifelines, [&](const lifeline& l) { return &l == &which; });
        if (!_lifelines.empty() || _closed) {
            return;
        }
        if (!knock(_door.path.c_str())) {
            close();
        } else if (_heir.available()) {
            begin_to_await_heir();
        }
    }
}

void listener::begin_to_await_heir() noexcept {
    try {
        _heir = await_heir();
    } catch (const std::bad_alloc&) {
        ++_owner.local().count().no_memory;
        close();
    }
}

// A program that replaces itself (exec) has no lifeline for a moment, and the door open. One that was killed looks the
// same for microseconds, as the kernel closes a process's descriptors last to first.
seastar::future<> listener::await_heir() {
    constexpr auto patience = std::chrono::seconds(2);
    constexpr std::chrono::microseconds first_look(50), longest_pause(20'000);
    const auto until = seastar::lowres_clock::now() + patience;
    for (auto pause = first_look; !_closed && _lifelines.empty() && seastar::lowres_clock::now() < until;
         pause = std::min(2 * pause, longest_pause)) {
        co_await ssx::pause(pause, _owner._abort);
        if (!_closed && _lifelines.empty() && !knock(_door.path.c_str())) {
            break;
        }
    }
    if (_lifelines.empty()) {
        close();
    }
}

std::optional<conn::places> listener::take_places(uint32_t ring_bytes) {
    auto taken = conn::places::take(_owner._budget, _r.owner, ring_bytes);
    return taken ? std::optional(std::move(*taken)) : std::nullopt;
}

seastar::future<> listener::pause() {
    ++_owner.local().count().accept_pauses;
    return ssx::pause(pause_time, _owner._abort);
}

seastar::future<> listener::run() {
    while (!_closed) {
        accepted one;
        hand_over();
        try {
            co_await accept_one(one);
        } catch (const std::bad_alloc&) {
            ++_owner.local().count().no_memory;
            if (one.tcp) {
                conn::reset_tcp(one.tcp);
            }
        }
        co_await seastar::coroutine::maybe_yield();
    }
    co_await take_back();
    finish();
    co_await std::move(_heir);
}

// one: what of it is still there when this fails.
seastar::future<> listener::accept_one(accepted& one) {
    _point.clear();
    if (_owner._rests) {
        co_await _point.wait();
        co_return;
    }
    const uint32_t ring_bytes = _r.only_local ? 0 : _owner.local().settings().ring_bytes;
    auto place = ssx::is_short_of_memory() ? std::nullopt : take_places(ring_bytes);
    auto passes = place ? std::nullopt : conn::lease::take(_owner._budget.passing, _r.owner->owner->of.passing);
    if (!place && !passes) {
        co_await pause();  // it waits in the kernel
        co_return;
    }
    // Whoever else has the socket may have made it blocking. Between these two calls he may do so again, once.
    conn::make_nonblocking(_r.tcp.get());
    sockaddr_storage from{};
    socklen_t size = sizeof from;
    auto* sa = reinterpret_cast<sockaddr*>(&from);
    int fd = _owner.local().alarm().guard(
        [&] { return ::accept4(_r.tcp.get(), sa, &size, SOCK_CLOEXEC | SOCK_NONBLOCK); });
    const int err = errno;
    ++_owner._under_way;
    auto brought = seastar::defer([this]() noexcept { --_owner._under_way; });
    one.tcp.reset(fd);
    if (fd >= 0) {
        one.mark.set(fd);  // at once: a worker that dies before that ends the connection with an end of file
    }
    one.peer = fd < 0 ? base::address{} : base::from_sockaddr(sa, size).value_or(base::address{});
    if (fd < 0) {
        place.reset();
        passes.reset();
        brought.cancel();
        --_owner._under_way;
        co_await after_error(err);
    } else if (!place) {
        co_await pass_on(one, {.owner = _r.owner}, std::move(*passes));
    } else if (_r.only_local) {
        co_await pass_on(one, std::move(*place), {});
    } else {
        co_await bring(one, std::move(*place));
    }
}

seastar::future<> listener::after_error(int err) {
    if (err == EAGAIN || err == EINVAL) {
        // EINVAL: shut down by the program, which closes it next or listens again.
        co_await _point.wait();
    } else if (is_shortage(err)) {
        co_await pause();
    } else if (err == EINTR) {
        // Made blocking at the worst moment, and accept waited until the alarm. The kernel serves it from now on.
        _owner.local().count().count(conn::fault::made_blocking);
        _r.owner->owner->suspend();
        close();
    } else if (concerns_one_connection(err)) {
        co_await seastar::coroutine::maybe_yield();
    } else {
        static thread_local seastar::logger::rate_limit rate(std::chrono::seconds(1));
        conn::log.log(seastar::log_level::warn, rate, "accept on {} for {} (pid {}): {}", base::to_string(_address),
                      _r.owner->name, _r.owner->pid, strerror(err));
        _owner.local().count().count(conn::fault::accept_error);
        close();
    }
}

// Until `once` says something else than that the door's queue is full, or the listener closes.
template <typename Once>
seastar::future<conn::brought> listener::until_there_is_room(Once once) {
    auto retry = std::chrono::duration_cast<std::chrono::microseconds>(first_retry);
    for (;;) {
        const conn::brought how = co_await once();
        if (how != conn::brought::queue_full || _closed) {
            co_return how;
        }
        co_await ssx::pause(retry, _owner._abort);
        retry = std::min<std::chrono::microseconds>(2 * retry, longest_retry);
    }
}

// There is no room to carry it, or its route does not: the program gets the socket that it would have without us. The
// kernel connected it, so it must not be lost.
seastar::future<> listener::pass_on(accepted& one, conn::places place, conn::lease passes) {
    auto& count = _owner.local().count();
    ++(_r.only_local ? count.accepts_by_route : count.accepts_passed_on);
    proto::dial_hello hello;
    hello.flags = proto::dial_by_daemon | proto::dial_plain;
    hello.local = conn::local_address(one.tcp.get());
    hello.peer = one.peer;
    hello.word = _word;
    if ((_r.owner->features & proto::feature_end_mark) == 0) {
        one.mark.lift(one.tcp.get());
    } else if (const auto& own = one.mark.own()) {
        hello.flags |= proto::dial_end_mark;
        hello.id = proto::pack_linger(*own);
    }
    base::unique_fd bell;
    co_await until_there_is_room([&] {
        const int err = _owner.local().alarm().guard([&] {
            const int fds[] = {one.tcp.get()};
            const int e = proto::dial(_door.path.c_str(), hello, fds, bell);
            if (e == 0 || e == ESHUTDOWN) {
                one.tcp.reset();  // guarded: its program may have closed it by now, and have it linger
            }
            return e;
        });
        const bool later = err == EAGAIN || err == EPIPE || err == ETOOMANYREFS || is_shortage(err);
        return seastar::make_ready_future<conn::brought>(!one.tcp ? conn::brought::yes
                                                         : later  ? conn::brought::queue_full
                                                                  : conn::brought::refused);
    });
    _accepted += one.tcp ? 0u : 1u;
    if (bell) {
        _owner.local().close_when_heard(std::move(bell), std::move(place), std::move(passes));
    }
}

seastar::future<> listener::bring(accepted& one, conn::places place) {
    constexpr int any = 1;
    // The program's end holds to the listener's.
    ::setsockopt(one.tcp.get(), SOL_SOCKET, SO_RCVLOWAT, &any, sizeof any);
    conn::bring_request r{.tcp = {},
                          .peer = one.peer,
                          .place = std::move(place),
                          .route = _r.route,
                          .door = target(),
                          .far = nullptr,
                          .with_data = defers_accept(_r.tcp.get())};
    r.tcp = std::move(one.tcp);
    r.mark = one.mark;
    const unsigned shard = _owner.next_shard();
    const conn::brought how = co_await until_there_is_room([&]() -> seastar::future<conn::brought> {
        auto task = [r = std::move(r), &all = _owner._budget](conn::carrier& c) mutable {
            const auto was = c.bring(r, all);
            return std::pair(was, std::move(r));
        };
        return _owner._carriers.invoke_on(shard, std::move(task)).then([&r](auto done) {
            r = std::move(done.second);
            return done.first;
        });
    });
    _accepted += how == conn::brought::yes ? 1 : 0;
    if (how == conn::brought::queue_full) {
        conn::reset_tcp(r.tcp);  // it waited in a listener that is closed
    }
}

}  // namespace vmsgr::local
