// Moves the bytes of one connection both ways between its near side and its far side. The near side is where the
// program is: two rings and a doorbell (vm_conn), or a channel of a trunk with buffers (trunk_relay). What an event
// means is for life::connection to say; the near side's step() tells it and does what it answers.
//
// Owner: the near side. Nothing here waits. No Seastar.
#pragma once

#include <errno.h>

#include <algorithm>
#include <concepts>
#include <cstring>

#include "conn/far.hh"
#include "life/connection.hh"
#include "shm/ring.hh"

namespace vmsgr::conn {

template <typename N>
concept near_side = requires(N n, size_t bytes, size_t& found, life::event e, int err) {
    // Bytes that wait for the far side. False: the near side broke its rules, and step() was called.
    { n.to_send(found) } -> std::same_as<bool>;
    { n.data(bytes) } -> std::same_as<shm::pieces>;
    { n.more_follows() } -> std::same_as<bool>;  // MSG_MORE; asked after data()
    { n.before_urgent(bytes) } -> std::same_as<size_t>;  // so many of them come before an urgent one
    n.sent(bytes);
    // Room for bytes from the far side. False as above.
    { n.room(found) } -> std::same_as<bool>;
    // The same, and what the program does not want used (a small SO_RCVBUF): credit may have been given before.
    { n.room_at_all(found) } -> std::same_as<bool>;
    { n.space(bytes) } -> std::same_as<shm::pieces>;
    n.received(bytes);
    n.received_urgent();  // one byte, and the program is told at once
    n.wake_program();
    n.credit_exceeded();  // the far side pushed more than there was room for when its credit was set
    { n.step(e, err) } -> std::same_as<life::actions>;
};

// What the caller does next in a direction: the same again, wait for the far or the near side, or leave.
enum class next : uint8_t { again, far, near, done };

template <typename Near>
class pump {
    Near& _near;
    std::unique_ptr<far_side>& _far;
    const life::connection& _life;
    const size_t _at_once;  // bytes moved by one system call

public:
    pump(Near& near, std::unique_ptr<far_side>& far, const life::connection& life, size_t at_once) noexcept
        : _near(near), _far(far), _life(life), _at_once(at_once) {}

    // From the near side to the far side, in place.
    next send() noexcept {
        static_assert(near_side<Near>);
        size_t there = 0;
        if (!_near.to_send(there)) {
            return next::done;
        }
        if (there == 0) {
            if (!_life.last_bytes()) {
                return next::near;
            }
            _near.step(life::event::all_sent, 0);
            return next::done;
        }
        // An urgent byte is sent alone, as the kernel marks the last byte of what it takes.
        const size_t most = std::min(there, _at_once), before = _near.before_urgent(most);
        const size_t n = before != 0 ? before : 1;
        const auto p = _near.data(n);
        const auto how = before == 0                         ? far_side::sends::urgent
                         : n < there || _near.more_follows() ? far_side::sends::more_follows
                                                             : far_side::sends::all;
        const ssize_t r = _far->send(std::span(p.iov).first(size_t(p.count())), how);
        if (r < 0) {
            return waits(r) ? wait_for_far(r) : send_failed(int(-r));
        }
        _near.sent(size_t(r));
        return size_t(r) < n ? next::far : next::again;
    }

    // What the far side takes now. Bounded: the program may go on writing while this runs.
    void flush(size_t bytes_max) noexcept {
        for (size_t rounds = bytes_max / _at_once + 2; rounds > 0 && sends() && send() == next::again; --rounds) {
        }
    }

    // From the far side to the near side, in place.
    next receive() noexcept {
        if (_life.in != life::way::open) {
            return next::done;
        }
        if (_life.gone()) {
            // Nobody will read it: the peer learns that as it would from the kernel.
            if (!_far->has_unread()) {
                return next::far;
            }
            _near.step(life::event::program_reset, 0);
            return next::done;
        }
        size_t room = 0;
        if (!_near.room(room)) {
            return next::done;
        }
        if (room == 0) {
            return next::near;
        }
        return std::visit([&](auto* source) { return receive_from(*source, room); }, _far->source());
    }

    // far_user::on_bytes
    bool take(std::span<const std::byte> bytes, bool urgent) noexcept {
        if (_life.over() || _life.in != life::way::open) {
            return false;
        }
        if (_life.gone()) {
            _near.step(life::event::program_reset, 0);  // nobody will read it
            return false;
        }
        size_t room = 0;
        if (!_near.room_at_all(room)) {
            return false;
        }
        if (room < bytes.size()) {
            _near.credit_exceeded();
            return false;
        }
        const auto p = _near.space(bytes.size());
        for (const iovec& piece : std::span(p.iov).first(size_t(p.count()))) {
            memcpy(piece.iov_base, bytes.data(), piece.iov_len);
            bytes = bytes.subspan(piece.iov_len);
        }
        if (urgent) {
            _near.received_urgent();
        } else {
            _near.received(p.bytes());
        }
        return true;
    }
    // After a batch of such bytes: receive() has credit to give.
    bool needs_credit() noexcept {
        auto source = _far->source();
        auto* pushes = std::get_if<push_source*>(&source);
        size_t room = 0;
        return pushes != nullptr && (!_near.room(room) || (*pushes)->needs_credit(room));
    }

    bool sends() const noexcept { return !_life.over() && _life.out != life::way::ended; }
    bool receives() const noexcept { return !_life.over() && _life.in == life::way::open; }

private:
    static bool waits(ssize_t r) noexcept { return r == -EAGAIN || r == -EINTR; }
    static next wait_for_far(ssize_t r) noexcept { return r == -EAGAIN ? next::far : next::again; }

    // What the peer sent before it broke the connection is still the program's: first that, then the error. It is no
    // more than a socket holds, but where only we may not send any more; then the peer can go on for ever.
    static constexpr size_t salvage_max = 16 << 20;
    next send_failed(int err) noexcept {
        if (_near.step(life::event::send_failed, err).has(life::action::salvage)) {
            for (size_t i = 0; i < salvage_max / _at_once && receives() && receive() == next::again; ++i) {
            }
        }
        _near.step(life::event::far_failed, err);
        return next::done;
    }

    next receive_from(pull_source& source, size_t room) noexcept {
        const size_t n = std::min(room, _at_once);
        const auto p = _near.space(n);
        const ssize_t r = source.receive(std::span(p.iov).first(size_t(p.count())));
        if (r > 0) {
            if (source.took_urgent()) {
                _near.received_urgent();
                return next::again;
            }
            _near.received(size_t(r));
            _near.wake_program();
            return size_t(r) < n && source.short_read_empties() ? next::far : next::again;
        }
        return waits(r) ? wait_for_far(r) : far_ended(int(-r));
    }
    next receive_from(push_source& source, size_t room) noexcept {
        if (const auto end = source.ended()) {
            return far_ended(*end);
        }
        source.set_credit(room);
        return next::far;
    }
    next far_ended(int err) noexcept {
        if (err == 0) {
            _near.step(life::event::far_fin, 0);
            err = _far->take_error();  // a reset right behind the end of file came as one event with it
        }
        _near.step(err != 0 ? life::event::far_failed : life::event::all_received, err);
        return next::done;
    }
};

}  // namespace vmsgr::conn
