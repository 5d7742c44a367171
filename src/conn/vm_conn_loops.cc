#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include <seastar/core/coroutine.hh>
#include <seastar/coroutine/maybe_yield.hh>

#include "conn/carrier.hh"
#include "conn/kernel_socket.hh"
#include "conn/log.hh"
#include "conn/vm_conn.hh"

namespace vmsgr::net {

namespace {

// Bytes moved by one system call, and between two looks at the clock of the reactor: never more than half a ring, so
// that the program works on one half while we work on the other.
size_t quantum_bytes(uint64_t capacity) { return std::min<size_t>(256 << 10, capacity / 2); }

}  // namespace

seastar::future<> vm_conn::wait_on(direction& d, waits what) {
    d.on = what;
    if (what == waits::ring) {
        if (&d == &_out) {
            _rx.stay_awake();
        }
        _carrier.rings().activate(*this);
    }
    auto woken = d.point.wait();
    if (woken.available()) {
        d.on = waits::nothing;
    }
    return woken;
}

seastar::future<> vm_conn::write_loop() {
    while (!_over && !_out.done) {
        switch (pump_out()) {
        case next::again: co_await seastar::coroutine::maybe_yield(); break;
        case next::wire: co_await wait_on(_out, waits::wire); break;
        case next::ring: co_await wait_on(_out, waits::ring); break;
        case next::done: break;
        }
    }
}

seastar::future<> vm_conn::read_loop() {
    while (!_over && !_in.done) {
        switch (pump_in()) {
        case next::again: co_await seastar::coroutine::maybe_yield(); break;
        case next::wire: co_await wait_on(_in, waits::wire); break;
        case next::ring: co_await wait_on(_in, waits::ring); break;
        case next::done: break;
        }
    }
}

// Sends what lies in ring 0, straight from it.
vm_conn::next vm_conn::pump_out() noexcept {
    _out.point.clear();
    uint32_t flags = _rx.flags();  // before the look at the data: fin is set after the last byte
    size_t there = 0;
    if (_rx.data_bytes(there) != shm::look::ok) {
        break_rules(fault::bad_ring_index);
        return next::done;
    }
    if ((flags & shm::ring_reset) != 0) {
        end_with_reset();
        return next::done;
    }
    if (there == 0) {
        // While polling nothing settles this side's tokens: a producer's top-up is taken back here.
        _rx.relieve(_bell);
        if ((flags & shm::ring_fin) == 0 && !_program_shut_out && !_program_left && !_stopping) {
            return next::ring;
        }
        sent_all();
        return next::done;
    }
    size_t n = std::min(there, quantum_bytes(_rx.capacity()));
    // Read after the data it belongs to. The last bytes never wait for more.
    flags = _rx.flags();
    bool more = n < there || ((flags & shm::ring_more) != 0 && (flags & shm::ring_fin) == 0);
    auto p = _rx.data(n);
    ssize_t r = _wire->send(std::span(p.iov).first(size_t(p.count())), more);
    if (r < 0) {
        int err = int(-r);
        if (err == EAGAIN || err == EINTR) {
            return err == EAGAIN ? next::wire : next::again;
        }
        // What the peer sent before it broke the connection is still the program's. Its end of file is so only if it
        // came first (EPIPE): the error just taken would otherwise read as one.
        _end_is_error = err != EPIPE;
        while (!_over && !_in.done && pump_in() == next::again) {
        }
        fail(err);
        return next::done;
    }
    _rx.consume(size_t(r));
    _rx.relieve(_bell);
    _bytes_out += uint64_t(r);
    _carrier.count().bytes_out += uint64_t(r);
    if (_wire->brings()) {
        _carrier.count().bytes_trunk += uint64_t(r);
    }
    return size_t(r) < n ? next::wire : next::again;
}

// Receives straight into the free part of ring 1.
vm_conn::next vm_conn::pump_in() noexcept {
    _in.point.clear();
    if (_program_shut_all) {
        _in.done = true;
        return next::done;
    }
    if (_program_left) {
        // Nobody will read it: the peer learns as it would from the kernel.
        if (_wire->has_unread()) {
            end_with_reset();
            return next::done;
        }
        return next::wire;
    }
    size_t n = 0;
    if (_tx.free_bytes(n) != shm::look::ok) {
        break_rules(fault::bad_ring_index);
        return next::done;
    }
    if (n == 0) {
        return next::ring;
    }
    if (!_wire->brings()) {
        n = std::min(n, quantum_bytes(_tx.capacity()));
    }
    auto p = _tx.space(n);
    ssize_t r = _wire->receive(std::span(p.iov).first(size_t(p.count())));
    if (r > 0) {
        add_received(size_t(r));
        _tx.wake(_bell);
        // A short read emptied the socket, unless something stands behind the data; more of it is a new edge.
        return size_t(r) < n && !_wire_may_end ? next::wire : next::again;
    }
    if (r == 0) {
        if (_end_is_error) {
            _in.done = true;
            return next::done;
        }
        received_all();
        return next::done;
    }
    int err = int(-r);
    if (err == EAGAIN || err == EINTR) {
        return err == EAGAIN ? next::wire : next::again;
    }
    fail(err);
    return next::done;
}

void vm_conn::add_received(size_t n) noexcept {
    _tx.publish(n);
    _bytes_in += n;
    _carrier.count().bytes_in += n;
    if (_wire->brings()) {
        _carrier.count().bytes_trunk += n;
    }
}

// From a wire that brings bytes, within the room that it was told.
bool vm_conn::on_bytes(std::span<const std::byte> bytes) noexcept {
    if (_over || _program_left || _program_shut_all) {
        if (_program_left) {
            end_with_reset();  // nobody will read it
        }
        return false;
    }
    size_t n = 0;
    if (_tx.free_bytes(n) != shm::look::ok || n < bytes.size()) {
        break_rules(fault::bad_ring_index);  // there was room when it was granted, and only the program could take it
        return false;
    }
    auto p = _tx.space(bytes.size());
    memcpy(p.iov[0].iov_base, bytes.data(), p.iov[0].iov_len);
    memcpy(p.iov[1].iov_base, bytes.data() + p.iov[0].iov_len, p.iov[1].iov_len);
    add_received(bytes.size());
    return true;
}

// One wake-up of the program for all packets that came at once.
void vm_conn::on_bytes_end() noexcept {
    if (_over) {
        return;
    }
    _tx.wake(_bell);
    size_t free = 0;
    if (_in.on == waits::wire && (_tx.free_bytes(free) != shm::look::ok || _wire->wants_room(free))) {
        _in.wake();
    }
}

void vm_conn::sent_all() noexcept {
    _out.done = true;
    if ((_rx.flags() & shm::ring_fin) != 0) {
        _wire->shut_send();  // also where a reset follows: SO_LINGER after shutdown()
    }
    if (_program_left || _program_shut_all || _stopping) {
        end();
    } else {
        _state = conn_state::closing;
    }
}

void vm_conn::received_all() noexcept {
    _in.done = true;
    _fin_to_program = true;
    _state = conn_state::closing;
    _tx.set_flags(shm::ring_fin);
    ::shutdown(_bell.fd(), SHUT_WR);  // shows IN and RDHUP as one event; a token before it would make two
    // A reset right behind the end of file came as one event with it.
    if (int err = _wire->take_error(); err != 0) {
        fail(err);
    }
}

void vm_conn::on_wire(uint32_t events) noexcept {
    // Noted in every state: an end that comes before connect() is looked at makes no second edge.
    if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI)) != 0) {
        _wire_may_end = true;
    }
    if (_state == conn_state::connecting) {
        _connect_writable = (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) == EPOLLOUT;
        _out.wake();
        return;
    }
    if ((events & EPOLLERR) != 0 && _in.done && !_over) {
        if (int err = _wire->take_error(); err != 0) {
            fail(err);
            return;
        }
    }
    bool ending = (events & (EPOLLERR | EPOLLHUP)) != 0;
    if ((events & EPOLLIN) != 0 || ending) {
        if (_in.on != waits::ring) {
            _in.wake();
        }
    }
    if ((events & EPOLLOUT) != 0 || ending) {
        if (_out.on != waits::ring) {
            _out.wake();
        }
    }
}

