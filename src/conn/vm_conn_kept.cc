// What outlives the worker: a connection is handed over to the keeper when it is not young any more, and the next
// worker goes on from what the kernel and the shared memory say (docs/KEEPER.md).
#include <poll.h>
#include <sys/socket.h>

#include <utility>

#include <seastar/core/coroutine.hh>

#include "conn/carrier.hh"
#include "conn/kernel_socket.hh"
#include "conn/tcp_count.hh"
#include "conn/vm_conn.hh"
#include "proto/control.hh"

namespace vmsgr::conn {

namespace {

bool urgent_waits(int tcp) noexcept {
    pollfd p{tcp, POLLPRI, 0};
    return ::poll(&p, 1, 0) == 1 && (p.revents & POLLPRI) != 0;
}

}  // namespace

// Before what it says is done: the next worker does it again.
void vm_conn::note_life() noexcept {
    if (_entry != nullptr) {
        auto& f = _entry->connection;
        const uint32_t next = f.life_at.load(std::memory_order_relaxed) ^ 1;
        f.life[next & 1] = _life.save();
        f.life_at.store(next, std::memory_order_release);  // a worker that dies before that has not begun
    }
}

bool vm_conn::hand_over() noexcept {
    if (_entry != nullptr || _life.over() || _plain || _back.gone) {
        return true;
    }
    if (_far->path() == conn_path::trunk) {
        return _far->channel().session != 0 && give(0, 0);
    }
    if (_life.at == life::phase::connecting || urgent_waits(tcp_fd())) {
        return false;
    }
    const auto counted = count_tcp(tcp_fd());
    return counted && give(counted->written - _near.in.consumed(), counted->read - _near.out.published());
}

bool vm_conn::rest() noexcept {
    if (_rests || _plain || _far->path() != conn_path::trunk) {
        return true;
    }
    if (_life.over()) {
        return false;  // it will be gone in a moment
    }
    if (_entry == nullptr && (!hand_over() || _entry == nullptr)) {
        return false;
    }
    const bool moves = _life.at != life::phase::connecting;
    if (moves && ((_pump.sends() && _out.on == waits::nothing) || (_pump.receives() && _in.on == waits::nothing))) {
        return false;
    }
    _rests = true;
    _bell_watch.reset();
    _far->unwatch();
    _carrier.rings().forget(*this);
    _progress_timer.cancel();
    return true;
}

// True: there is nothing to be given, as it will never be the keeper's.
bool vm_conn::give(uint64_t sent_base, uint64_t received_base) noexcept {
    const int fds[] = {tcp_fd(), _p.bell.get(), _p.arena ? _p.arena.get() : _p.memory.fd()};
    if (fds[2] < 0) {
        return true;
    }
    auto* e = _carrier.kept().take(keeper::entry_kind::connection);
    if (e == nullptr) {
        return false;
    }
    note_owner(*e, *_p.place.owner);
    auto& f = e->connection;
    f.life_at.store(0, std::memory_order_relaxed);
    f.plain.store(0, std::memory_order_relaxed);
    f.slot = _p.memory.index();
    f.shown = _slot;
    f.id = _id;
    f.sent_base = sent_base;
    f.received_base = received_base;
    f.trunk = _far->channel().session;
    f.channel = _far->channel().channel;
    f.opened_s = _opened_s;
    f.local = _local;
    f.peer = _peer;
    f.program_fd = program_fd();
    const auto& own = _p.mark.own();
    f.has_linger = own ? 1 : 0;
    f.linger[0] = own ? own->l_onoff : 0;
    f.linger[1] = own ? own->l_linger : 0;
    f.role = uint8_t(_p.role);
    proto::copy_text(f.route, _p.route);
    _entry = e;
    note_life();
    if (!_carrier.kept().give(*e, fds)) {
        _entry = nullptr;
        return false;
    }
    return true;
}

// The keeper closes its copies first, so that closing ours means what it says, and the keeper's never waits.
seastar::future<> vm_conn::take_back() {
    if (_entry == nullptr) {
        co_return;
    }
    if (!_life.last().has(life::action::reset_far)) {
        _p.mark.lift(tcp_fd());  // a worker that dies from here on closes it in order, as is right by now
    }
    (void)co_await _carrier.take_back(*_entry);
}

void vm_conn::leave_entry() noexcept {
    if (_entry == nullptr) {
        return;
    }
    auto& e = *std::exchange(_entry, nullptr);
    if (_carrier.kept().is_back(e)) {
        _carrier.kept().leave(e);
        return;
    }
    kept_descriptors copies;  // the keeper is late
    copies[keeper::kept_tcp] = duplicate(tcp_fd());
    copies[keeper::kept_bell] = duplicate(_p.bell.get());
    _carrier.close_when_back(e, std::move(copies), _p.place.owner->owner);
}

// Another worker moved its bytes. Tokens are no longer counted exactly, as after a fork that was killed; one more
// is sent, so that whoever was owed one looks.
void vm_conn::go_on_from(const restored& f) noexcept {
    _life = f.life;
    _entry = f.entry;
    _opened_s = f.opened_s;
    _near.in.take_over(_near.doorbell, f.sent, _life.at != life::phase::connecting);
    _near.out.take_over(_near.doorbell, f.received);
    f.gone ? leave_to_program() : stay();
    _row->bytes_out.set(f.sent);
    _row->bytes_in.set(f.received);
}

// What was to be done by the last events before the worker died. Each may be done twice.
void vm_conn::do_again() noexcept {
    if (_back.gone) {
        return;
    }
    if (_life.over()) {
        if (_life.error != 0 && !_life.gone()) {
            _near.out.reset(_life.error);
            wake_program();
        }
        return;
    }
    if (_life.in == life::way::fin) {
        _near.out.set_flags(shm::ring_fin);
        ::shutdown(_near.doorbell.fd(), SHUT_WR);
        step(life::event::all_received);
    }
    if (_life.out == life::way::ended) {
        _far->shut_send();
    }
    if (!_life.over() && (_life.far == life::side::killed || _life.far == life::side::left)) {
        step(life::event::far_failed, ECONNRESET);
    } else if (!_life.over() && _life.gone() && !_life.orphan) {
        flush_and_judge();
    } else if (!_life.over() && (_life.orphan || _life.program == life::side::shut)) {
        watch_progress();
    }
}

}  // namespace vmsgr::conn
