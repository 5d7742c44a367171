#include "trunks/relay.hh"

#include <errno.h>
#include <sys/socket.h>

#include <array>

#include "trunks/log.hh"

namespace vmsgr::trunks {

namespace {

constexpr size_t read_bytes = 64 << 10;
// A queue that is empty keeps no more: most relays are idle most of the time.
constexpr size_t kept_bytes = 4 << 10;

}  // namespace

trunk_relay::trunk_relay(base::unique_fd socket, std::unique_ptr<trunk_wire> far, net::lease place, net::lease fds)
    : _socket(std::move(socket)),
      _near(net::make_tcp_wire(_socket)),
      _far(std::move(far)),
      _place(std::move(place)),
      _fds(std::move(fds)) {
    _far->set_window(window);
}

trunk_relay::~trunk_relay() { end(true); }

bool trunk_relay::start(ssx::event_set& events) {
    if (!_near->watch(events, _near_end) || !_far->watch(events, _far_end)) {
        _far->refuse(EHOSTUNREACH);
        return false;
    }
    pump();
    return true;
}

void trunk_relay::end(bool with_reset) noexcept {
    if (std::exchange(_over, true)) {
        return;
    }
    _near->unwatch();
    _far->unwatch();
    with_reset ? _near->reset() : _near->close();
    with_reset ? _far->reset() : _far->close();
    _socket.reset();
}

bool trunk_relay::connected() noexcept {
    if (_up) {
        return true;
    }
    switch (_near->connecting()) {
    case net::progress::under_way: return false;
    case net::progress::up:
        _up = true;
        _far->accept();
        return true;
    case net::progress::failed:
    case net::progress::elsewhere: break;
    }
    int err = _near->take_error();
    _far->refuse(err != 0 ? err : ECONNREFUSED);
    end(true);
    return false;
}

// Nobody is called back from here but by engine and kernel events that come later.
void trunk_relay::pump() noexcept {
    if (_over || std::exchange(_pumping, true)) {
        return;
    }
    if (_far->gone()) {
        // What came before the reset is the server's, also where one read brought both.
        while (_up && !_over && flush(_in, *_near)) {
        }
        end(true);
    }
    if (!_over && connected()) {
        while (!_over && (pump_in() | pump_out())) {
        }
        if (!_over && _in.told && _out.told) {
            end(false);
        }
        // After its end of file nobody reads the socket any more: a reset behind it is seen here alone.
        if (!_over && _out.ended && _near->take_error() != 0) {
            end(true);
        }
    }
    _pumping = false;
}

bool trunk_relay::take(std::span<const std::byte> bytes) noexcept {
    keep(_in, bytes);  // within the window
    return true;
}

// Peers decide how many relays there are and how much waits in them, so memory may be at an end here.
void trunk_relay::keep(queue& q, std::span<const std::byte> bytes) noexcept {
    try {
        q.bytes.insert(q.bytes.end(), bytes.begin(), bytes.end());
    } catch (const std::bad_alloc&) {
        static thread_local seastar::logger::rate_limit rate(std::chrono::seconds(1));
        log.log(seastar::log_level::warn, rate,
                "a channel of a trunk to {} is reset: no memory for what waits; raise `memory`",
                base::to_string(_far->local()));
        end(true);
    }
}

// What the server sent before it broke the connection is still the peer's. Its end of file is so only if it came first
// (EPIPE): the error just taken by a send would otherwise read as one.
void trunk_relay::broken(int err, bool near) noexcept {
    _out.told = _out.told || err != EPIPE;
    while (near && !_over && pump_out()) {
    }
    end(true);
}

// Sends what waits. False: nothing moved.
bool trunk_relay::flush(queue& q, net::wire& to) noexcept {
    if (q.left() == 0) {
        return false;
    }
    const iovec piece{q.bytes.data() + q.sent, q.left()};
    ssize_t r = to.send({&piece, 1}, false);
    if (r < 0) {
        if (r != -EAGAIN && r != -EINTR) {
            broken(int(-r), &q == &_in);
        }
        return false;
    }
    q.sent += size_t(r);
    // What was sent leaves the front once it is worth the copy, or for nothing.
    if (q.left() == 0 && q.bytes.capacity() > kept_bytes) {
        q = {.ended = q.ended, .told = q.told};
    } else if (q.left() == 0 || q.sent >= window / 2) {
        q.bytes.erase(q.bytes.begin(), q.bytes.begin() + ptrdiff_t(q.sent));
        q.sent = 0;
    }
    return r != 0;
}

bool trunk_relay::pump_in() noexcept {
    bool moved = flush(_in, *_near);
    if (_over) {
        return false;
    }
    if (!_in.ended) {
        const size_t free = window - _in.bytes.size();
        const iovec space{nullptr, free};
        ssize_t r = _far->receive({&space, 1});  // says how much room there is
        if (r == 0) {
            _in.ended = true;
        } else if (r < 0 && r != -EAGAIN) {
            end(true);
            return false;
        }
    }
    if (_in.ended && _in.left() == 0 && !std::exchange(_in.told, true)) {
        _near->shut_send();
        moved = true;
    }
    return moved;
}

bool trunk_relay::pump_out() noexcept {
    if (_over) {
        return false;
    }
    bool moved = flush(_out, *_far);
    if (!_over && !_out.ended && _out.left() == 0) {
        static thread_local std::array<std::byte, read_bytes> scratch;
        const iovec space{scratch.data(), scratch.size()};
        ssize_t r = _near->receive({&space, 1});
        if (r > 0) {
            keep(_out, std::span(scratch).first(size_t(r)));
        }
        if (r < 0 && r != -EAGAIN && r != -EINTR) {
            end(true);
            return false;
        }
        _out.ended = r == 0;
        moved = moved || r > 0;
    }
    if (!_over && _out.ended && _out.left() == 0 && !std::exchange(_out.told, true)) {
        _far->shut_send();
        moved = true;
    }
    return moved;
}

}  // namespace vmsgr::trunks
