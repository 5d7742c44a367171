#include "net/listener.hh"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

#include <deque>

#include <seastar/core/coroutine.hh>
#include <seastar/core/sleep.hh>
#include <seastar/coroutine/as_future.hh>
#include <seastar/coroutine/maybe_yield.hh>

#include "base/netns.hh"
#include "net/kernel_socket.hh"
#include "net/log.hh"
#include "proto/control.hh"

namespace vmsgr::net {

namespace {

constexpr auto pause_time = std::chrono::milliseconds(20);

// The connection that accept would have returned failed by itself; the next one may be good.
bool concerns_one_connection(int err) noexcept {
    return err == ECONNABORTED || err == EPROTO || err == ENETDOWN || err == ENOPROTOOPT ||
           err == EHOSTDOWN || err == ENONET || err == EHOSTUNREACH || err == EOPNOTSUPP || err == ENETUNREACH ||
           err == EPERM;
}
bool is_shortage(int err) noexcept { return err == EMFILE || err == ENFILE || err == ENOMEM || err == ENOBUFS; }

}  // namespace

class listener::listening final : ssx::event_sink {
    listener& _owner;
    listen_request _r;
    ssx::wake_point _point;
    bool _closed = false;
    uint64_t _accepted = 0;
    base::address _address;
    struct bell_sink final : ssx::event_sink {
        listening& l;
        explicit bell_sink(listening& x) noexcept : l(x) {}
        void on_events(uint32_t events) noexcept override { l.on_bell(events); }
    } _bell_sink{*this};
    ssx::event_set::registration _tcp_events, _bell_events;
    std::deque<delivery> _locals;  // from programs of this daemon, to be told

public:
    listening(listener& owner, listen_request r)
        : _owner(owner), _r(std::move(r)), _address(local_address(_r.tcp.get())) {}

    bool prepare() noexcept {
        if (make_nonblocking(_r.tcp.get()) < 0) {
            return false;
        }
        auto& events = _owner.local().events();
        auto b = events.add(_r.bell.get(), _bell_sink);
        auto t = events.add(_r.tcp.get(), *this);
        if (b && t) {
            _bell_events = std::move(*b);
            _tcp_events = std::move(*t);
        }
        return b && t;
    }
    uint64_t key() const noexcept { return _r.key; }
    std::optional<violation> offer(connect_request r);
    int tcp_fd() const noexcept { return _r.tcp.get(); }
    bool takes_local() const noexcept { return _r.local; }
    uint32_t backlog() const noexcept { return _r.backlog; }
    listener_info info() const {
        return {_r.owner->session_id, _r.owner->pid, _address, seastar::smp::count, _accepted};
    }

