#include "conn/carrier.hh"

#include <errno.h>
#include <sys/socket.h>

#include <algorithm>

#include <seastar/core/coroutine.hh>
#include <seastar/core/sleep.hh>
#include <seastar/core/smp.hh>
#include <seastar/util/defer.hh>

#include "base/random.hh"
#include "base/sockets.hh"
#include "conn/kernel_socket.hh"
#include "conn/log.hh"
#include "proto/control.hh"
#include "ssx/idle_yield.hh"
#include "ssx/spawn.hh"

namespace vmsgr::conn {

namespace {

// Between two looks whether arenas without connections have lost their programs.
constexpr auto resting_time = std::chrono::seconds(2);
// While connections are to become the kernel's: how many are looked at, and how often.
constexpr auto calling_interval = std::chrono::milliseconds(20);
constexpr size_t called_at_once = 1024;

}  // namespace

seastar::future<> carrier::start() {
    _alarm.start();
    _events.start();
    _rings.start(_settings.poll_window);
    _resting_timer.set_callback([this] {
        if (_arenas.forget_ended()) {
            _resting_timer.arm(resting_time);
        }
    });
    ssx::yield_when_idle();
    return seastar::make_ready_future<>();
}

seastar::future<> carrier::stop() {
    // stop() may end a connection at once, but it leaves the map only in a later task.
    for (auto& [id, c] : _conns) {
        c->stop();
    }
    co_await _gate.close();
    co_await part();
    _unheard.clear();
    _keeping_timer.cancel();
    _draining_timer.cancel();
    _closing.clear();
    _resting_timer.cancel();
    _arenas.clear();
    _rings.stop();
    co_await _events.stop();
    _alarm.stop();
}

void carrier::let_go(base::unique_fd& fd, user& sender) noexcept {
    if (_closer.close(fd, sender.closing)) {
        return;
    }
    if (!ssx::closer::ends_soon(fd.get())) {
        ++count().never_closed;
        (void)fd.release();
        return;
    }
    base::stop_lingering(fd.get());
    _alarm.guard([&fd] { return fd.reset(), true; });
}

void carrier::connect(uint64_t id, vm_conn::parts p, int refusal) {
    auto c = seastar::make_lw_shared<vm_conn>(*this, id, conn_state::connecting, std::move(p));
    if (refusal != 0) {
        c->refuse(refusal);
        return;
    }
    run(std::move(c));
}

namespace {

// An acceptor that was faster than our hello turns us away: it is dialled anew, at once.
constexpr int dials_max = 8;

int dial(const door_target& door, const proto::dial_hello& hello, const memory_slot& slot, base::unique_fd& bell) {
    const int fds[] = {slot.fd()};
    int err = EPIPE;
    for (int i = 0; i < dials_max && err == EPIPE; ++i) {
        err = proto::dial_conduit(door.path.c_str(), hello, fds, slot.conduit().header().end[0].flags, bell);
    }
    return err;
}

// What came with the connection, before its program can see it. It stays in the socket, as the door may be full.
size_t copy_unread(int tcp, const shm::conduit& c) noexcept {
    constexpr size_t enough = 64 << 10;
    const ssize_t n = ::recv(tcp, c.ring_data(1), std::min<size_t>(c.capacity / 2, enough), MSG_PEEK | MSG_DONTWAIT);
    if (n <= 0) {
        return 0;
    }
    c.header().ring[1].head.store(uint64_t(n), std::memory_order_relaxed);
    return size_t(n);
}

}  // namespace

brought carrier::bring(bring_request& r, budget& all) {
    auto failed = [&](const std::string& why) {
        static thread_local seastar::logger::rate_limit rate(std::chrono::seconds(1));
        log.log(seastar::log_level::warn, rate, "an accepted connection is reset: {}", why);
        ++count().refused;
        reset_tcp(r.tcp);
        return brought::refused;
    };
    if (_gate.is_closed()) {
        return failed("vmsgrd stops");
    }
    auto& owner = *r.place.owner;
    auto slot = _arenas.make(r.door.listener, _settings.ring_bytes, all, r.place.owner);
    if (!slot) {
        return failed(slot.error().text);
    }
    const uint64_t id = next_id();
    proto::dial_hello hello;
    hello.flags = uint16_t(proto::dial_by_daemon | (r.far ? proto::dial_trunk : 0));
    hello.slot = slot->index();
    hello.id = id;
    hello.local = r.far ? r.far->local() : local_address(r.tcp.get());
    hello.peer = r.far ? r.far->peer() : r.peer;
    hello.word = r.door.word;
    hello.shown = owner.show(id, conn_role::server, seastar::this_shard_id(), -1);
    const size_t received = r.with_data ? copy_unread(r.tcp.get(), slot->conduit()) : 0;
    base::unique_fd bell;
    // A doorbell that is turned away is closed, with what its listener may have sent on it.
    const int err = _alarm.guard([&] { return dial(r.door, hello, *slot, bell); });
    if (err != 0) {
        owner.hide(hello.shown);
        // Nobody has seen the slot: the other end is done with it as well.
        slot->conduit().header().end[0].flags.store(shm::end_left | shm::end_done, std::memory_order_release);
        if (err == EAGAIN || err == EPIPE) {
            return brought::queue_full;  // or it turned us away: later again
        }
        return failed("its program has closed the listener");
    }
    if (received != 0) {
        ::recv(r.tcp.get(), nullptr, received, MSG_TRUNC | MSG_DONTWAIT);
    }
    vm_conn::parts p;
    p.received = received;
    p.role = conn_role::server;
    p.peer = hello.peer;
    p.place = std::move(r.place);
    p.route = std::move(r.route);
    p.tcp = std::move(r.tcp);
    p.mark = r.mark;
    p.bell = std::move(bell);
    p.conduit = slot->conduit();
    p.memory = std::move(*slot);
    p.shown = hello.shown;
    p.far = std::move(r.far);
    run(seastar::make_lw_shared<vm_conn>(*this, id, conn_state::established, std::move(p)));
    return brought::yes;
}

int carrier::begin_connect(int fd, const base::address& to, user& his) noexcept {
    if (his.is_suspended()) {
        return EAGAIN;
    }
    const int err = _alarm.guard([&] { return conn::begin_connect(fd, to); });
    if (err == EINTR) {
        count().count(fault::made_blocking);
        his.suspend();
        return 0;
    }
    return err;
}

void carrier::run(conn_ptr c) {
    auto over = seastar::defer([this, id = c->id()]() noexcept {
        _conns.erase(id);
        if (!_resting_timer.armed() && !_gate.is_closed()) {
            _resting_timer.arm(resting_time);
        }
    });
    // Where the daemon stops, or has no memory, the object's end closes everything.
    ssx::spawn(_gate, log, "a connection", [this, c = std::move(c), over = std::move(over)] {
        ++count().connections_total;
        _conns.emplace(c->id(), c);
        return c->run();
    });
}

base::unique_fd carrier::borrow(uint64_t id, int shown, bool plain) noexcept {
    auto at = _conns.find(id);
    return at != _conns.end() && at->second->is_shown_by(shown) ? at->second->lend(plain) : base::unique_fd();
}

void carrier::drain(bool on) noexcept {
    if (on) {
        _called_last = 0;
        _draining_timer.set_callback([this] { call_back(); });
        _draining_timer.rearm_periodic(calling_interval);
        return;
    }
    _draining_timer.cancel();
    for (auto& [id, c] : _conns) {
        c->stay();
    }
}

// Some of them, and the next ones the next time.
void carrier::call_back() noexcept {
    const auto now = seastar::lowres_clock::now();
    auto at = _conns.upper_bound(_called_last);
    for (size_t left = called_at_once; left != 0 && at != _conns.end(); --left, ++at) {
        at->second->call_back(now);
        _called_last = at->first;
    }
    if (at == _conns.end()) {
        _called_last = 0;
    }
}

carrier::gone_back carrier::go_back(uint64_t id, int shown) noexcept {
    auto at = _conns.find(id);
    if (at == _conns.end() || !at->second->is_shown_by(shown)) {
        return {ENOENT, {}};
    }
    const int status = at->second->go_back();
    return {status, status == 0 ? at->second->lend(false) : base::unique_fd()};
}

void carrier::reset_when_sent(base::unique_fd tcp) noexcept {
    try {
        _parting.push_back(std::move(tcp));
    } catch (const std::bad_alloc&) {
        reset_tcp(tcp);
    }
}

// A program that accepts sends a token at once, which lies here until we close.
bool carrier::is_unheard(int bell) noexcept {
    char token;
    return base::unread_by_peer(bell) != 0 && ::recv(bell, &token, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

void carrier::close_when_heard(base::unique_fd bell, places place, lease passes) noexcept try {
    auto& kept = _unheard.emplace_back(*this);
    kept.bell = std::move(bell);
    kept.place = std::move(place);
    kept.passes = std::move(passes);
    auto watched = _events.add(kept.bell.get(), kept);
    if (watched) {
        kept.events = std::move(*watched);
    } else {
        _unheard.pop_back();
    }
} catch (const std::bad_alloc&) {
    ++count().no_memory;  // it is closed here
}

void carrier::look_at(unheard_bell& b) noexcept {
    if (is_unheard(b.bell.get())) {
        return;
    }
    b.events.reset();
    if (shm::bell(b.bell.get()).holds_rights()) {
        let_go(b.bell, *b.place.owner->owner);
    }
    std::erase_if(_unheard, [&b](const unheard_bell& each) { return &each == &b; });
}

// A reset throws away what the kernel has not sent yet.
seastar::future<> carrier::part() {
    constexpr auto pause = std::chrono::milliseconds(5);
    const auto until = seastar::lowres_clock::now() + _settings.flush_limit;
    for (;;) {
        std::erase_if(_parting, [&](base::unique_fd& tcp) {
            const bool now = !has_unsent(tcp.get()) || seastar::lowres_clock::now() >= until;
            if (now) {
                reset_tcp(tcp);
            }
            return now;
        });
        if (_parting.empty()) {
            co_return;
        }
        co_await seastar::sleep(pause);
    }
}

std::vector<conn_info> carrier::list(uint64_t after, size_t limit) const {
    std::vector<conn_info> out;
    for (auto at = _conns.upper_bound(after); at != _conns.end() && out.size() < limit; ++at) {
        out.push_back(at->second->info());
    }
    return out;
}

// The upper half says that no program chose it; the rest tells the shard, so that a borrower's question goes there.
uint64_t carrier::next_id() noexcept {
    constexpr uint64_t ours = uint64_t(1) << 63;
    const uint64_t n = ++_ids * seastar::smp::count + seastar::this_shard_id();
    return ours - ours % seastar::smp::count + n;
}

}  // namespace vmsgr::conn
