// The receiving half of a channel. What comes is somebody else's: each header is checked, what fails ends this channel.
#include <algorithm>
#include <new>

#include "base/sockets.hh"
#include "base/sys.hh"
#include "client/channels/channel.hh"

namespace vmsgr::client {

// The first cause stays.
void channel::end_with(channel_end how, int errnum, frame_fault fault) noexcept {
    channel_end open = _end.load(std::memory_order_relaxed);
    if (open == channel_end::open || (open == channel_end::finished && how > open)) {
        _errnum.store(errnum, std::memory_order_relaxed);
        _fault.store(fault, std::memory_order_relaxed);
        _end.store(how, std::memory_order_release);
    }
}

// The receiving half ends: nothing that lies in the ring is a message any more.
channel::found channel::over(channel_end how, int errnum, frame_fault fault) noexcept {
    end_with(how, errnum, fault);
    _in.flowing = false;
    return found::over;
}

int channel::receive_failure() noexcept { return errnum() != 0 ? errnum() : ECONNRESET; }

// True: there is more than before.
bool channel::refresh() noexcept {
    size_t n = 0;
    const uint64_t before = _in.ring.head_seen;
    if (end().in.data_bytes(n) != shm::look::ok || _in.ring.head_seen - _in.at > capacity()) {
        over(channel_end::bad_index, EPROTO);
        return false;
    }
    return _in.ring.head_seen != before;
}

// One whole frame. ring_bytes: what it takes in the ring; 0: it lies in private memory.
channel::found channel::on_frame(const frame_header& h, const std::byte* payload, size_t ring_bytes) noexcept {
    auto taken = [&] {
        _in.at += ring_bytes;
        _in.have = 0;
    };
    switch (h.kind) {
    case frame_kind::data:
        _in.message = payload;
        _in.message_bytes = h.bytes;
        _in.taken = ring_bytes;
        return found::message;
    case frame_kind::bye:
        taken();
        free_taken();
        return over(channel_end::finished, ENODATA);
    case frame_kind::hello: break;
    }
    hello_body body;
    memcpy(&body, payload, sizeof body);
    if (auto fault = check_hello(body); fault != frame_fault::none) {
        _other_version.store(body.version, std::memory_order_relaxed);
        return over(channel_end::bad_frame, fault == frame_fault::other_version ? EPROTONOSUPPORT : EPROTO, fault);
    }
    taken();
    _in.greeted = _in.flowing = true;
    _out.limit = std::min({body.max_message_bytes, _settings.max_message_bytes, message_bytes_in(capacity())});
    return found::hello;
}

// Copies what there is of a frame that is not whole, so that the ring is empty and can be waited for.
channel::found channel::gather_parts() noexcept {
    const size_t most = frame_bytes(std::max<size_t>(_settings.max_message_bytes, hello_bytes_max));
    if (_in.parts == nullptr) {
        _in.parts.reset(new (std::nothrow) std::byte[most]);
        if (_in.parts == nullptr) {
            return over(channel_end::no_memory, ENOMEM);
        }
    }
    for (;;) {
        frame_header h;
        if (_in.have >= sizeof h) {
            memcpy(&h, _in.parts.get(), sizeof h);
            if (auto fault = check_frame(h, _in.greeted, _settings.max_message_bytes); fault != frame_fault::none) {
                return over(channel_end::bad_frame, EPROTO, fault);
            }
            if (_in.have == frame_bytes(h.bytes)) {
                return on_frame(h, _in.parts.get() + sizeof h, 0);
            }
        }
        const size_t wanted = _in.have < sizeof h ? sizeof h : frame_bytes(h.bytes);
        const size_t n = std::min<uint64_t>(wanted - _in.have, _in.ring.head_seen - _in.at);
        if (n == 0) {
            return found::nothing;
        }
        memcpy(_in.parts.get() + _in.have, there(_in.at), n);
        _in.have += n;
        _in.at += n;
        if (_in.at - _in.ring.tail >= _in.step) {
            free_taken();
        }
    }
}

// The next frame. gather: a part of one leaves the ring.
channel::found channel::find(bool gather) noexcept {
    if (_in.message != nullptr) {
        return found::message;
    }
    for (;;) {
        if (ended() != channel_end::open) {
            return found::over;
        }
        if (_in.have != 0) {
            found f = gather_parts();
            if (f == found::nothing && refresh()) {
                continue;
            }
            return ended() != channel_end::open ? found::over : f;
        }
        const uint64_t seen = _in.ring.head_seen - _in.at;
        if (seen >= sizeof(frame_header)) {
            const std::byte* at = there(_in.at);
            const frame_header h = load_header(at);
            if (auto fault = check_frame(h, _in.greeted, _settings.max_message_bytes); fault != frame_fault::none) {
                return over(channel_end::bad_frame, EPROTO, fault);
            }
            if (frame_bytes(h.bytes) <= seen) {
                return on_frame(h, at + sizeof h, frame_bytes(h.bytes));
            }
        }
        if (refresh()) {
            continue;
        }
        if (ended() != channel_end::open) {
            return found::over;
        }
        return gather && seen != 0 ? gather_parts() : found::nothing;
    }
}

void channel::free_taken() noexcept {
    auto e = end();
    e.in.consume(_in.at - _in.ring.tail);
    e.left_some(false);
}

// Nothing lies in the ring: does it end here?
channel::found channel::at_empty() noexcept {
    auto e = end();
    const uint32_t flags = e.flags_at_end().value_or(0);
    if ((flags & shm::ring_reset) != 0) {
        end_with(channel_end::reset, base::ending_of_tcp(e.in.error(), ECONNRESET));
    } else if ((flags & shm::ring_fin) != 0) {
        end_with(channel_end::cut, ECONNRESET);
    }
    return ended() != channel_end::open ? found::over : found::nothing;
}

// The waits of a receiver (shm/end.hh).
struct channel::receive_user {
    channel& c;
    shm::end& e;
    const base::deadline& until;
    bool looked;  // since something came, or may not

