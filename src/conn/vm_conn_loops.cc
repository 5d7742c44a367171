#include <errno.h>
#include <sys/socket.h>

#include <seastar/core/coroutine.hh>
#include <seastar/coroutine/maybe_yield.hh>

#include "conn/carrier.hh"
#include "conn/vm_conn.hh"
#include "proto/control.hh"

namespace vmsgr::conn {

namespace {

constexpr int plain_pulls_max = 16;

}  // namespace

seastar::future<> vm_conn::write_loop() {
    while (_pump.sends()) {
        _out.point.clear();
        const next n = _pump.send();
        if (n == next::again) {
            co_await seastar::coroutine::maybe_yield();
        } else if (n != next::done) {
            co_await (n == next::far ? stall_on(_out, waits::far, _row->far_stalls_since_us, route_row().far_stalls)
                                     : wait_on(_out, waits::ring));
        }
    }
}

seastar::future<> vm_conn::read_loop() {
    while (_pump.receives()) {
        _in.point.clear();
        const next n = _pump.receive();
        if (n == next::again) {
            co_await seastar::coroutine::maybe_yield();
        } else if (n != next::done) {
            co_await (n == next::near
                          ? stall_on(_in, waits::ring, _row->program_stalls_since_us, route_row().program_stalls)
                          : wait_on(_in, waits::far));
        }
    }
}

seastar::future<> vm_conn::wait_on(direction& d, waits what) {
    d.on = what;
    if (what == waits::ring) {
        if (&d == &_out) {
            _near.in.stay_awake();
        }
        _carrier.rings().activate(*this);
    }
    auto woken = d.point.wait();
    if (woken.available()) {
        d.on = waits::nothing;
    }
    return woken;
}

// There is something to move, and no room for it.
seastar::future<> vm_conn::stall_on(direction& d, waits what, base::tally& since_us, base::histogram& kept) {
    since_us.set(shm::stats_now_us());
    co_await wait_on(d, what);
    kept.add(shm::stats_now_us() - since_us);
    since_us.set(0);
}

bool vm_conn::to_send(size_t& n) noexcept {
    if (_back.gone) {
        n = 0;
        return true;
    }
    const uint32_t flags = _near.in.flags();  // before the look at the data: fin is set after the last byte
    if (_near.in.data_bytes(n) != shm::look::ok) {
        break_rules(fault::bad_ring_index);
        return false;
    }
    if ((flags & shm::ring_reset) != 0) {
        step(life::event::program_reset);
        return false;
    }
    if ((flags & shm::ring_fin) != 0) {
        step(life::event::shut_write);
    }
    if (n == 0 && _plain) {
        pull_plain();
        if (_near.in.data_bytes(n) != shm::look::ok) {
            break_rules(fault::bad_ring_index);
        }
        return !_life.over();
    }
    if (n == 0) {
        if ((program_flags() & shm::end_plain) != 0) {
            go_plain();
            return !_life.over();
        }
        // While polling nothing settles this side's tokens: a producer's top-up is taken back here.
        _near.freed();
    }
    return true;
}

// The last bytes never wait for more.
bool vm_conn::more_follows() noexcept {
    return (_near.in.flags() & (shm::ring_more | shm::ring_fin)) == shm::ring_more;
}

void vm_conn::sent(size_t n) noexcept {
    _near.in.consume(n);
    if (_plain) {
        _plain->pull();  // there is room
    } else {
        _near.freed();
    }
    count(_row->bytes_out, route_row().bytes_out, _carrier.count().bytes_out, n);
}

bool vm_conn::room(size_t& n) noexcept {
    if (_near.out.free_bytes(n) != shm::look::ok) {
        break_rules(fault::bad_ring_index);
        return false;
    }
    if (_back.stops_reading()) {
        n = 0;
    }
    return true;
}

bool vm_conn::room_at_all(size_t& n) noexcept {
    if (!room(n)) {
        return false;
    }
    n = _near.out.capacity() - _near.out.unread_seen();
    return true;
}

void vm_conn::received(size_t n) noexcept {
    _near.out.publish(n);
    count(_row->bytes_in, route_row().bytes_in, _carrier.count().bytes_in, n);
}

size_t vm_conn::before_urgent(size_t n) const noexcept {
    const uint64_t end = _near.in.urgent_end();
    return end == 0 ? n : size_t(std::min<uint64_t>(n, end - 1 - _near.in.consumed()));  // one that is sent is far away
}

void vm_conn::received_urgent() noexcept {
    const bool first = !_near.out.has_urgent_unread();
    _near.out.mark_urgent(1);
    received(1);
    if (_plain) {
        push_plain();
    } else {
        _near.sent_urgent(first);
    }
}

void vm_conn::count(base::tally& own, base::tally& of_route, base::tally& all, size_t n) noexcept {
    own += n;
    of_route += n;
    all += n;
    if (_far->path() == conn_path::trunk) {
        _carrier.count().bytes_trunk += n;
    }
}

// One wake-up of the program for all packets that came at once.
void vm_conn::on_batch_end() noexcept {
    if (_life.over()) {
        return;
    }
    wake_program();
    if (_in.on == waits::far && _pump.needs_credit()) {
        _in.wake();
    }
}

void vm_conn::on_far(uint32_t events) noexcept {
    if (_back.gone) {
        return;
    }
    // The program has its socket back, and disconnects it: the error that this shows is for the program alone.
    if ((events & (EPOLLERR | EPOLLHUP)) != 0 && (program_flags() & shm::end_recalled) != 0) {
        on_hang_up();
        return;
    }
    if (_life.at == life::phase::connecting) {
        _out.wake();
        return;
    }
    if ((events & EPOLLERR) != 0 && !_life.over() && !_pump.receives()) {
        if (int err = _far->take_error(); err != 0) {
            step(life::event::far_failed, err);
            return;
        }
    }
    const bool ending = (events & (EPOLLERR | EPOLLHUP)) != 0;
    if (((events & (EPOLLIN | EPOLLPRI)) != 0 || ending) && _in.on != waits::ring) {
        _in.wake();
    }
    if (((events & EPOLLOUT) != 0 || ending) && _out.on != waits::ring) {
        _out.wake();
    }
}

// The program has moved to another socket, as this end of the doorbell is shut down: it comes with the last token.
bool vm_conn::take_new_socket() noexcept {
    auto socket = proto::take_moved_socket(_near.doorbell.fd(), _rx_state.tokens_taken, &_bell_rights);
    if (!socket) {
        return false;
    }
    try {
        auto watch = _carrier.events().add(socket.get(), _bell_events);
        if (watch) {
            _bell_watch = std::move(*watch);
        } else {
            step(life::event::aborted);
            return false;
        }
    } catch (const std::bad_alloc&) {
        step(life::event::aborted);
        return false;
    }
    let_go_of_bell();
    _p.bell = std::move(socket);
    _near.doorbell = shm::bell(_p.bell.get(), shm::resident_tokens, nullptr, &_bell_rights);
    _near.in.skip_counted();
    return true;
}

// The program's end is for somebody without the library from now on; this end agrees, where it can.
void vm_conn::go_plain() noexcept {
    if ((program_flags() & shm::end_moved) != 0 ? !take_new_socket() : (_near.out.flags_set() & shm::ring_fin) != 0) {
        return;  // it is under way, or the program will see that this end is shut down, and move
    }
    try {
        _plain = std::make_unique<plain_end>(_p.conduit, _near, _bell_rights);
    } catch (const std::bad_alloc&) {
        step(life::event::aborted);
        return;
    }
    if (_plain->is_impossible()) {
        break_rules(fault::bad_ring_index);
        return;
    }
    ++_carrier.count().plain;
    stay();
    if (_entry != nullptr) {
        _entry->connection.plain.store(1, std::memory_order_release);
    }
    auto& h = _p.conduit.header();
    h.end[0].flags.fetch_or(shm::end_agreed, std::memory_order_seq_cst);  // what moves does so before, or for the fin
    h.end[1].flags.fetch_or(shm::end_plain, std::memory_order_seq_cst);
    if ((_near.out.flags_set() & shm::ring_fin) != 0) {
        _plain->finish();
    }
    push_plain();
    pull_plain();
}

bool vm_conn::pull_plain() noexcept {
    bool some = false;
    // Each takes all that is there: who goes on writing meanwhile is looked at again when that has left.
    for (int i = 0; i < plain_pulls_max && _plain->pull() != plain_end::pulled::nothing; ++i) {
        some = true;
    }
    if (some && _out.on == waits::ring) {
        _out.wake();
    }
    // A hang-up counts once all is in the ring that came before it.
    if (_plain_hung_up && _plain->has_ended()) {
        on_hang_up();
    }
    return some;
}

bool vm_conn::push_plain() noexcept {
    const bool moved = _plain->push();
    if ((moved || _plain->is_empty()) && _in.on == waits::ring) {
        _in.wake();
    }
    return moved;
}

void vm_conn::on_bell(uint32_t events) noexcept {
    if (_back.gone) {
        if ((events & EPOLLHUP) != 0) {
            on_hang_up();
        }
        return;
    }
    if (!_plain && (program_flags() & shm::end_plain) != 0 && _life.at != life::phase::connecting) {
        go_plain();
    }
    if (_plain) {
        _plain_hung_up = _plain_hung_up || (events & EPOLLHUP) != 0;
        push_plain();
        pull_plain();
        if (_plain_hung_up && _waits_for_program) {
            _in.wake();
        }
        return;
    }
    if ((events & EPOLLHUP) != 0) {
        on_hang_up();
        return;
    }
    // A token that announces data is not looked at: what else may lie there is found when it is taken.
    if ((events & EPOLLIN) != 0 && !_near.in.has_data() && _near.holds_foreign_bytes()) {
        break_rules(fault::foreign_bytes);
    }
    if ((events & EPOLLRDHUP) != 0) {
        step(life::event::shut_write);
        // It produces no more: its tokens say nothing now, and without them a writer that still waits for room in the
        // program finds its end writable, looks, and learns of the shutdown.
        _near.in.take_those_here(_near.doorbell);
    }
    if (_life.at == life::phase::connecting) {
        return;
    }
    if ((events & EPOLLOUT) != 0) {
        _near.out.send_refused(_near.doorbell);
    }
    if ((events & (EPOLLIN | EPOLLRDHUP)) != 0 && _out.on == waits::ring) {
        _out.wake();
    }
    if ((events & EPOLLOUT) != 0 && _in.on == waits::ring) {
        _in.wake();
    }
}

bool vm_conn::rings_ready() noexcept {
    if (_out.on == waits::ring && !_back.gone && (_near.in.has_data() || _near.in.ended() != 0)) {
        return true;
    }
    if (_in.on == waits::ring && !_back.stops_reading()) {
        // Half of it at a time: a wake for each freed byte would cost more than it brings.
        size_t n = 0;
        return _near.out.free_bytes(n) != shm::look::ok || n >= _near.out.most_unread() / 2;
    }
    return false;
}

void vm_conn::wake_ring_waits() noexcept {
    if (_out.on == waits::ring) {
        _out.wake();
    }
    if (_in.on == waits::ring) {
        _in.wake();
    }
}

bool vm_conn::park() noexcept {
    if (_plain) {
        const bool pushed = push_plain();
        return !pull_plain() && !pushed;
    }
    bool quiet = true;
    if (_back.gone) {
        return true;
    }
    if (_out.on == waits::ring) {
        const bool empty = _near.emptied();
        if (_near.doorbell.foreign()) {
            break_rules(fault::foreign_bytes);
        } else if (!empty || _near.in.ended() != 0) {
            _out.wake();
            quiet = false;
        }
    }
    if (_in.on == waits::ring && !_back.stops_reading() && !_near.awaits_room()) {
        _in.wake();
        quiet = false;
    }
    return quiet;
}

}  // namespace vmsgr::conn
