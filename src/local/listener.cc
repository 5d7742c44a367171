#include "local/listener.hh"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

#include <deque>

#include <seastar/core/coroutine.hh>
#include <seastar/core/sleep.hh>
#include <seastar/coroutine/as_future.hh>
#include <seastar/coroutine/maybe_yield.hh>

#include "base/netns.hh"
#include "conn/kernel_socket.hh"
#include "conn/log.hh"
#include "proto/control.hh"
#include "ssx/spawn.hh"

namespace vmsgr::net {

namespace {

constexpr auto pause_time = std::chrono::milliseconds(20);
constexpr unsigned fds_on_the_way = 3;  // of a local connection, until the program has been told

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
    std::deque<delivery> _locals;  // from programs of this daemon and over trunks, to be told

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
    std::optional<base::address> source_of(const connect_request& r) const;
    reserved reserve() noexcept {
        reserved out;
        out.queue_full = !_closed && _locals.size() > _r.backlog;
        if (!_closed && !out.queue_full) {
            out.place = take_places(fds_per_connection);
            out.no_room = !out.place;
            out.route = _r.route;
        }
        return out;
    }
    // Nothing of it is TCP's: it waits here until the program takes it.
    void queue(delivery d) {
        _locals.push_back(std::move(d));
        if (_locals.size() > 1) {
            _owner._registry.show_waiting(_r.key, uint32_t(_locals.size()));
        }
        _point.wake();
    }
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
    std::optional<places> take_places(unsigned fds) noexcept;
    seastar::future<> pause();
    seastar::future<> pass_on(base::unique_fd tcp);
    seastar::future<> deliver(delivery d);
    seastar::future<> hand_over(base::unique_fd tcp, places place);
};

std::optional<places> listener::listening::take_places(unsigned fds_needed) noexcept {
    auto& b = _owner._budget;
    auto total = lease::take(b.connections);
    auto mine = lease::take(_r.owner->connections);
    auto fds = lease::take(b.fds, fds_needed);
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
        auto place = take_places(fds_per_connection);
        const bool plain = !place && (_r.owner->features & proto::feature_plain) != 0;
        if (!place && !plain) {
            co_await pause();
            continue;
        }
        int fd = _owner.local().alarm().guard(
            [this] { return ::accept4(_r.tcp.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK); });
        if (fd >= 0) {
            if (plain) {
                co_await pass_on(base::unique_fd(fd));
            } else {
                co_await hand_over(base::unique_fd(fd), std::move(*place));
            }
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

// There is no room to carry it: the program gets the socket that it would have without us. The kernel connected it, so
// it must not be lost.
seastar::future<> listener::listening::pass_on(base::unique_fd tcp) {
    delivery d;
    d.local = local_address(tcp.get());
    d.peer = peer_address(tcp.get());
    d.bell = std::move(tcp);
    d.flags = proto::accepted_plain;
    ++_owner.local().count().accepts_passed_on;
    return deliver(std::move(d));
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
        const int fds[] = {d.bell.get(), d.memory.get(), d.page.get()};
        const auto sent = std::span(fds).first((d.flags & proto::accepted_plain) != 0 ? 1 : 3);
        int err = proto::send_with_fds(_r.bell.get(), &m, sizeof m, sent, MSG_DONTWAIT);
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

// The program has bound its socket, so what it says of itself is what the kernel let it have. Nothing: TCP would not
// bring it here.
std::optional<base::address> listener::listening::source_of(const connect_request& r) const {
    const base::address from = local_address(r.tcp.get()).unmapped();
    const base::address to = r.peer.unmapped(), own = _address.unmapped();
    base::address source = from;
    if (source.is_any()) {
        source = to;
        source.port = from.port;
    }
    auto same_host = to;
    same_host.port = source.port;
    const bool here = base::netns_cookie(r.tcp.get()) == base::netns_cookie(_r.tcp.get());
    // From another namespace: only between addresses that mean the same in both.
    bool reachable = here ? to.port == own.port && source.port != 0 && (own == to || own.is_any()) &&
                                (source == same_host || (source.is_loopback() && to.is_loopback()))
                          : _owner._registry.one_address_plan() && own == to && from.port != 0 && !from.is_any() &&
                                !from.is_loopback() && !own.is_any() && !own.is_loopback();
    return reachable ? std::optional(source) : std::nullopt;
}

// Refused is by the closing of the doorbell's other end, which shows a reset.
std::optional<violation> listener::listening::offer(connect_request r) {
    const base::address to = r.peer.unmapped();
    auto source = source_of(r);
    if (!source) {
        return violation{fault::bad_job, "connect: a local peer that this socket cannot reach"};
    }
    if (_closed || r.refusal == EACCES) {
        ++_owner.local().count().refused;
        return std::nullopt;
    }
    const bool again = !r.memory;
    std::optional<local_conn> c;
    if (again) {
        c = _owner.local().locals().take_again(r.key, *r.place.owner, *_r.owner, _r.key);
    } else {
        auto size = shm::sealed_size(r.memory.get(), shm::conduit_bytes(shm::ring_bytes_min),
                                     shm::conduit_bytes(shm::ring_bytes_max));
        auto page = shm::sealed_size(r.page.get(), shm::end_page_bytes, shm::end_page_bytes);
        if (!size || !page) {
            return violation{fault::bad_memory, "connect: " + (size ? page.error() : size.error()).text};
        }
        if (*size <= shm::conduit_bytes(_owner.local().settings().ring_bytes)) {
            c.emplace();
            c->memory = std::move(r.memory);
            c->listener = _r.key;
        }
    }
    // Its connect() has returned already: where a limit leaves no room to keep it, the two programs get it still.
    auto place = take_places(0);
    const bool keep = again || (place && r.refusal == 0);
    auto on_the_way = lease::take(_owner._budget.fds, fds_on_the_way);
    if (!c || (!keep && (!on_the_way || _locals.size() > _r.backlog))) {
        ++_owner.local().count().refused;
        return std::nullopt;
    }
    c->route = std::move(r.route);
    c->tcp = std::move(r.tcp);
    c->opened_s = unix_time_s();
    auto as_listener_sees = [this](const base::address& a) { return _address.family == AF_INET6 ? a.mapped() : a; };
    auto& [near, far] = c->ends;
    near.key = r.key;
    near.fd = r.program_fd;
    near.local = *source;
    near.peer = to;
    far.local = as_listener_sees(to);
    far.peer = as_listener_sees(*source);
    if (again) {
        r.place.fds = std::move(near.place.fds);
    } else {
        near.page = std::move(r.page);
    }
    near.place = std::move(r.place);
    far.place = place ? std::move(*place) : places{_r.owner, {}, {}, {}};
    if (auto d = _owner.local().join(std::move(*c), std::move(r.bell), keep)) {
        d->fds = on_the_way ? std::move(*on_the_way) : lease();
        queue(std::move(*d));
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
    auto l = std::make_unique<listening>(*this, std::move(r));
    if (_gate.is_closed() || !l->prepare()) {
        return std::nullopt;  // the doorbell closes, the program falls back
    }
    auto* at = l.get();
    _all.emplace(at, std::move(l));
    _registry.publish(at->key(), seastar::this_shard_id(), at->tcp_fd(), at->backlog(), at->takes_local());
    ssx::spawn(_gate, log, "a listener", [this, at] { return at->run().finally([this, at] { _all.erase(at); }); });
    return std::nullopt;
}

listener::listening* listener::find(uint64_t key) noexcept {
    for (auto& [at, l] : _all) {
        if (l->key() == key) {
            return at;
        }
    }
    return nullptr;  // closed meanwhile
}

std::optional<violation> listener::offer(connect_request r) {
    auto* l = find(r.listener);
    return l != nullptr ? l->offer(std::move(r)) : std::nullopt;
}

listener::reserved listener::reserve(uint64_t key) noexcept {
    auto* l = find(key);
    return l != nullptr ? l->reserve() : reserved{};
}

// Undelivered, its doorbell closes here, and the connection is reset.
void listener::deliver(uint64_t key, delivery d) {
    if (auto* l = find(key)) {
        l->queue(std::move(d));
    }
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