    bool looks() noexcept {
        if (!std::exchange(looked, true)) {
            c.look_for_data(e);
            return true;  // in any case: a part of a frame is to be taken out before the sleep
        }
        if (c._in.at != c._in.ring.tail) {
            e.in.consume(c._in.at - c._in.ring.tail);
        }
        return false;
    }
    void unlock() const noexcept {
        if (until.left_ms() != 0) {
            channel_counts::add(c._in.counts.sleeps, 1);
        }
    }
    bool over() const noexcept { return c.at_empty() == found::over; }
    void broke_rules() const noexcept { c.end_with(channel_end::bad_bell, EPROTO); }
    void left() const noexcept { c.end_with(channel_end::cut, ECONNRESET); }
};

// Before it sleeps, where that pays. Nothing is announced: no token is wanted meanwhile.
void channel::look_for_data(shm::end& e) noexcept {
    if (!_in.spins.pays(look_limit_ns())) {
        return;
    }
    e.in.stay_awake();
    const uint64_t sent = header().ring[_parts.which].head.load(std::memory_order_relaxed);
    const shm::spin s{_in.ring.head_seen, 0};
    _in.spins.look(_in.spins.awaits_answer(sent) ? shm::tight : shm::loose, look_limit_ns(),
                   [&]() noexcept { return e.in.spin_over(s); });
}

int channel::await(int timeout_ms, found wanted) noexcept {
    const base::deadline until(timeout_ms);
    shm::waiting wait;
    auto e = end();
    for (receive_user user{*this, e, until, timeout_ms == 0};;) {
        const uint64_t seen = _in.ring.head_seen;
        const found f = find(user.looked);
        if (f == wanted) {
            return 0;
        }
        if (_in.ring.head_seen != seen) {
            wait.spurious = 0;  // a part of a frame came
        }
        if (f == found::over) {
            return receive_failure();
        }
        if (f == found::hello) {
            continue;
        }
        const int tokens_before = wait.spurious;
        switch (e.wait_readable(user, wait, until)) {
        case shm::woken::look: user.looked = timeout_ms == 0 || wait.spurious == tokens_before; break;
        case shm::woken::over: return receive_failure();
        case shm::woken::failed: return wait.errnum == ETIMEDOUT && timeout_ms == 0 ? EAGAIN : wait.errnum;
        }
    }
}

int channel::await_message(int timeout_ms) noexcept {
    return find(false) == found::message ? 0 : await(timeout_ms, found::message);
}
int channel::greet(int timeout_ms) noexcept { return _in.greeted ? 0 : await(timeout_ms, found::hello); }

int channel::look(const std::byte*& at, size_t& bytes) noexcept {
    // Now and then a whole look, which sees a hang-up as well.
    constexpr uint32_t idle_looks_max = 4096;
    if (_in.message == nullptr && !next_in_ring() && find(false) != found::message) {
        if (ended() != channel_end::open) {
            return receive_failure();
        }
        if (++_in.idle_looks < idle_looks_max) {
            return EAGAIN;
        }
        _in.idle_looks = 0;
        if (int e = await(0, found::message); e != 0) {
            return e;
        }
    }
    at = _in.message;
    bytes = _in.message_bytes;
    return 0;
}

}  // namespace vmsgr::client
