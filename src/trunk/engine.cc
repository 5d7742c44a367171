#include "trunk/engine.hh"

#include <errno.h>
#include <string.h>

#include <algorithm>
#include <new>
#include <utility>

#include "base/assert.hh"

namespace vmsgr::trunk {

packet_buffer::packet_buffer(size_t size, memory_share& share)
    : _bytes(static_cast<std::byte*>(::operator new(size, std::align_val_t(header_bytes)))),
      _size(size),
      _share(share) {
    _share.used += size;
}

packet_buffer::~packet_buffer() {
    ::operator delete(_bytes, std::align_val_t(header_bytes));
    _share.used -= _size;
}

engine::engine(const engine_settings& s, engine_owner& owner, memory_share& share, engine_counters& count)
    : _settings(s),
      _owner(owner),
      _share(share),
      _count(count),
      _packets_max(std::max<size_t>(s.replay_bytes / s.packet_bytes, replay_packets_min)),
      _packets_per_ack(packets_per_ack(s.packet_bytes)) {}

engine::~engine() = default;

// --- packets out ------------------------------------------------------------------------------------------------

bool engine::attach(uint64_t session, uint64_t peer_ack, uint64_t now_us) noexcept {
    const uint64_t ever_left = _acked + std::max(_handed_out, _handed_out_before);
    if (peer_ack < _acked || peer_ack > ever_left) {
        return false;
    }
    _session = session;
    _handed_out_before = std::max(_handed_out, _handed_out_before);
    acknowledged(peer_ack);
    _handed_out = 0;
    _attached = true;
    _to_be_acked = 0;  // the hello has said it
    _ack_due = _dummy_due = false;
    _echo = 0;
    _last_in_us = _last_out_us = now_us;
    wake_starved();
    _owner.on_output();
    return true;
}

void engine::acknowledged(uint64_t ack) noexcept {
    while (_acked < ack) {
        ++_acked;
        _kept.pop_front();
        _handed_out -= _handed_out != 0;
        _handed_out_before -= _handed_out_before != 0;
    }
}

packet_ptr engine::next_packet(uint64_t now_us) {
    if (!_attached) {
        return nullptr;
    }
    if (_handed_out == _kept.size()) {
        pay_all();
        if (_open && _open->filled > header_bytes && _handed_out == _kept.size()) {
            finish_open();
        }
    }
    if (_handed_out < _kept.size()) {
        packet_ptr p = _kept[_handed_out++];
        header h;
        h.session = _session;
        h.sequence = _acked + _handed_out;
        h.ack = _received;
        h.payload_bytes = uint32_t(p->filled - header_bytes);
        seal(p->bytes(), h);
        _to_be_acked = 0;
        _ack_due = false;
        ++_count.packets_out;
        _count.replayed += _handed_out <= _handed_out_before;
        return p;
    }
    if (_ack_due || _echo != 0) {
        return control_packet(packet_type::ack, now_us);
    }
    return _dummy_due ? control_packet(packet_type::dummy, now_us) : nullptr;
}

packet_ptr engine::control_packet(packet_type type, uint64_t now_us) {
    packet_ptr p = std::make_shared<packet_buffer>(_settings.packet_bytes, _share);
    memset(p->bytes().data(), 0, p->bytes().size());
    header h;
    h.type = type;
    h.session = _session;
    h.sequence = _acked + _handed_out;
    h.ack = _received;
    if (type == packet_type::ack) {
        h.echo = std::exchange(_echo, 0);
    } else if (type == packet_type::dummy) {
        h.stamp = now_us;
        _dummy_due = false;
    }
    _to_be_acked = 0;
    _ack_due = false;
    seal(p->bytes(), h);
    return p;
}

packet_ptr engine::bye(uint64_t now_us) { return control_packet(packet_type::bye, now_us); }

bool engine::tick(uint64_t now_us) noexcept {
    if (!_attached) {
        return true;
    }
    const uint64_t keepalive_us = uint64_t(_settings.keepalive_ms) * 1000;
    if (now_us - _last_in_us > 3 * keepalive_us) {
        return false;
    }
    if (now_us - _last_out_us >= keepalive_us) {
        _last_out_us = now_us;
        _dummy_due = true;
    }
    wake_starved();  // what others have freed is heard of nowhere else, also by _owing
    _ack_due = _ack_due || _to_be_acked != 0;
    if (_ack_due || _dummy_due || !_owing.empty()) {
        _owner.on_output();
    }
    return true;
}

// --- frames out -------------------------------------------------------------------------------------------------

bool engine::room(size_t reserve) const noexcept {
    if (_kept.size() >= _packets_max + reserve || _share.used >= _share.limit) {
        return false;
    }
    return reserve != 0 || in_flight_bytes() < _share.limit - _share.used;
}

packet_ptr engine::make_buffer() noexcept {
    try {
        return std::make_shared<packet_buffer>(_settings.packet_bytes, _share);
    } catch (const std::bad_alloc&) {
        return nullptr;  // as if the limit were met: acknowledgements will free some
    }
}

// True: `bytes` more fit into _open.
bool engine::has_space(size_t bytes, size_t reserve) noexcept {
    if (_open && _open->filled + bytes > _settings.packet_bytes) {
        finish_open();
    }
    if (!_open) {
        if (!room(reserve)) {
            return false;
        }
        _open = make_buffer();
        _last_frame_at = 0;
    }
    return _open != nullptr;
}

void engine::finish_open() noexcept {
    auto bytes = _open->bytes();
    memset(bytes.data() + _open->filled, 0, bytes.size() - _open->filled);
    _kept.push_back(std::move(_open));
    _open = nullptr;
}

// Precondition: has_space.
void engine::put_frame(uint64_t id, frame_kind kind, uint32_t value, std::span<const std::byte> body) noexcept {
    auto* at = _open->bytes().data() + _open->filled;
    put_frame_header(at, id, kind, uint16_t(body.size()), value);
    if (!body.empty()) {
        memcpy(at + frame_header_bytes, body.data(), body.size());
    }
    _open->filled += frame_header_bytes + body.size();
    _last_frame_at = 0;
}

size_t engine::send(uint64_t id, std::span<const iovec> pieces) {
    channel* c = find(id);
    if (c == nullptr || !c->up || c->fin_sent || (c->owes & (owes_refuse | owes_reset)) != 0) {
        return 0;
    }
    if (c->owes != 0 && !pay(id, *c)) {
        c->starved = true;
        return 0;
    }
    size_t taken = 0, wanted = 0;
    for (const iovec& piece : pieces) {
        wanted += piece.iov_len;
        auto* from = static_cast<const std::byte*>(piece.iov_base);
        for (size_t left = piece.iov_len; left != 0;) {
            const uint64_t credit = c->may_send - c->sent;
            if (credit == 0 || !has_space(frame_header_bytes + 1, 0)) {
                break;
            }
            const bool grows = _last_frame_at != 0 && _last_frame_channel == id;
            auto* base = _open->bytes().data();
            if (!grows) {
                _last_frame_at = _open->filled;
                _last_frame_channel = id;
                _open->filled += frame_header_bytes;
            }
            size_t n = std::min({left, size_t(credit), _settings.packet_bytes - _open->filled});
            memcpy(base + _open->filled, from, n);
            _open->filled += n;
            put_frame_header(base + _last_frame_at, id, frame_kind::data,
                             uint16_t(_open->filled - _last_frame_at - frame_header_bytes));
            from += n;
            left -= n;
            taken += n;
            c->sent += n;
        }
    }
    _count.bytes_out += taken;
    if (taken < wanted) {
        c->starved = true;
        if (c->may_send != c->sent && !std::exchange(c->in_starved, true)) {
            _starved.push_back(id);
        }
    }
    if (taken != 0) {
        _owner.on_output();
    }
    return taken;
}

void engine::wake_starved() noexcept {
    for (size_t n = _starved.size(); n != 0 && room(0); --n) {
        channel* c = find(_starved.front());
        _starved.pop_front();
        if (c == nullptr) {
            continue;
        }
        c->in_starved = false;
        if (std::exchange(c->starved, false) && c->sink != nullptr) {
            c->sink->on_writable();
        }
    }
}

void engine::owe(uint64_t id, channel& c, uint8_t what) noexcept {
    c.owes |= what;
    if (!std::exchange(c.queued, true)) {
        _owing.push_back(id);
    }
    _owner.on_output();
}

// Writes what the channel owes. False: no room for all of it. The channel may be gone afterwards if it owed a refusal
// or a reset.
bool engine::pay(uint64_t id, channel& c) noexcept {
    constexpr size_t most = frame_header_bytes + credit_body_bytes;
    const struct {
        owed what;
        frame_kind kind;
    } order[] = {{owes_accept, frame_kind::accept},
                 {owes_refuse, frame_kind::refuse},
                 {owes_credit, frame_kind::credit},
                 {owes_fin, frame_kind::fin},
                 {owes_reset, frame_kind::reset}};
    if ((c.owes & owes_reset) != 0) {
        c.owes &= uint8_t(~owes_credit);  // an accept and an end of file that came before the reset are seen before it
    }
    for (auto [what, kind] : order) {
        if ((c.owes & what) == 0) {
            continue;
        }
        if (!has_space(most, replay_packets_reserve)) {
            return false;
        }
        std::byte credit[credit_body_bytes];
        put_u64(credit, c.granted);
        const bool with_credit = what == owes_accept || what == owes_credit;
        const bool with_error = what == owes_refuse || what == owes_reset;
        put_frame(id, kind, with_error ? uint32_t(c.err) : 0, std::span(credit).first(with_credit ? sizeof credit : 0));
        c.owes &= uint8_t(~what);
        c.fin_sent = c.fin_sent || what == owes_fin;
        if (with_error) {
            _channels.erase(id);
            return true;
        }
    }
    return true;
}

void engine::pay_all() noexcept {
    while (!_owing.empty()) {
        uint64_t id = _owing.front();
        if (channel* c = find(id)) {
            if (!pay(id, *c)) {
                return;
            }
            if (c = find(id); c != nullptr) {
                c->queued = false;
                if (std::exchange(c->starved, false) && c->sink != nullptr) {
                    c->sink->on_writable();
                    c = find(id);
                }
                if (c != nullptr) {
                    erase_if_done(id, *c);
                }
            }
        }
        _owing.pop_front();
    }
}

// --- channels ---------------------------------------------------------------------------------------------------

engine::channel* engine::find(uint64_t id) noexcept {
    auto at = _channels.find(id);
    return at == _channels.end() ? nullptr : &at->second;
}

uint64_t engine::open(const base::address& source, const base::address& destination, uint64_t credit,
                      channel_sink& sink) {
    VMSGR_ASSERT(_settings.which == side::initiator);
    if (!_attached || _channels.size() >= _settings.channels_max ||
        !has_space(frame_header_bytes + open_body_bytes, 0)) {
        return 0;
    }
    const uint64_t id = ++_last_channel;
    std::byte body[open_body_bytes];
    put_address(body, source);
    put_address(body + address_bytes, destination);
    put_u64(body + 2 * address_bytes, credit);
    put_frame(id, frame_kind::open, 0, body);
    auto& c = _channels[id];
    c.sink = &sink;
    c.granted = credit;
    ++_count.channels_total;
    _owner.on_output();
    return id;
}

void engine::accept(uint64_t id, uint64_t credit) noexcept {
    if (channel* c = find(id); c != nullptr && !c->up) {
        c->up = true;
        c->granted = credit;
        owe(id, *c, owes_accept);
    }
}

void engine::refuse(uint64_t id, int err) noexcept {
    if (channel* c = find(id); c != nullptr && !c->up && (c->owes & (owes_refuse | owes_reset)) == 0) {
        c->sink = nullptr;
        c->err = err;
        owe(id, *c, owes_refuse);
    }
}

void engine::grant(uint64_t id, uint64_t total) noexcept {
    if (channel* c = find(id); c != nullptr && total > c->granted) {
        c->granted = total;
        owe(id, *c, owes_credit);
    }
}

void engine::fin(uint64_t id) noexcept {
    if (channel* c = find(id); c != nullptr && !c->fin_sent) {
        owe(id, *c, owes_fin);
    }
}

void engine::close(uint64_t id) noexcept {
    if (channel* c = find(id)) {
        c->sink = nullptr;
        // A peer without credit would wait for ever: what it may still send is answered by a reset.
        if (!c->fin_received && c->granted == c->received) {
            grant(id, c->granted + 1);
        }
        if (!c->fin_sent) {
            owe(id, *c, owes_fin);
        }
        erase_if_done(id, *c);
    }
}

void engine::reset(uint64_t id, int err) noexcept {
    if (channel* c = find(id)) {
        c->sink = nullptr;
        c->err = err;
        owe(id, *c, owes_reset);
    }
}

void engine::erase_if_done(uint64_t id, channel& c) noexcept {
    if (c.sink == nullptr && c.fin_sent && c.fin_received && c.owes == 0) {
        _channels.erase(id);
    }
}

void engine::end(int err) noexcept {
    _attached = false;
    auto all = std::exchange(_channels, {});
    _owing.clear();
    _starved.clear();
    _kept.clear();
    _open = nullptr;
    _handed_out = _handed_out_before = 0;
    for (auto& [id, c] : all) {
        ++_count.channels_reset;
        if (c.sink != nullptr) {
            c.sink->on_reset(err);
        }
    }
}

// --- packets in -------------------------------------------------------------------------------------------------

std::optional<fault> engine::judge(const header& h) const noexcept {
    if (h.type == packet_type::hello) {
        return fault::type;
    }
    if (h.session != _session) {
        return fault::cookie;
    }
    if (h.ack > _acked + _handed_out) {
        return fault::ack;
    }
    const uint64_t next = _received + 1;
    if (h.type == packet_type::data ? h.sequence > next : h.sequence > _received) {
        return fault::sequence;
    }
    return std::nullopt;
}

std::optional<fault> engine::receive(std::span<const std::byte> packet, uint64_t now_us, bool& bye) noexcept {
    header h;
    auto why = packet.size() == _settings.packet_bytes ? invalid(packet, h) : fault::size;
    if (!why) {
        why = judge(h);
    }
    if (why) {
        count(*why);
        return why;
    }
    _last_in_us = now_us;
    if (h.ack > _acked) {
        acknowledged(h.ack);
        wake_starved();
        if (!_owing.empty()) {
            _owner.on_output();
        }
    }
    switch (h.type) {
    case packet_type::data:
        if (h.sequence <= _received) {
            ++_count.duplicates;
            _ack_due = true;
            _owner.on_output();
            break;
        }
        _received = h.sequence;
        ++_count.packets_in;
        if (++_to_be_acked >= _packets_per_ack) {
            _ack_due = true;
            _owner.on_output();
        }
        why = take_frames(packet.subspan(header_bytes, h.payload_bytes));
        if (why) {
            count(*why);
        }
        return why;
    case packet_type::dummy:
        _echo = h.stamp;
        _ack_due = true;
        _owner.on_output();
        break;
    case packet_type::ack:
        if (h.echo != 0 && h.echo <= now_us) {
            _rtt_us = now_us - h.echo;
        }
        break;
    case packet_type::bye: bye = true; break;
    case packet_type::hello: break;
    }
    return std::nullopt;
}

std::optional<fault> engine::take_frames(std::span<const std::byte> payload) noexcept {
    while (!payload.empty()) {
        frame f;
        if (auto why = next_frame(payload, f)) {
            return why;
        }
        if (auto why = take_frame(f)) {
            return why;
        }
    }
    return std::nullopt;
}

std::optional<fault> engine::take_open(const frame& f) noexcept {
    auto source = get_address(f.body.data());
    auto destination = get_address(f.body.data() + address_bytes);
    if (_settings.which != side::acceptor || f.channel != _last_channel + 1 || !source || !destination ||
        _channels.size() >= 2 * _settings.channels_max) {  // it opens on and reads no refusals
        return fault::channel;
    }
    _last_channel = f.channel;
    ++_count.channels_total;
    _channels[f.channel].may_send = get_u64(f.body.data() + 2 * address_bytes);
    if (_channels.size() > _settings.channels_max) {
        refuse(f.channel, EAGAIN);
    } else if (auto* sink = _owner.on_open(f.channel, *source, *destination)) {
        // It may have been refused or reset within the call: then its sink has left, and may be gone.
        if (channel* at = find(f.channel); at != nullptr && (at->owes & (owes_refuse | owes_reset)) == 0) {
            at->sink = sink;
        }
    } else {
        refuse(f.channel, ECONNREFUSED);
    }
    return std::nullopt;
}

std::optional<fault> engine::take_frame(const frame& f) noexcept {
    if (f.kind == frame_kind::open) {
        return take_open(f);
    }
    if (f.channel == 0 || f.channel > _last_channel) {
        return fault::channel;
    }
    channel* c = find(f.channel);
    if (c == nullptr || (c->owes & (owes_reset | owes_refuse)) != 0) {
        ++_count.late_frames;  // it has ended here; what tells the peer so is under way
        if (c != nullptr && f.kind == frame_kind::reset) {
            _channels.erase(f.channel);
        }
        return std::nullopt;
    }
    auto* sink = c->sink;
    switch (f.kind) {
    case frame_kind::accept:
        if (_settings.which != side::initiator || c->up) {
            return fault::channel;
        }
        c->up = true;
        c->may_send = get_u64(f.body.data());
        if (sink != nullptr) {
            sink->on_accepted();
        }
        break;
    case frame_kind::refuse:
    case frame_kind::reset:
        _channels.erase(f.channel);
        if (sink != nullptr) {
            f.kind == frame_kind::refuse ? sink->on_refused(int(f.value)) : sink->on_reset(int(f.value));
        }
        break;
    case frame_kind::credit:
        c->may_send = std::max(c->may_send, get_u64(f.body.data()));
        if (c->may_send != c->sent && std::exchange(c->starved, false) && sink != nullptr) {
            sink->on_writable();
        }
        break;
    case frame_kind::data: take_data(f.channel, *c, f.body); break;
    case frame_kind::fin:
        c->fin_received = true;
        if (sink != nullptr) {
            sink->on_fin();
        } else {
            erase_if_done(f.channel, *c);
        }
        break;
    case frame_kind::open: break;
    }
    return std::nullopt;
}

void engine::take_data(uint64_t id, channel& c, std::span<const std::byte> body) noexcept {
    if (!c.up || c.fin_received || body.size() > c.granted - c.received) {
        count(fault::credit);
        auto* sink = c.sink;
        reset(id, EPROTO);
        if (sink != nullptr) {
            sink->on_reset(ECONNRESET);
        }
        return;
    }
    c.received += body.size();
    _count.bytes_in += body.size();
    if (c.sink != nullptr) {
        c.sink->on_data(body);
    } else {
        reset(id, ECONNRESET);  // as the kernel answers data for a socket that was closed
    }
}

}  // namespace vmsgr::trunk
