#include "conn/vm_conn.hh"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <seastar/core/coroutine.hh>
#include <seastar/coroutine/as_future.hh>

#include "base/netns.hh"
#include "base/sockets.hh"
#include "conn/carrier.hh"
#include "conn/kernel_socket.hh"
#include "conn/log.hh"
#include "proto/control.hh"

namespace vmsgr::conn {

namespace {

// Bytes moved by one system call, and between two looks at the clock of the reactor: never more than half a ring, so
// that the program works on one half while we work on the other.
size_t bytes_at_once(uint64_t capacity) { return std::min<size_t>(256 << 10, capacity / 2); }

// A program that has borrowed the socket is done with it by then.
constexpr auto lent_time = std::chrono::seconds(1);

static_assert(int(conn_state::closing) == int(life::phase::closing));

}  // namespace

std::expected<places, int> places::take(budget& all, program_ptr owner, uint32_t ring_bytes) {
    budget& his = owner->owner->of;
    auto total = lease::take(all.connections, his.connections);
    auto mine = lease::take(owner->connections);
    if (!total || !mine) {
        return std::unexpected(EAGAIN);
    }
    auto fds = lease::take(all.fds, his.fds, fds_per_connection);
    auto memory = lease::take(all.memory, his.memory, 2 * uint64_t(ring_bytes));
    if (!fds || !memory) {
        return std::unexpected(ENOBUFS);
    }
    return places{std::move(owner), std::move(*total), std::move(*mine), std::move(*fds), std::move(*memory)};
}

vm_conn::vm_conn(carrier& c, uint64_t id, conn_state state, parts p)
    : _carrier(c),
      _p(std::move(p)),
      _id(id),
      _near(_p.conduit.header(), _p.conduit.ring_data(0), _p.conduit.ring_data(1), _p.conduit.capacity, 1, _tx_state,
            _rx_state, _p.bell.get(), shm::resident_tokens, &_bell_rights),
      _row(c.shown().take()),
      _route(c.shown().route(_p.route)),
      _peer(_p.peer),
      _opened_s(unix_time_s()),
      _far(_p.far ? std::move(_p.far) : make_tcp_far(_p.tcp)),
      _pump(*this, _far, _life, bytes_at_once(_p.conduit.capacity)) {
    // What the far side has lies in its own buffers already. The program says how much it wants here (its window).
    _tx_state.most = {.own = 0, .reader = shm::bounds::none};
    _progress_timer.set_callback([this] { on_progress_timer(); });
    _lent_timer.set_callback([this] { guard_end(); });
    if (!_far->carries_urgent()) {
        _p.conduit.header().end[1].flags.fetch_or(shm::end_not_urgent, std::memory_order_relaxed);
    }
    _slot = _p.shown != shm::no_slot ? _p.shown
                                     : _p.place.owner->show(_id, _p.role, seastar::this_shard_id(), _p.program_fd);
    if (_p.from) {
        go_on_from(*_p.from);
    } else {
        ++route_row().connections;
    }
    show();
    if (state == conn_state::established) {
        established();
    }
    if (_p.received != 0) {
        received(_p.received);
        wake_program();
    }
}

vm_conn::~vm_conn() { finish(); }

base::unique_fd vm_conn::lend(bool plain) noexcept {
    if (plain) {
        _p.mark.lift(tcp_fd());
        _lent_timer.rearm(seastar::lowres_clock::now() + lent_time);
    }
    return duplicate(tcp_fd());
}

void vm_conn::guard_end() noexcept {
    if (_p.tcp && !_life.over() && !_back.gone && _far->path() == conn_path::direct) {
        _p.mark.set(tcp_fd());
    }
}

// A doorbell has no name, so ours gets one that nobody else has, once it is asked for: the kernel tells it to whoever
// holds the other end, and to nobody else. Abstract names are unique within a network namespace.
bool vm_conn::is_shown_by(int descriptor) noexcept {
    sockaddr_un ours{}, theirs{};
    socklen_t ours_len = sizeof ours, theirs_len = sizeof theirs;
    auto* sa = reinterpret_cast<sockaddr*>(&ours);
    if (!_p.bell || base::not_unix(descriptor, SOCK_STREAM) != nullptr ||
        ::getsockname(_near.doorbell.fd(), sa, &ours_len) != 0) {
        return false;
    }
    if (ours_len <= offsetof(sockaddr_un, sun_path)) {
        ours.sun_family = AF_UNIX;
        const int n = snprintf(ours.sun_path + 1, sizeof ours.sun_path - 1, "vmsgr-%d-%llu", int(::getpid()),
                               static_cast<unsigned long long>(_id));
        ours_len = socklen_t(offsetof(sockaddr_un, sun_path) + 1 + size_t(n));
        if (::bind(_near.doorbell.fd(), sa, ours_len) != 0) {
            return false;
        }
    }
    return ::getpeername(descriptor, reinterpret_cast<sockaddr*>(&theirs), &theirs_len) == 0 &&
           theirs_len == ours_len && memcmp(&ours, &theirs, ours_len) == 0 &&
           base::netns_cookie(descriptor) == base::netns_cookie(_near.doorbell.fd());
}

uint32_t vm_conn::program_flags() const noexcept {
    return _p.conduit.header().end[0].flags.load(std::memory_order_acquire);
}

bool vm_conn::watch() {
    auto r = _carrier.events().add(_near.doorbell.fd(), _bell_events);
    if (r) {
        _bell_watch = std::move(*r);
    }
    return r && watch_far();
}

bool vm_conn::watch_far() { return _back.gone || _far->watch(_carrier.events(), _far_events); }

// The peer's daemon does not carry this destination: the program's socket, which is bound only, connects after all.
bool vm_conn::take_direct_way() {
    _far->unwatch();
    _far = make_tcp_far(_p.tcp);
    int err = _carrier.begin_connect(tcp_fd(), _peer, *_p.place.owner->owner);
    if (err != 0) {
        errno = err;
        return false;
    }
    return watch_far();
}

seastar::future<> vm_conn::run() {
    if (_life.at == life::phase::connecting) {
        const int err = co_await connected();
        if (_life.over()) {
            finish();
            co_return;
        }
        if (err != 0) {
            ++_carrier.count().connects_failed;
            step(life::event::connect_failed, err);
            finish();
            co_return;
        }
    } else if (!watch()) {
        step(life::event::far_failed, ENOMEM);
    }
    if (_p.from) {
        do_again();
    } else {
        _carrier.keep_later(_id);
    }
    // Neither is left while the other runs. What ends one of them ends the connection, and with it the other.
    auto broken = [this](const std::exception_ptr& e) noexcept { break_off(e); };
    auto writes = seastar::futurize_invoke([this] { return write_loop(); }).handle_exception(broken);
    auto reads = seastar::futurize_invoke([this] { return read_loop(); }).handle_exception(broken);
    co_await std::move(writes);
    co_await std::move(reads);
    auto last = co_await seastar::coroutine::as_future(seastar::futurize_invoke([this] { return last_plain_bytes(); }));
    if (last.failed()) {
        break_off(last.get_exception());
    }
    auto back = co_await seastar::coroutine::as_future(seastar::futurize_invoke([this] { return take_back(); }));
    if (back.failed()) {
        break_off(back.get_exception());
    }
    finish();
}

void vm_conn::break_off(const std::exception_ptr& e) noexcept try {
    step(life::event::aborted);
    std::rethrow_exception(e);
} catch (const std::bad_alloc&) {
    ++_carrier.count().no_memory;
} catch (...) {
    char peer[base::address_text_bytes];
    log.error("connection to {}: {}", base::format(_peer, peer), std::current_exception());
}

// 0 or an errno; it does not count when the program or the daemon left meanwhile. The program has called connect()
// itself, so that its errors and its waiting are the kernel's own; and we could not do it safely: the program shares
// the socket's O_NONBLOCK and might take it away.
seastar::future<int> vm_conn::connected() {
    if (!watch()) {
        co_return ENOMEM;
    }
    uint64_t begun_us = 0;
    while (!_life.over()) {
        _out.point.clear();
        switch (_far->connecting()) {
        case progress::up:
            if (begun_us != 0) {
                route_row().connecting.add(shm::stats_now_us() - begun_us);
            }
            established();  // here: the caller may go on later, and a hang-up before that must not find it connecting
            co_return 0;
        case progress::elsewhere:
            if (!take_direct_way()) {
                co_return errno;
            }
            break;
        case progress::under_way:
            begun_us = begun_us != 0 ? begun_us : shm::stats_now_us();
            co_await _out.point.wait();
            break;
        case progress::failed: {
            int err = _far->take_error();
            co_return err != 0 ? err : ECONNABORTED;
        }
        }
    }
    co_return ECANCELED;
}

// The program learns the addresses first, then that the connection is made, then its descriptor turns writable.
void vm_conn::established() noexcept {
    step(life::event::connected);
    _local = _far->local();
    if (auto peer = _far->peer(); peer.family != 0) {
        _peer = peer;
    }
    guard_end();
    show();
    _p.place.owner->show_addresses(_slot, _local, _peer);
    // A small SO_RCVBUF that came from the listener counts before the program has accepted.
    if (const uint32_t asked = base::buffers_asked_of(tcp_fd()).receive; asked != 0) {
        _tx_state.most.reader = asked;
    }
    auto& h = _p.conduit.header();
    h.local = _local;
    h.peer = _peer;
    h.error.store(0, std::memory_order_relaxed);
    if (auto& flags = h.end[1].flags; _far->carries_urgent() && (flags & shm::end_not_urgent) != 0) {
        flags.fetch_and(~uint32_t(shm::end_not_urgent), std::memory_order_relaxed);
    }
    h.status.store(shm::conduit_established, std::memory_order_release);
    _near.in.take_counted(_near.doorbell);
    _near.out.send_refused(_near.doorbell);
}

// Each event comes by here. What last() says waits for finish(), as both fibers may still be at work.
life::actions vm_conn::step(life::event e, int err) noexcept {
    using life::action;
    if (e == life::event::send_failed) {
        read_again();  // what came before it is still to be read
    }
    const life::actions todo = _life.apply(e, err);
    note_life();
    _row->state.set(uint64_t(std::min(conn_state(_life.at), conn_state::closing)));
    if (todo.has(action::shut_far)) {
        _far->shut_send();
    }
    if (todo.has(action::fin_program)) {
        _near.out.set_flags(shm::ring_fin);
        if (_plain) {
            _plain->finish();
        } else {
            ::shutdown(_near.doorbell.fd(),
                       SHUT_WR);  // shows IN and RDHUP as one event; a token before it would make two
        }
    }
    if (todo.has(action::reset_program)) {
        _near.out.reset(todo.error);
        wake_program();
    }
    if (todo.has(action::give_back)) {
        give_back(todo.error);
    }
    if (todo.has(action::flush)) {
        flush_and_judge();
    }
    if (todo.has(action::count_orphan)) {
        ++_carrier.count().orphans;
    }
    if (todo.has(action::watch)) {
        watch_progress();
    }
    if (todo.has(action::wake_in) || todo.has(action::finish)) {
        _in.wake();
    }
    if (todo.has(action::wake_out) || todo.has(action::finish)) {
        _out.wake();
    }
    return todo;
}

// The kernel socket goes back beside one token, for another attempt; the program's own tokens stay unread, which
// makes its end show OUT, ERR and HUP as a refused TCP connect does.
void vm_conn::give_back(int err) noexcept {
    _far->unwatch();
    auto& h = _p.conduit.header();
    h.error.store(err, std::memory_order_relaxed);
    h.status.store(shm::conduit_failed, std::memory_order_release);
    _near.out.reset(err);  // for a program that saw its connect() succeed before the hand-over
    _near.out.count_token();
    _p.mark.lift(tcp_fd());
    int fd = tcp_fd();
    proto::send_with_fds(_near.doorbell.fd(), &shm::token_byte, 1, {&fd, 1}, MSG_DONTWAIT);
    _bell_watch.reset();
    _carrier.alarm().guard([this] {
        let_go_of_bell();
        _p.tcp.reset();
        return true;
    });
}

void vm_conn::refuse(int err) noexcept {
    ++_carrier.count().refused;
    disconnect_tcp(tcp_fd());
    step(life::event::connect_failed, err);
    finish();
}

// The last holder of the program's end is gone, or both directions are shut down: the table tells them apart.
void vm_conn::on_hang_up() noexcept {
    const uint32_t ring = _near.in.flags(), end = program_flags();
    // Its connect is undone by a shutdown, or its connection broken by connect(AF_UNSPEC): both need the socket itself.
    if ((end & shm::end_recalled) != 0) {
        step(life::event::recalled);
        return;
    }
    if (_back.gone) {
        take_from_program();
    }
    if ((ring & shm::ring_fin) != 0) {
        step(life::event::shut_write);
    }
    if ((end & shm::end_read_shut) != 0) {
        step(life::event::shut_read);
    }
    // Without the library nobody says goodbye.
    step((end & shm::end_left) != 0 || _plain ? life::event::closed : life::event::killed);
}

// In plain mode what the far side has sent lies in our memory, which the program does not see, until its doorbell takes
// it. That may be long after the far side has ended.
seastar::future<> vm_conn::last_plain_bytes() {
    _waits_for_program = true;
    while (_plain && _p.bell && !_plain->is_empty() && !_plain_hung_up && !_life.stopping) {
        _in.point.clear();
        _in.on = waits::ring;
        co_await _in.point.wait();
    }
}

// What the kernel takes without waiting counts as sent by the program before it closed. What it left unread decides
// then how the far side ends: closing with unread data is told to the peer by RST.
void vm_conn::flush_and_judge() noexcept {
    const bool never_taken = _p.role == conn_role::server && (program_flags() & shm::end_accepted) == 0;
    if (never_taken || (_near.in.flags() & shm::ring_reset) != 0) {
        step(life::event::program_reset);
        return;
    }
    _pump.flush(_near.in.capacity());
    if (!_life.over()) {
        const bool resets = program_left_unread() || _p.mark.program_resets(tcp_fd());
        step(resets ? life::event::program_reset : life::event::nothing_unread);
    }
}

bool vm_conn::program_left_unread() noexcept {
    size_t free = 0;
    if (_plain && _plain->left_unread()) {
        return true;
    }
    return _near.out.free_bytes(free) != shm::look::ok || _near.out.unread_seen() != 0 || _far->has_unread();
}

void vm_conn::watch_progress() noexcept {
    _bytes_out_checked = _row->bytes_out;
    _progress_timer.rearm(seastar::lowres_clock::now() +
                          (_life.stopping ? _carrier.settings().flush_limit : _carrier.settings().orphan_limit));
}

void vm_conn::on_progress_timer() noexcept {
    if (_life.over()) {
        return;
    }
    if (!_life.stopping && _row->bytes_out != _bytes_out_checked) {
        watch_progress();
        return;
    }
    ++_carrier.count().orphans_given_up;
    step(life::event::time_out);
}

void vm_conn::report(fault why) noexcept try {
    static thread_local log_limits limits;
    auto& owner = *_p.place.owner;
    log.log(seastar::log_level::warn, limits.of(why), "{} in the conduit of {} (pid {}) to {}: the connection is reset",
            to_text(why), owner.name, owner.pid, base::to_string(_peer));
} catch (const std::bad_alloc&) {
    // The count says it.
}

void vm_conn::break_rules(fault why) noexcept {
    if (_life.over()) {
        return;
    }
    report(why);
    _carrier.count().count(why);
    step(life::event::rules_broken);
}

void vm_conn::stop() noexcept {
    step(_back.gone ? life::event::recalled : life::event::stop);
    if (_waits_for_program) {
        _life.stopping = true;  // the event has no meaning any more
        _in.wake();
    }
}

void vm_conn::let_go_of_far() noexcept {
    const life::actions last = _life.last();
    _lent_timer.cancel();
    if (_life.why == life::cause::cut && _far->path() == conn_path::direct) {
        ++_carrier.count().resets_sent;
        _carrier.reset_when_sent(std::move(_p.tcp));
        return;
    }
    _p.mark.lift(tcp_fd());
    if (last.has(life::action::discard_input)) {
        _far->discard_input();
    }
    if (last.has(life::action::release_far)) {
        _far->release();
    } else if (last.has(life::action::reset_far)) {
        ++_carrier.count().resets_sent;
        _far->reset();
    } else if (last.has(life::action::close_far)) {
        base::lingers_zero(tcp_fd()) ? _far->reset() : _far->close();
    }
    _p.tcp.reset();
}

// What lies in it unread is closed with it.
void vm_conn::let_go_of_bell() noexcept {
    if (_near.doorbell.holds_rights()) {
        _carrier.let_go(_p.bell, *_p.place.owner->owner);
    }
    _p.bell.reset();
}

void vm_conn::bell_rights::take(base::unique_fd right) noexcept {
    conn._carrier.let_go(right, *conn._p.place.owner->owner);
}

void vm_conn::finish() noexcept {
    _progress_timer.cancel();
    _carrier.rings().forget(*this);
    _far->unwatch();
    _bell_watch.reset();
    step(life::event::aborted);  // for one that was never run
    if ((program_flags() & shm::end_recalled) != 0) {
        step(life::event::recalled);  // the program may have done so since the end
    }
    leave_entry();
    if (_p.bell && _p.role == conn_role::server && carrier::is_unheard(_near.doorbell.fd())) {
        _carrier.close_when_heard(
            std::move(_p.bell),
            {_p.place.owner, std::move(_p.place.total), std::move(_p.place.of_session), std::move(_p.place.fds), {}},
            {});
    }
    // The program may have set SO_LINGER on its socket, and do so again while we close it.
    _carrier.alarm().guard([this] {
        if (_p.tcp) {
            let_go_of_far();
        }
        if (_p.bell) {
            // Closed with the resident token unread, the program's end shows an error beside the hang-up.
            if (_life.last().has(life::action::drain_tokens)) {
                _near.doorbell.drain();
            }
            let_go_of_bell();
        }
        return true;
    });
    _p.place.owner->hide(std::exchange(_slot, shm::no_slot));
}

}  // namespace vmsgr::conn
