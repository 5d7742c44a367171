#include "trunks/far.hh"

#include <errno.h>
#include <sys/epoll.h>

#include <new>

namespace vmsgr::trunks {

trunk_far::trunk_far(session_ptr s, uint64_t window, const base::address& local, const base::address& peer)
    : _session(std::move(s)), _window(window), _granted(window), _local(local), _peer(peer) {}

std::unique_ptr<trunk_far> trunk_far::open(session_ptr s, uint64_t window, const base::address& local,
                                           const base::address& peer) {
    auto w = awaiting(window, local, peer);
    return w->begin(std::move(s)) ? std::move(w) : nullptr;
}

std::unique_ptr<trunk_far> trunk_far::awaiting(uint64_t window, const base::address& local, const base::address& peer) {
    std::unique_ptr<trunk_far> w(new trunk_far(nullptr, window, local, peer));
    w->_state = at::waiting;
    return w;
}

bool trunk_far::begin(session_ptr s) noexcept try {
    if (!s->up()) {
        return false;
    }
    const uint64_t channel = s->engine().open(_local.unmapped(), _peer.unmapped(), _window, *this);
    if (channel == 0) {
        return false;
    }
    _session = std::move(s);
    _channel = channel;
    _state = at::opening;
    return true;
} catch (const std::bad_alloc&) {
    return false;
}

void trunk_far::give_up(int err) noexcept {
    if (_state == at::waiting) {
        _state = at::refused;
        _err = err;
        tell(EPOLLERR | EPOLLHUP | EPOLLOUT);
    }
}

std::unique_ptr<trunk_far> trunk_far::opened(session_ptr s, uint64_t channel, uint64_t window,
                                             const base::address& local, const base::address& peer, conn::lease place) {
    std::unique_ptr<trunk_far> w(new trunk_far(std::move(s), window, local, peer));
    w->_channel = channel;
    w->_place = std::move(place);
    return w;
}

std::unique_ptr<trunk_far> trunk_far::going_on(session_ptr s, uint64_t channel, uint64_t window,
                                               const base::address& local, const base::address& peer) {
    std::unique_ptr<trunk_far> w(new trunk_far(std::move(s), window, local, peer));
    const auto now = w->_session->engine().claim(channel, *w);
    if (!now) {
        w->_state = at::closed;
        return nullptr;
    }
    w->_channel = channel;
    w->_received = now->received;
    w->_granted = now->granted;
    w->_fin = now->fin_received;
    w->_fin_sent = now->fin_sent;
    if (const auto& share = w->_session->who.share) {
        w->_place = conn::lease::take(*share).value_or(conn::lease());  // it had one
    }
    if (now->up) {
        w->_state = at::up;
    } else if (w->owes_answer()) {
        w->_granted = window;
    }
    return w;
}

trunk_far::~trunk_far() {
    reset();
    if (_in_batch) {
        _session->forget(*this);
    }
}

void trunk_far::accept() noexcept {
    if (_state == at::opening) {
        _state = at::up;
        _session->engine().accept(_channel, _window);
        tell(EPOLLOUT);
    }
}

void trunk_far::refuse(int err) noexcept {
    if (_state == at::opening) {
        _state = at::closed;
        _session->engine().refuse(_channel, err);
    }
}

bool trunk_far::watch(ssx::event_set&, conn::far_user& user) noexcept {
    _user = &user;
    return true;
}

void trunk_far::tell(uint32_t events) noexcept {
    if (_user != nullptr) {
        _user->on_events(events);
    }
}

conn::progress trunk_far::connecting() noexcept {
    switch (_state) {
    case at::waiting:
    case at::opening: return conn::progress::under_way;
    case at::up: return conn::progress::up;
    // The peer's daemon does not carry this destination.
    case at::refused: return _err == EHOSTUNREACH && !_only ? conn::progress::elsewhere : conn::progress::failed;
    case at::broken:
    case at::closed: return conn::progress::failed;
    }
    return conn::progress::failed;
}

int trunk_far::take_error() noexcept {
    return _state == at::refused || _state == at::broken ? std::exchange(_err, 0) : 0;
}

ssize_t trunk_far::send(std::span<const iovec> pieces, sends how) noexcept {
    if (_state == at::waiting || _state == at::opening) {
        return -EAGAIN;  // accept() comes next
    }
    if (_state != at::up) {
        int err = take_error();
        return -(err != 0 ? err : EPIPE);
    }
    size_t n = _session->engine().send(_channel, pieces, how == sends::urgent);
    return n != 0 ? ssize_t(n) : -EAGAIN;
}

std::optional<int> trunk_far::ended() noexcept {
    if (_fin) {
        return 0;
    }
    if (_state == at::waiting || _state == at::opening || _state == at::up) {
        return std::nullopt;
    }
    const int err = take_error();
    return err != 0 ? err : ECONNRESET;
}

void trunk_far::set_credit(size_t room) noexcept {
    if (_state == at::up && needs_credit(room)) {
        _granted = _received + room;
        _session->engine().grant(_channel, _granted);
    }
}

bool trunk_far::needs_credit(size_t room) const noexcept {
    const uint64_t left = _granted - _received;
    return left == 0 || room >= left + _window / 4;
}

void trunk_far::shut_send() noexcept {
    if (_state == at::up) {
        _fin_sent = true;
        _session->engine().fin(_channel);
    }
}

void trunk_far::close() noexcept {
    if (_state == at::up) {
        _state = at::closed;
        _session->engine().close(_channel);
    }
    reset();
}

void trunk_far::reset() noexcept {
    if (_state == at::waiting) {
        _state = at::closed;
    }
    if (_state == at::opening || _state == at::up) {
        _state = at::closed;
        _session->engine().reset(_channel, ECONNRESET);
    }
}

void trunk_far::on_accepted() noexcept {
    _state = at::up;
    tell(EPOLLOUT);
}

void trunk_far::on_refused(int err) noexcept {
    // What a peer says is not shown to a program unless connect() could have said it.
    const bool plausible = err == EHOSTUNREACH || err == ENETUNREACH || err == ETIMEDOUT || err == EACCES;
    _state = at::refused;
    _err = plausible ? err : ECONNREFUSED;
    tell(EPOLLERR | EPOLLHUP | EPOLLOUT);
}

void trunk_far::on_data(std::span<const std::byte> bytes, bool urgent) noexcept {
    _received += bytes.size();
    if (!std::exchange(_in_batch, true)) {
        _session->remember(*this);
    }
    const size_t before = bytes.size() - (urgent ? 1 : 0);
    if (before != 0) {
        give(bytes.first(before), false);
    }
    if (urgent) {
        give(bytes.last(1), true);
    }
}

void trunk_far::give(std::span<const std::byte> bytes, bool urgent) noexcept {
    if (_user != nullptr && !_user->on_bytes(bytes, urgent) && _state == at::up) {
        _granted += bytes.size();
        _session->engine().grant(_channel, _granted);
    }
}

void trunk_far::on_end_of_batch() noexcept {
    _in_batch = false;
    if (_user != nullptr) {
        _user->on_batch_end();
    }
}

void trunk_far::on_fin() noexcept {
    _fin = true;
    tell(EPOLLIN | EPOLLRDHUP);
}

void trunk_far::on_writable() noexcept { tell(EPOLLOUT); }

void trunk_far::on_reset(int) noexcept {
    _state = at::broken;
    _err = _fin && !_fin_sent ? EPIPE : ECONNRESET;  // a reset in CLOSE_WAIT says that nobody reads
    tell(EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP);
}

}  // namespace vmsgr::trunks
