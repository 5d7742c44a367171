#include "conn/vm_conn.hh"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <seastar/core/coroutine.hh>

#include "base/netns.hh"
#include "base/sockets.hh"
#include "conn/carrier.hh"
#include "conn/kernel_socket.hh"
#include "conn/log.hh"
#include "proto/control.hh"

namespace vmsgr::net {

vm_conn::vm_conn(carrier& c, uint64_t id, conn_state state, parts p)
    : _carrier(c),
      _p(std::move(p)),
      _id(id),
      _bell(_p.bell.get(), shm::resident_tokens),
      _rx(_p.conduit.header().ring[0], _p.conduit.ring_data(0), _p.conduit.capacity, _rx_state),
      _tx(_p.conduit.header().ring[1], _p.conduit.ring_data(1), _p.conduit.capacity, _tx_state),
      _state(state),
      _peer(_p.peer),
      _opened_s(unix_time_s()),
      _wire(_p.far ? std::move(_p.far) : make_tcp_wire(_p.tcp)) {
    _progress_timer.set_callback([this] { on_progress_timer(); });
    _slot = _p.shown != shm::no_slot ? _p.shown
                                     : _p.place.owner->show(_id, _p.role, seastar::this_shard_id(), _p.program_fd);
    if (state == conn_state::established) {
        established();
    }
}

vm_conn::~vm_conn() { finish(); }

conn_info vm_conn::info() const {
    auto& owner = *_p.place.owner;
    int fd = _slot != shm::no_slot ? owner.shown_fd(_slot) : _p.program_fd;
    return {_id,    owner.session_id, owner.pid, fd,     _p.role,    _local,     _peer,
            _p.route, seastar::this_shard_id(), _state, _bytes_in, _bytes_out, _opened_s,
            _wire->brings() ? conn_path::trunk : conn_path::direct};
}

// A doorbell has no name, so ours gets one that nobody else has, once it is asked for: the kernel tells it to whoever
// holds the other end, and to nobody else. Abstract names are unique within a network namespace.
bool vm_conn::is_shown_by(int descriptor) noexcept {
    sockaddr_un ours{}, theirs{};
    socklen_t ours_len = sizeof ours, theirs_len = sizeof theirs;
    auto* sa = reinterpret_cast<sockaddr*>(&ours);
    if (!_p.bell || base::not_unix(descriptor, SOCK_STREAM) != nullptr ||
        ::getsockname(_bell.fd(), sa, &ours_len) != 0) {
        return false;
    }
    if (ours_len <= offsetof(sockaddr_un, sun_path)) {
        ours.sun_family = AF_UNIX;
        const std::string name = "vmsgr-" + std::to_string(::getpid()) + "-" + std::to_string(_id);
        memcpy(ours.sun_path + 1, name.data(), name.size());
        ours_len = socklen_t(offsetof(sockaddr_un, sun_path) + 1 + name.size());
        if (::bind(_bell.fd(), sa, ours_len) != 0) {
            return false;
        }
    }
    return ::getpeername(descriptor, reinterpret_cast<sockaddr*>(&theirs), &theirs_len) == 0 &&
           theirs_len == ours_len && memcmp(&ours, &theirs, ours_len) == 0 &&
           base::netns_cookie(descriptor) == base::netns_cookie(_bell.fd());
}

bool vm_conn::watch_bell() noexcept {
    auto r = _carrier.events().add(_bell.fd(), _bell_sink);
    if (r) {
        _bell_events = std::move(*r);
    }
    return bool(r);
}

bool vm_conn::watch_wire() noexcept { return _wire->watch(_carrier.events(), _wire_sink); }

// The peer's daemon does not carry this destination: the program's socket, which is bound only, connects after all.
bool vm_conn::take_direct_way() noexcept {
    _wire->unwatch();
    _wire = make_tcp_wire(_p.tcp);
    int err = _carrier.alarm().guard([this] { return begin_connect(tcp_fd(), _peer); });
    if (err != 0) {
        errno = err;
        return false;
    }
    return watch_wire();
}

seastar::future<> vm_conn::run() {
    if (_state == conn_state::connecting) {
        int err = co_await connected();
        if (err != 0) {
            if (!_program_left && !_over) {
                _wire->unwatch();
                ++_carrier.count().connects_failed;
                tell_failed(err);
            }
            finish();
            co_return;
        }
        established();
    } else if (!watch_bell() || !watch_wire()) {
        fail(ENOMEM);
    }
    auto broken = [this](std::exception_ptr e) {
        log.error("connection to {}: {}", base::to_string(_peer), e);
        end_with_reset();
    };
    auto writes = write_loop().handle_exception(broken);
    auto reads = read_loop().handle_exception(broken);
    co_await std::move(writes);
    co_await std::move(reads);
    finish();
}

// 0 or an errno. ECANCELED when the program or the daemon left meanwhile. The program has called connect() itself,
// so that its errors and its waiting are the kernel's own; and we could not do it safely: the program shares the
// socket's O_NONBLOCK and might take it away.
seastar::future<int> vm_conn::connected() {
    if (!watch_bell() || !watch_wire()) {
        co_return ENOMEM;
    }
    for (;;) {
        if (_program_left || _over) {
            co_return ECANCELED;
        }
        _out.point.clear();
        switch (_wire->connecting()) {
        case progress::up: co_return 0;
        case progress::elsewhere:
            if (!take_direct_way()) {
                co_return errno;
            }
            break;
        case progress::under_way:
            if (_connect_writable) {
                co_return 0;  // TCP_FASTOPEN_CONNECT: the first send connects
            }
            co_await _out.point.wait();
            break;
        case progress::failed: {
            int err = _wire->take_error();
            co_return err != 0 ? err : ECONNABORTED;
        }
        }
    }
}

// The program learns the addresses first, then that the connection stands, then its descriptor turns writable.
void vm_conn::established() noexcept {
    _state = conn_state::established;
    _local = _wire->local();
    if (auto peer = _wire->peer(); peer.family != 0) {
        _peer = peer;
    }
    _p.place.owner->show_addresses(_slot, _local, _peer);
    auto& h = _p.conduit.header();
    h.local = _local;
    h.peer = _peer;
    h.error.store(0, std::memory_order_relaxed);
    h.status.store(shm::conduit_established, std::memory_order_release);
    uint32_t unread = h.ring[0].tokens_sent.load(std::memory_order_acquire) - _rx_state.tokens_taken;
    if (unread != 0) {
        _rx_state.tokens_taken += _bell.take_tokens(std::min(unread, shm::bell_tokens_max));
    }
}

// The kernel socket goes back beside one token, for another attempt; the program's own tokens stay unread, which
// makes its end show OUT, ERR and HUP as a refused TCP connect does.
void vm_conn::tell_failed(int err) noexcept {
    auto& h = _p.conduit.header();
    h.error.store(err, std::memory_order_relaxed);
    h.status.store(shm::conduit_failed, std::memory_order_release);
    _tx.reset(err);  // for a program that saw its connect() succeed before the hand-over
    h.ring[1].tokens_sent.fetch_add(1, std::memory_order_seq_cst);
    int fd = tcp_fd();
    proto::send_with_fds(_bell.fd(), &shm::token_byte, 1, {&fd, 1}, MSG_DONTWAIT);
    _bell_events.reset();
    _p.bell.reset();
    _p.tcp.reset();
}

void vm_conn::refuse(int err) noexcept {
    ++_carrier.count().refused;
    disconnect_tcp(tcp_fd());
    tell_failed(err);
    finish();
}

void vm_conn::on_hang_up() noexcept {
    if (_program_left || _program_shut_all || _over) {
        return;
    }
    _program_shut_out = true;
    if (_state == conn_state::connecting) {
        _program_left = true;
        _out.wake();
        return;
    }
    if (recalled()) {
        end();
        return;
    }
    uint32_t flags = _rx.flags();
    uint32_t end0 = _p.conduit.header().end[0].flags.load(std::memory_order_acquire);
    // Both directions shut down show a hang-up too, although the program still holds its descriptor.
    if ((flags & shm::ring_fin) != 0 && ((end0 & shm::end_read_shut) != 0 || _fin_to_program)) {
        _program_shut_all = true;
        _state = conn_state::closing;
        if (_out.done) {
            end();
            return;
        }
        watch_progress();
        _in.wake();
        _out.wake();
        return;
    }
    _program_left = true;
    _state = conn_state::closing;
    bool never_taken = _p.role == conn_role::server && (end0 & shm::end_accepted) == 0;
    if (never_taken || (flags & shm::ring_reset) != 0) {
        end_with_reset();
        return;
    }
    // What the kernel takes without waiting counts as sent by the program before it closed.
    while (!_over && !_out.done && pump_out() == next::again) {
    }
    if (_over && _out.done) {
        // All is sent; what the program left unread decides how the socket ends.
        _reset_wire = _reset_wire || program_left_unread();
        return;
    }
    if (_over) {
        return;
    }
    if (program_left_unread() || lingers_zero(tcp_fd())) {
        end_with_reset();
    } else if (_out.done) {
        end();
    } else {
        ++_carrier.count().orphans;
        watch_progress();
        _in.wake();
        _out.wake();
    }
}

// As the kernel does: closing with unread data is told to the peer by RST.
bool vm_conn::program_left_unread() noexcept {
    size_t free = 0;
    if (_tx.free_bytes(free) != shm::look::ok) {
        return true;
    }
    return free != _tx.capacity() || _wire->has_unread();
}

void vm_conn::watch_progress() noexcept {
    _bytes_out_checked = _bytes_out;
    _progress_timer.rearm(seastar::lowres_clock::now() +
                          (_stopping ? _carrier.settings().flush_limit : _carrier.settings().orphan_limit));
}

void vm_conn::on_progress_timer() noexcept {
    if (_over) {
        return;
    }
    if (!_stopping && _bytes_out != _bytes_out_checked) {
        watch_progress();
        return;
    }
    ++_carrier.count().orphans_given_up;
    end_with_reset();
}

void vm_conn::end() noexcept {
    _over = true;
    _in.wake();
    _out.wake();
}

void vm_conn::end_with_reset() noexcept {
    _reset_wire = true;
    end();
}

// The network broke the connection, or we cannot go on: the program reads the errno from its ring.
void vm_conn::fail(int err) noexcept {
    if (_over) {
        return;
    }
    _broken = true;
    if (!_program_left) {
        _tx.reset(err);
        _tx.wake(_bell);
    }
    end();
}

void vm_conn::break_rules(fault why) noexcept {
    if (_over) {
        return;
    }
    static thread_local seastar::logger::rate_limit rate(std::chrono::seconds(1));
    auto& owner = *_p.place.owner;
    log.log(seastar::log_level::warn, rate, "{} in the conduit of {} (pid {}) to {}: the connection is reset",
            to_text(why), owner.name, owner.pid, base::to_string(_peer));
    _carrier.count().count(why);
    _tx.reset(ECONNRESET);
    end_with_reset();
}

void vm_conn::stop() noexcept {
    if (_over || _stopping) {
        return;
    }
    _stopping = true;
    if (_state == conn_state::connecting) {
        end();
        return;
    }
    if (_out.done) {
        end();
        return;
    }
    watch_progress();
    _out.wake();
}

void vm_conn::abort() noexcept {
    if (!_over) {
        end_with_reset();
    }
}

// Its connect is undone by a shutdown, or its connection broken by connect(AF_UNSPEC): both need the socket itself.
bool vm_conn::recalled() noexcept {
    uint32_t end0 = _p.conduit.header().end[0].flags.load(std::memory_order_acquire);
    _recalled = _recalled || (end0 & shm::end_recalled) != 0;
    return _recalled;
}

void vm_conn::finish() noexcept {
    _progress_timer.cancel();
    _carrier.rings().forget(*this);
    _wire->unwatch();
    _bell_events.reset();
    if (_p.tcp && recalled()) {
        _p.tcp.reset();
        if (_wire->brings()) {
            _wire->reset();
        }
    }
    if (_p.tcp) {
        if (_stopping && !_program_left) {
            _tx.reset(ECONNRESET);
        }
        if (_reset_wire) {
            ++_carrier.count().resets_sent;
            _wire->reset();
        } else {
            if (_program_shut_all) {
                _wire->discard_input();
            }
            lingers_zero(tcp_fd()) ? _wire->reset() : _wire->close();
        }
        _p.tcp.reset();
    }
    if (_p.bell) {
        // Closed with the resident token unread, the program's end shows an error beside the hang-up. An orderly end
        // reads it first.
        bool quiet = !_broken && !_reset_wire && !_stopping && _state != conn_state::connecting;
        if (quiet) {
            _bell.drain();
        }
        _p.bell.reset();
    }
    _p.place.owner->hide(std::exchange(_slot, shm::no_slot));
}

}  // namespace vmsgr::net
