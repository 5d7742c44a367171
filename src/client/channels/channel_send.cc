// The sending half of a channel, and its end.
#include <algorithm>

#include "base/sys.hh"
#include "client/channels/channel.hh"
#include "client/session.hh"

namespace vmsgr::client {

channel::channel(channel_parts parts, const channel_settings& settings) noexcept
    : _parts(std::move(parts)), _settings(settings) {
    _in.step = capacity() / 8;
    _out.ring.rewinds = false;
    say_hello();
}

channel::~channel() {
    if (_in.greeted) {
        finish();
    }
    if (_parts.local) {
        header().end[_parts.which].flags.fetch_or(shm::end_left, std::memory_order_release);
        if (_parts.attached) {
            if (_parts.shown != nullptr) {
                _parts.shown->bytes_out.store(_out.ring.head, std::memory_order_relaxed);
            }
            _parts.attached->hide_local(_parts.shown);
        }
        // A sender that waits for room learns of it by the hang-up, and a reader has its bye. Tokens that lie unread
        // here would make the hang-up an error.
        shm::bell(fd()).drain();
    }
    header().end[_parts.which].flags.fetch_or(shm::end_left | shm::end_done, std::memory_order_release);
}

void channel::say_hello() noexcept {
    // A new ring has room for it, whatever its size.
    const hello_body body{.max_message_bytes = _settings.max_message_bytes};
    std::byte* at = place(_out.at);
    memcpy(at + sizeof(frame_header), &body, sizeof body);
    store_header(at, {.bytes = sizeof body, .kind = frame_kind::hello});
    _out.at += frame_bytes(sizeof body);
    publish();
}

int channel::make_room(size_t bytes, size_t need, int timeout_ms) noexcept {
    if (_out.closed != 0 || unusable()) {
        return send_failure();
    }
    if (_out.limit == 0) {
        return EAGAIN;  // the other end has not said yet what it takes (greet)
    }
    if (bytes > _out.limit) {
        return EMSGSIZE;
    }
    return await_room(need, timeout_ms);
}

// The waits of a sender (shm/end.hh).
struct channel::send_user {
    channel& c;
    shm::end& e;
    const size_t need;
    const base::deadline& until;
    bool looked;

    bool looks() noexcept { return !std::exchange(looked, true) && c.look_for_room(e, need); }
    void unlock() const noexcept {
        if (until.left_ms() != 0) {
            channel_counts::add(c._out.counts.sleeps, 1);
        }
    }
    void left() const noexcept { c.look_for_other_end(); }
};

int channel::await_room(size_t need, int timeout_ms) noexcept {
    const base::deadline until(timeout_ms);
    shm::waiting wait;
    auto e = end();
    for (send_user user{*this, e, need, until, timeout_ms == 0};;) {
        size_t free = 0;
        if (e.out.free_bytes(free) != shm::look::ok) {
            end_with(channel_end::bad_index, EPROTO);
            return EPROTO;
        }
        if (free_seen() >= need) {
            return 0;
        }
        flush();
        if (_out.closed != 0 || unusable()) {
            return send_failure();
        }
        // From here on the end is writable only once the reader has freed half a ring.
        if (e.wait_writable(user, wait, need, until) == shm::woken::failed) {
            return wait.errnum == ETIMEDOUT && timeout_ms == 0 ? EAGAIN : wait.errnum;
        }
    }
}

// Instead of a sleep. True: something has changed.
bool channel::look_for_room(shm::end& e, size_t need) noexcept {
    if (!_out.spins.pays(look_limit_ns())) {
        return false;
    }
    return _out.spins.look(shm::loose, look_limit_ns(), [&]() noexcept {
        size_t free = 0;
        return e.out.free_bytes(free) != shm::look::ok || free >= need || unusable();
    });
}

// Every holder of the other end is gone, or the daemon is.
void channel::look_for_other_end() noexcept {
    _out.unchecked = 0;
    pollfd p{fd(), 0, 0};
    if (_out.closed == 0 && sys::poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR)) != 0) {
        _out.closed = unusable() ? send_failure() : ECONNRESET;
        _unsendable.store(_out.closed, std::memory_order_relaxed);
    }
}

int channel::send_failure() noexcept {
    if (_out.closed != 0) {
        return _out.closed;
    }
    if (ended() >= channel_end::cut) {
        return errnum();
    }
    _unsendable.store(EPIPE, std::memory_order_relaxed);
    return EPIPE;
}

void channel::finish() noexcept {
    if (_out.closed != 0) {
        return;
    }
    _out.closed = EPIPE;
    if (ended() >= channel_end::cut) {
        return;
    }
    store_header(place(_out.at), {.bytes = 0, .kind = frame_kind::bye});  // there is always room for it
    _out.at += sizeof(frame_header);
    auto e = end();
    e.out.publish(_out.at - _out.ring.head);
    e.out.set_flags(shm::ring_fin);
    e.sent();
    if (!_parts.local) {
        sys::call(SYS_shutdown, fd(), SHUT_WR);  // so does the library for a program's shutdown
    }
}

}  // namespace vmsgr::client