void vm_conn::on_bell(uint32_t events) noexcept {
    if ((events & EPOLLHUP) != 0) {
        on_hang_up();
        return;
    }
    // A token that announces data is not looked at: what else may lie there is found when it is taken.
    if ((events & EPOLLIN) != 0 && !_program_shut_out && !_rx.has_data()) {
        check_doorbell_bytes();
    }
    if ((events & EPOLLRDHUP) != 0 && !std::exchange(_program_shut_out, true)) {
        // It produces no more: its tokens say nothing now, and without them a writer that still waits for room in the
        // program finds its end writable, looks, and learns of the shutdown.
        _rx_state.tokens_taken += _bell.take_tokens(std::min(_bell.unread(), shm::bell_tokens_max));
    }
    if (_state == conn_state::connecting) {
        return;
    }
    if ((events & (EPOLLIN | EPOLLRDHUP)) != 0 && _out.on == waits::ring) {
        _out.wake();
    }
    if ((events & EPOLLOUT) != 0 && _in.on == waits::ring) {
        _in.wake();
    }
}

// More bytes than tokens were counted, or other bytes: somebody wrote to the doorbell itself.
void vm_conn::check_doorbell_bytes() noexcept {
    unsigned char bytes[shm::bell_tokens_max];
    ssize_t n = ::recv(_bell.fd(), bytes, sizeof bytes, MSG_PEEK | MSG_DONTWAIT);
    if (n <= 0) {
        return;
    }
    // Loaded after the look: a token is counted before it is sent.
    uint32_t sent = _p.conduit.header().ring[0].tokens_sent.load(std::memory_order_acquire);
    bool inexact = (_rx.flags() & shm::ring_inexact) != 0;
    bool counted = inexact || uint32_t(n) <= sent - _rx_state.tokens_taken + shm::resident_tokens;
    bool honest = counted && std::all_of(bytes, bytes + n, [](unsigned char b) { return b == shm::token_byte; });
    if (!honest) {
        break_rules(fault::foreign_bytes);
    }
}

bool vm_conn::rings_ready() noexcept {
    if (_out.on == waits::ring &&
        (_rx.has_data() || (_rx.flags() & (shm::ring_fin | shm::ring_reset)) != 0)) {
        return true;
    }
    if (_in.on == waits::ring) {
        // Half a ring at a time: a wake for each freed byte would cost more than it brings.
        size_t n = 0;
        return _tx.free_bytes(n) != shm::look::ok || n >= _tx.capacity() / 2;
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
    bool quiet = true;
    if (_out.on == waits::ring) {
        bool empty = _rx.settle(_bell);
        if (_bell.foreign()) {
            break_rules(fault::foreign_bytes);
        } else if (!empty || (_rx.flags() & (shm::ring_fin | shm::ring_reset)) != 0) {
            _out.wake();
            quiet = false;
        }
    }
    if (_in.on == waits::ring) {
        bool room = false;
        if (_tx.await_space(_bell, room) != shm::look::ok || room) {
            _in.wake();
            quiet = false;
        }
    }
    return quiet;
}

}  // namespace vmsgr::net
