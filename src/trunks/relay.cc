#include "trunks/relay.hh"

#include <errno.h>
#include <sys/socket.h>

#include "trunks/log.hh"

namespace vmsgr::trunks {

namespace {

// A buffer that is empty keeps no more: most relays are idle most of the time.
constexpr size_t kept_bytes = 4 << 10;

}  // namespace

kept_relay trunk_relay::begin(const relay_memory& memory, trunk_far& channel) {
    kept_relay r;
    r.window = std::min(window_first, relay_memory::least + memory.room());
    channel.set_window(r.window);
    return r;
}

trunk_relay::trunk_relay(base::unique_fd socket, std::unique_ptr<trunk_far> channel, conn::lease place, conn::lease fds,
                         relay_memory memory, kept_relay from)
    : _socket(std::move(socket)),
      _server(conn::make_tcp_far(_socket)),
      _channel(std::move(channel)),
      _place(std::move(place)),
      _fds(std::move(fds)),
      _memory(std::move(memory)),
      _to_server{.bytes = std::move(from.to_server.bytes), .urgent_end = size_t(from.to_server.urgent_end)},
      _to_channel{.bytes = std::move(from.to_channel.bytes), .urgent_end = size_t(from.to_channel.urgent_end)},
      _window(from.window),
      _taken(from.taken),
      _life(from.life),
      _pump(*this, _server, _life, scratch().size()),
      _mark(_life.at == life::phase::connecting ? conn::end_mark() : conn::end_mark(linger{})) {
    // What the last events asked for; each may be done twice.
    if (_life.out == life::way::ended) {
        _server->shut_send();
    }
    if (_life.in == life::way::fin) {
        _channel->shut_send();
    }
    settle();
}

kept_relay trunk_relay::keep() {
    auto left = [](const buffer& b) {
        const uint64_t urgent = b.urgent_end - std::min(b.urgent_end, b.sent);
        return kept_relay::waiting{{b.bytes.begin() + ptrdiff_t(b.sent), b.bytes.end()}, urgent};
    };
    _server->unwatch();
    _channel->unwatch();
    return {_channel->channel(), _channel->local(), _channel->peer(), _life, _window, _taken,
            left(_to_server),    left(_to_channel)};
}

trunk_relay::~trunk_relay() { step(life::event::aborted); }

bool trunk_relay::start(ssx::event_set& events) {
    if (!_server->watch(events, *this) || !_channel->watch(events, *this)) {
        step(life::event::connect_failed, EHOSTUNREACH);
        return false;
    }
    run();
    return true;
}

// Nobody is called back from here but by engine and kernel events that come later.
void trunk_relay::run() noexcept {
    if (over() || std::exchange(_running, true)) {
        return;
    }
    if (_life.at == life::phase::connecting) {
        connect();
    }
    bool moved = _life.at != life::phase::connecting;
    while (moved && !over()) {
        moved = take_from_channel();
        moved = (_pump.sends() && _pump.send() == conn::next::again) || moved;
        moved = (_pump.receives() && _pump.receive() == conn::next::again) || moved;
        moved = send_to_channel() || moved;
    }
    if (!over() && _life.in == life::way::fin) {
        // Nobody reads the socket any more: a reset behind its end of file is seen here alone.
        if (int err = _server->take_error(); err != 0) {
            step(life::event::far_failed, err);
        }
    }
    _running = false;
}

void trunk_relay::connect() noexcept {
    if (_channel->gone()) {
        step(life::event::program_reset);
        return;
    }
    switch (_server->connecting()) {
    case conn::progress::under_way: return;
    case conn::progress::up:
        step(life::event::connected);
        _mark.set(_socket.get());
        _channel->accept();
        return;
    case conn::progress::failed:
    case conn::progress::elsewhere: break;
    }
    const int err = _server->take_error();
    step(life::event::connect_failed, err != 0 ? err : ECONNREFUSED);
}

// Gives the peer credit, or takes its end. True: something changed.
bool trunk_relay::take_from_channel() noexcept {
    if (_channel->gone()) {
        _pump.flush(window_max);  // what came before the reset is the server's, also where one read brought both
        step(life::event::program_reset);
    } else if (_life.out == life::way::open) {
        if (const auto end = _channel->ended()) {
            step(*end == 0 ? life::event::shut_write : life::event::program_reset);
            return true;
        }
        give_credit();
    }
    return false;
}

// As much as the window says, or as there is memory for.
void trunk_relay::give_credit() noexcept {
    if (_taken >= _window && _window < window_max) {
        _window = std::min(2 * _window, window_max);
        _taken = 0;
        _channel->widen(_window);
    }
    const uint64_t promised = _channel->credit(), kept = promised + _to_server.bytes.size();
    if (kept >= _window) {
        return;
    }
    const uint64_t own = relay_memory::least - std::min(relay_memory::least, kept);
    _channel->set_credit(promised + std::min(_window - kept, own + _memory.room()));
    settle();
}

// What is promised to the peer counts as if it were there.
void trunk_relay::settle() noexcept {
    _memory.settle(_channel->credit() + _to_server.bytes.size(), _to_channel.bytes.size());
}

// True: something moved.
bool trunk_relay::send_to_channel() noexcept {
    if (over() || _to_channel.left() == 0) {
        return false;
    }
    // The channel, unlike a socket, takes an urgent byte together with those before it.
    const size_t left = _to_channel.left(), before = _to_channel.before_urgent(left);
    const auto p = _to_channel.piece(std::min(left, before + 1));
    const auto how = before < left ? conn::far_side::sends::urgent : conn::far_side::sends::all;
    const ssize_t r = _channel->send(std::span(p.iov).first(1), how);
    if (r >= 0) {
        _to_channel.drop(size_t(r));
        settle();
    } else if (r != -EAGAIN) {
        step(life::event::program_reset);
    }
    return r > 0;
}

life::actions trunk_relay::step(life::event e, int err) noexcept {
    using life::action;
    const life::actions todo = _life.apply(e, err);
    if (todo.has(action::shut_far)) {
        _server->shut_send();
    }
    if (todo.has(action::fin_program)) {
        _channel->shut_send();
    }
    if (todo.has(action::give_back)) {
        _channel->refuse(todo.error);
    }
    if (todo.has(action::finish)) {
        let_go();
    }
    return todo;
}

void trunk_relay::let_go() noexcept {
    _server->unwatch();
    _channel->unwatch();
    _mark.lift(_socket.get());
    _life.last().has(life::action::reset_far) ? _server->reset() : _server->close();
    _life.why == life::cause::in_order ? _channel->close() : _channel->reset();
    _socket.reset();
}

// Peers decide how many relays there are and how much waits in them, so memory may be at an end here.
bool trunk_relay::keep(buffer& b, std::span<const std::byte> bytes, bool urgent) noexcept {
    try {
        b.bytes.insert(b.bytes.end(), bytes.begin(), bytes.end());
        b.urgent_end = urgent ? b.bytes.size() : b.urgent_end;
        return true;
    } catch (const std::bad_alloc&) {
        static thread_local seastar::logger::rate_limit rate(std::chrono::seconds(1));
        log.log(seastar::log_level::warn, rate,
                "a channel of a trunk to {} is reset: no memory for what waits; raise `memory`",
                base::to_string(_channel->local()));
        step(life::event::aborted);
        return false;
    }
}

bool trunk_relay::on_bytes(std::span<const std::byte> bytes, bool urgent) noexcept {
    _taken += bytes.size();
    return keep(_to_server, bytes, urgent);
}

bool trunk_relay::room(size_t& n) noexcept {
    n = _to_channel.left() == 0 ? size_t(std::min<uint64_t>(scratch().size(), relay_memory::least + _memory.room()))
                                : 0;
    return true;
}

// What was sent leaves the front once that is worth the copy, or costs nothing.
void trunk_relay::buffer::drop(size_t n) noexcept {
    sent += n;
    if (left() == 0 && bytes.capacity() > kept_bytes) {
        *this = {};
    } else if (left() == 0 || sent >= window_max / 2) {
        bytes.erase(bytes.begin(), bytes.begin() + ptrdiff_t(sent));
        urgent_end -= std::min(urgent_end, sent);
        sent = 0;
    }
}

void trunk_relay::keep_for_channel(size_t n, bool urgent) noexcept {
    keep(_to_channel, std::span(scratch()).first(n), urgent);
    settle();
    send_to_channel();
}

}  // namespace vmsgr::trunks