    // The port refuses from now on, if nobody else holds the socket. The doorbell goes last, so that a program
    // which shut its end down can wait for our hang-up.
    void close(bool stop_listening) noexcept {
        if (std::exchange(_closed, true)) {
            return;
        }
        _owner._registry.retract(_r.key);
        _tcp_events.reset();
        _bell_events.reset();
        if (stop_listening) {
            ::shutdown(_r.tcp.get(), SHUT_RDWR);
        }
        _r.tcp.reset();
        _r.bell.reset();
        _point.wake();
    }
    seastar::future<> run();

private:
    void on_events(uint32_t) noexcept override { _point.wake(); }
    void on_bell(uint32_t events) noexcept {
        if ((events & (EPOLLHUP | EPOLLRDHUP)) != 0) {
            close((events & EPOLLHUP) != 0);
        } else {
            _point.wake();
        }
    }
    std::optional<places> take_places() noexcept;
    seastar::future<> pause();
    seastar::future<> deliver(delivery d);
    seastar::future<> hand_over(base::unique_fd tcp, places place);
};

std::optional<places> listener::listening::take_places() noexcept {
    auto& b = _owner._budget;
    auto total = lease::take(b.connections);
    auto mine = lease::take(_r.owner->connections);
    auto fds = lease::take(b.fds, fds_per_connection);
    if (!total || !mine || !fds) {
        return std::nullopt;
    }
    return places{_r.owner, std::move(*total), std::move(*mine), std::move(*fds)};
}

seastar::future<> listener::listening::pause() {
    ++_owner.local().count().accept_pauses;
    // An aborted sleep ends the wait as well as its time does.
    return seastar::sleep_abortable(pause_time, _owner._abort).handle_exception([](std::exception_ptr) {});
}

seastar::future<> listener::listening::run() {
    while (!_closed) {
        _point.clear();
        if (!_locals.empty()) {
            auto d = std::move(_locals.front());
            _locals.pop_front();
            ++_accepted;
            co_await deliver(std::move(d));
            _owner._registry.show_waiting(_r.key, uint32_t(_locals.size()));
            continue;
        }
        auto place = take_places();
        if (!place) {
            co_await pause();
            continue;
        }
        int fd = _owner.local().alarm().guard(
            [this] { return ::accept4(_r.tcp.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK); });
        if (fd >= 0) {
            co_await hand_over(base::unique_fd(fd), std::move(*place));
            continue;
        }
        int err = errno;
        place.reset();
        if (err == EAGAIN || err == EINVAL) {
            // EINVAL: shut down by the program, which closes it next or listens again.
            co_await _point.wait();
        } else if (is_shortage(err)) {
            co_await pause();
        } else if (err == EINTR) {
            // The program took O_NONBLOCK away, and accept waited until the alarm.
            make_nonblocking(_r.tcp.get());
            co_await pause();
        } else if (concerns_one_connection(err)) {
            co_await seastar::coroutine::maybe_yield();
        } else {
            log.warn("accept on {} for {} (pid {}): {}", base::to_string(_address), _r.owner->name, _r.owner->pid,
                     strerror(err));
            _owner.local().count().count(fault::accept_error);
            close(false);
        }
    }
}

seastar::future<> listener::listening::hand_over(base::unique_fd tcp, places place) {
    auto task = [tcp = std::move(tcp), place = std::move(place), route = _r.route](carrier& c) mutable {
        return c.accept(std::move(tcp), std::move(place), std::move(route));
    };
    auto done = co_await seastar::coroutine::as_future(
        _owner._carriers.invoke_on(_owner.next_shard(), std::move(task)));
    if (done.failed()) {
        log.warn("an accepted connection is lost: {}", done.get_exception());
        co_return;
    }
    if (auto d = done.get()) {
        ++_accepted;
        co_await deliver(std::move(*d));
    }
}

// Undelivered, the program's end of the doorbell closes here and the connection is reset.
seastar::future<> listener::listening::deliver(delivery d) {
    proto::accepted_msg m;
    m.slot = d.slot;
    m.key = d.key;
    m.local = d.local;
    m.peer = d.peer;
    m.flags = d.flags;
    while (!_closed) {
        _point.clear();
        // The doorbell first: it gets the lowest free number, as accept() gives.
        int fds[] = {d.bell.get(), d.memory.get(), d.page.get()};
        int err = proto::send_with_fds(_r.bell.get(), &m, sizeof m, fds, MSG_DONTWAIT);
        if (err == 0) {
            co_return;
        }
        if (err == EAGAIN) {
            co_await _point.wait();
        } else if (err == ETOOMANYREFS || is_shortage(err)) {
            co_await pause();
        } else if (err != EINTR) {
            close(true);
        }
    }
}

// The program has bound its socket, so what it says of itself is what the kernel let it have. A peer that it could not
// reach by TCP is refused: by the closing of its doorbell's other end, which shows a reset.
std::optional<violation> listener::listening::offer(connect_request r) {
    const base::address from = local_address(r.tcp.get()).unmapped();
    const base::address to = r.peer.unmapped(), own = _address.unmapped();
    base::address source = from;
    if (source.is_any()) {
        source = to;
        source.port = from.port;
    }
    auto same_host = to;
    same_host.port = source.port;
    bool reachable = base::netns_cookie(r.tcp.get()) == base::netns_cookie(_r.tcp.get()) && to.port == own.port &&
                     source.port != 0 && (own == to || own.is_any()) &&
                     (source == same_host || (source.is_loopback() && to.is_loopback()));
    if (!reachable) {
        return violation{fault::bad_job, "connect: a local peer that this socket cannot reach"};
    }
    auto size = shm::sealed_size(r.memory.get(), shm::conduit_bytes(shm::ring_bytes_min),
                                 shm::conduit_bytes(shm::ring_bytes_max));
    auto page = shm::sealed_size(r.page.get(), shm::end_page_bytes, shm::end_page_bytes);
    if (!size || !page) {
        return violation{fault::bad_memory, "connect: " + (size ? page.error() : size.error()).text};
    }
    auto place = take_places();
    if (_closed || !place || r.refusal != 0 ||
        *size > shm::conduit_bytes(_owner.local().settings().ring_bytes)) {
        ++_owner.local().count().refused;
        return std::nullopt;
    }
    local_conn c;
    c.route = std::move(r.route);
    c.memory = std::move(r.memory);
    c.tcp = std::move(r.tcp);
    c.opened_s = unix_time_s();
    auto as_listener_sees = [this](const base::address& a) { return _address.family == AF_INET6 ? a.mapped() : a; };
    c.ends[0] = {r.key, std::move(r.place), shm::no_slot, r.program_fd, source, to, std::move(r.page)};
    c.ends[1].place = std::move(*place);
    c.ends[1].local = as_listener_sees(to);
    c.ends[1].peer = as_listener_sees(source);
    if (auto d = _owner.local().join(std::move(c), std::move(r.bell))) {
        _locals.push_back(std::move(*d));
        if (_locals.size() > 1) {
            _owner._registry.show_waiting(_r.key, uint32_t(_locals.size()));
        }
        _point.wake();
    }
    return std::nullopt;
}

listener::listener(seastar::sharded<carrier>& carriers, budget& b, registry& r)
    : _carriers(carriers), _budget(b), _registry(r), _next_shard(seastar::this_shard_id()) {}

listener::~listener() = default;

unsigned listener::next_shard() noexcept { return _next_shard++ % seastar::smp::count; }

seastar::future<> listener::stop() {
    _abort.request_abort();
    for (auto& [at, l] : _all) {
        l->close(false);
    }
    return _gate.close();
}

std::optional<violation> listener::begin(listen_request r) {
    if (const char* why = not_tcp(r.tcp.get())) {
        return violation{fault::bad_descriptor, std::string("listen: ") + why};
    }
    if (const char* why = not_doorbell(r.bell.get(), SOCK_SEQPACKET)) {
        return violation{fault::bad_descriptor, std::string("listen: ") + why};
    }
    if (!is_listening(r.tcp.get())) {
        return std::nullopt;  // shut down before this job came
    }
    auto holder = _gate.try_hold();
    auto l = std::make_unique<listening>(*this, std::move(r));
    if (!holder || !l->prepare()) {
        return std::nullopt;  // the doorbell closes, the program falls back
    }
    auto* at = l.get();
    _all.emplace(at, std::move(l));
    if (at->takes_local()) {
        _registry.publish(at->key(), seastar::this_shard_id(), at->tcp_fd(), at->backlog());
    }
    (void)at->run()
        .handle_exception([](std::exception_ptr e) { log.error("a listener ended by an exception: {}", e); })
        .finally([this, at, h = std::move(*holder)] { _all.erase(at); });
    return std::nullopt;
}

std::optional<violation> listener::offer(connect_request r) {
    for (auto& [at, l] : _all) {
        if (l->key() == r.listener) {
            return l->offer(std::move(r));
        }
    }
    return std::nullopt;  // closed meanwhile
}

base::unique_fd listener::borrow(uint64_t key) const noexcept {
    for (auto& [at, l] : _all) {
        if (l->key() == key && l->tcp_fd() >= 0) {
            return duplicate(l->tcp_fd());
        }
    }
    return {};
}

std::vector<listener_info> listener::list() const {
    std::vector<listener_info> out;
    for (auto& [at, l] : _all) {
        out.push_back(l->info());
    }
    return out;
}

}  // namespace vmsgr::net
