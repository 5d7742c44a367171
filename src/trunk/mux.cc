#include "trunk/mux.hh"

#include <errno.h>
#include <string.h>

#include <algorithm>
#include <new>
#include <utility>

#include "base/assert.hh"

namespace vmsgr::trunk {

mux::channel* mux::find(uint64_t id) noexcept {
    auto at = _channels.find(id);
    return at == _channels.end() || _saved ? nullptr : &at->second;
}

// --- what channels want -----------------------------------------------------------------------------------------

uint64_t mux::open(const base::address& source, const base::address& destination, uint64_t credit, channel_sink& sink) {
    VMSGR_ASSERT(_settings.which == side::initiator);
    if (_channels.size() >= _settings.channels_max || !_out.make_space(frame_header_bytes + open_body_bytes, 0)) {
        return 0;
    }
    const uint64_t id = _last_channel + 1;
    auto& c = _channels.try_emplace(id, id).first->second;
    _last_channel = id;
    std::byte body[open_body_bytes];
    put_address(body, source);
    put_address(body + address_bytes, destination);
    put_u64(body + 2 * address_bytes, credit);
    _out.put_frame(id, frame_kind::open, 0, body);
    c.sink = &sink;
    c.granted = credit;
    ++_count.channels_total;
    _owner.on_output();
    return id;
}

void mux::accept(uint64_t id, uint64_t credit) noexcept {
    if (channel* c = find(id); c != nullptr && !c->up) {
        c->up = true;
        c->granted = credit;
        add_due(*c, due_accept);
    }
}

void mux::refuse(uint64_t id, int err) noexcept {
    if (channel* c = find(id); c != nullptr && !c->up && !c->ends()) {
        c->sink = nullptr;
        c->err = err;
        add_due(*c, due_refuse);
    }
}

void mux::grant(uint64_t id, uint64_t total) noexcept {
    if (channel* c = find(id); c != nullptr && total > c->granted) {
        c->granted = total;
        add_due(*c, due_credit);
    }
}

void mux::fin(uint64_t id) noexcept {
    if (channel* c = find(id); c != nullptr && !c->fin_sent) {
        add_due(*c, due_fin);
    }
}

void mux::close(uint64_t id) noexcept {
    if (channel* c = find(id)) {
        c->sink = nullptr;
        // A peer without credit would wait for ever: what it may still send is answered by a reset.
        if (!c->fin_received && c->granted == c->received) {
            grant(id, c->granted + 1);
        }
        if (!c->fin_sent) {
            add_due(*c, due_fin);
        }
        erase_if_done(id, *c);
    }
}

void mux::reset(uint64_t id, int err) noexcept {
    if (channel* c = find(id)) {
        c->sink = nullptr;
        c->err = err;
        add_due(*c, due_reset);
    }
}

void mux::erase_if_done(uint64_t id, channel& c) noexcept {
    if (c.sink == nullptr && c.fin_sent && c.fin_received && c.due == 0) {
        _channels.erase(id);
    }
}

void mux::end(int err) noexcept {
    auto all = std::exchange(_channels, {});
    _due.clear();
    _waiting.clear();
    for (auto& [id, c] : all) {
        ++_count.channels_reset;
        if (c.sink != nullptr) {
            c.sink->on_reset(err);
        }
    }
}

size_t mux::send(uint64_t id, std::span<const iovec> pieces, bool urgent) {
    channel* c = find(id);
    if (c == nullptr || !c->up || c->fin_sent || c->ends()) {
        return 0;
    }
    if (!_sends) {
        wait_for_room(*c);
        return 0;
    }
    if (c->due != 0 && !write_due_of(id, *c)) {
        c->wants_writable = true;
        return 0;
    }
    size_t taken = 0, wanted = 0;
    for (const iovec& piece : pieces) {
        wanted += piece.iov_len;
        const size_t n = std::min(piece.iov_len, size_t(c->may_send - c->sent));
        const bool ends = urgent && _settings.urgent && n == piece.iov_len && &piece == &pieces.back();
        const size_t put = _out.put_data(id, {static_cast<const std::byte*>(piece.iov_base), n}, ends);
        taken += put;
        c->sent += put;
    }
    _count.bytes_out += taken;
    if (taken < wanted) {
        c->wants_writable = true;  // for the peer's credit, or
        if (c->may_send != c->sent) {
            wait_for_room(*c);
        }
    }
    if (taken != 0) {
        _owner.on_output();
    }
    return taken;
}

void mux::wait_for_room(channel& c) noexcept {
    c.wants_writable = true;
    if (!c.waiting_hook.is_linked()) {
        _waiting.push_back(c);
    }
}

void mux::tell_writable(channel& c) noexcept {
    if (std::exchange(c.wants_writable, false) && c.sink != nullptr) {
        c.sink->on_writable();
    }
}

void mux::wake_waiting() noexcept {
    list<&channel::waiting_hook> turn;  // who waits again comes after them
    turn.swap(_waiting);
    while (!turn.empty() && _out.has_room(0)) {
        channel& c = turn.front();
        turn.pop_front();
        tell_writable(c);
    }
    _waiting.splice(_waiting.begin(), turn);
}

// --- frames that are due ----------------------------------------------------------------------------------------

void mux::add_due(channel& c, due_frame what) noexcept {
    c.due |= what;
    if (!c.due_hook.is_linked()) {
        _due.push_back(c);
    }
    _owner.on_output();
}

// False: no room for all of them. The channel may be gone afterwards if a refusal or a reset was due.
bool mux::write_due_of(uint64_t id, channel& c) noexcept {
    constexpr size_t most = frame_header_bytes + credit_body_bytes;
    constexpr struct {
        due_frame what;
        frame_kind kind;
    } order[] = {{due_accept, frame_kind::accept},
                 {due_refuse, frame_kind::refuse},
                 {due_credit, frame_kind::credit},
                 {due_fin, frame_kind::fin},
                 {due_reset, frame_kind::reset}};
    if ((c.due & due_reset) != 0) {
        c.due &= uint8_t(~due_credit);  // an accept and an end of file that came before the reset are seen before it
    }
    for (auto [what, kind] : order) {
        if ((c.due & what) == 0) {
            continue;
        }
        if (!_out.make_space(most, replay_packets_reserve)) {
            return false;
        }
        std::byte credit[credit_body_bytes];
        put_u64(credit, c.granted);
        const bool with_credit = what == due_accept || what == due_credit;
        const bool with_error = what == due_refuse || what == due_reset;
        _out.put_frame(id, kind, with_error ? uint32_t(c.err) : 0,
                       std::span(credit).first(with_credit ? sizeof credit : 0));
        c.due &= uint8_t(~what);
        c.fin_sent = c.fin_sent || what == due_fin;
        if (with_error) {
            _channels.erase(id);
            return true;
        }
    }
    return true;
}

void mux::write_due() noexcept {
    while (!_due.empty()) {
        const uint64_t id = _due.front().id;
        if (!write_due_of(id, _due.front())) {
            return;
        }
        if (channel* c = find(id)) {
            c->due_hook.unlink();
            tell_writable(*c);
        }
        if (channel* c = find(id)) {
            erase_if_done(id, *c);
        }
    }
}

// --- from one process to the next -------------------------------------------------------------------------------

void mux::save(base::record_writer& to) {
    _saved = true;
    to.put(_last_channel);
    to.put(uint64_t(_channels.size()));
    for (auto& [id, c] : _channels) {
        for (const uint64_t word : {id, c.sent, c.may_send, c.received, c.granted}) {
            to.put(word);
        }
        to.put(int32_t(c.err));
        to.put(c.due);
        for (const bool is : {c.up, c.fin_sent, c.fin_received, c.sink != nullptr || c.unclaimed}) {
            to.put(uint8_t(is));
        }
    }
}

bool mux::load(base::record_reader& from) {
    _last_channel = from.get<uint64_t>();
    for (auto left = from.get<uint64_t>(); left > 0 && from.complete(); --left) {
        const auto id = from.get<uint64_t>();
        channel& c = _channels.try_emplace(id, id).first->second;
        for (uint64_t* word : {&c.sent, &c.may_send, &c.received, &c.granted}) {
            *word = from.get<uint64_t>();
        }
        c.err = from.get<int32_t>();
        c.due = from.get<uint8_t>();
        for (bool* is : {&c.up, &c.fin_sent, &c.fin_received, &c.unclaimed}) {
            *is = from.get<uint8_t>() != 0;
        }
        if (c.due != 0) {
            _due.push_back(c);
        }
        if (id == 0 || id > _last_channel || c.sent > c.may_send || c.received > c.granted) {
            return false;
        }
    }
    return from.complete();
}

std::optional<channel_state> mux::claim(uint64_t id, channel_sink& sink) noexcept {
    channel* c = find(id);
    if (c == nullptr || !std::exchange(c->unclaimed, false)) {
        return std::nullopt;
    }
    c->sink = &sink;
    return channel_state{c->received, c->granted, c->up, c->fin_sent || (c->due & due_fin) != 0, c->fin_received};
}

size_t mux::end_unclaimed() noexcept {
    size_t ended = 0;
    for (auto& [id, c] : _channels) {
        if (std::exchange(c.unclaimed, false)) {
            c.err = c.up || _settings.which == side::initiator ? ECONNRESET : ECONNREFUSED;
            add_due(c, c.up || _settings.which == side::initiator ? due_reset : due_refuse);
            ++_count.channels_reset;
            ++ended;
        }
    }
    return ended;
}

// --- what the peer says -----------------------------------------------------------------------------------------

std::optional<packet_fault> mux::take_frames(std::span<const std::byte> payload) noexcept {
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

std::optional<packet_fault> mux::take_frame(const frame& f) noexcept {
    if (f.kind == frame_kind::open) {
        return take_open(f);
    }
    if (f.channel == 0 || f.channel > _last_channel) {
        return packet_fault::channel;
    }
    channel* c = find(f.channel);
    if (c == nullptr || c->ends()) {
        ++_count.late_frames;  // it has ended here; what tells the peer so is under way
        if (c != nullptr && f.kind == frame_kind::reset) {
            _channels.erase(f.channel);
        }
        return std::nullopt;
    }
    switch (f.kind) {
    case frame_kind::accept: return take_accept(f, *c);
    case frame_kind::refuse:
        if (_settings.which != side::initiator || c->up) {
            return packet_fault::channel;
        }
        take_end(f, *c);
        break;
    case frame_kind::reset: take_end(f, *c); break;
    case frame_kind::credit: take_credit(f, *c); break;
    case frame_kind::data: take_data(f, *c); break;
    case frame_kind::fin: return take_fin(f, *c);
    case frame_kind::open: break;
    }
    return std::nullopt;
}

// An address that does not name one host is refused here, before anybody asks what this host serves: the kernel takes
// 0.0.0.0 and :: for its own loopback.
std::optional<packet_fault> mux::take_open(const frame& f) noexcept {
    auto source = get_address(f.body.data());
    auto destination = get_address(f.body.data() + address_bytes);
    if (_settings.which != side::acceptor || f.channel != _last_channel + 1 || !source || !destination ||
        _channels.size() >= 2 * _settings.channels_max) {  // it opens on and reads no refusals
        return packet_fault::channel;
    }
    try {
        _channels.try_emplace(f.channel, f.channel).first->second.may_send = get_u64(f.body.data() + 2 * address_bytes);
    } catch (const std::bad_alloc&) {
        return packet_fault::memory;  // not even to refuse it
    }
    _last_channel = f.channel;
    ++_count.channels_total;
    if (_channels.size() > _settings.channels_max) {
        refuse(f.channel, EAGAIN);
    } else if (!destination->names_one_host()) {
        refuse(f.channel, EHOSTUNREACH);
    } else if (auto* sink = _owner.on_open(f.channel, source->unmapped(), destination->unmapped())) {
        // It may have been refused or reset within the call: then its sink has left, and may be gone.
        if (channel* at = find(f.channel); at != nullptr && !at->ends()) {
            at->sink = sink;
        }
    } else {
        refuse(f.channel, ECONNREFUSED);
    }
    return std::nullopt;
}

std::optional<packet_fault> mux::take_accept(const frame& f, channel& c) noexcept {
    if (_settings.which != side::initiator || c.up) {
        return packet_fault::channel;
    }
    c.up = true;
    c.may_send = get_u64(f.body.data());
    if (c.sink != nullptr) {
        c.sink->on_accepted();
    }
    return std::nullopt;
}

// A refusal or a reset.
void mux::take_end(const frame& f, channel& c) noexcept {
    auto* sink = c.sink;
    _channels.erase(f.channel);
    if (sink != nullptr) {
        f.kind == frame_kind::refuse ? sink->on_refused(int(f.value)) : sink->on_reset(int(f.value));
    }
}

void mux::take_credit(const frame& f, channel& c) noexcept {
    c.may_send = std::max(c.may_send, get_u64(f.body.data()));
    if (c.may_send != c.sent) {
        tell_writable(c);
    }
}

void mux::take_data(const frame& f, channel& c) noexcept {
    if (!c.up || c.fin_received || f.body.size() > c.granted - c.received) {
        _count.count(packet_fault::credit);
        auto* sink = c.sink;
        reset(f.channel, EPROTO);
        if (sink != nullptr) {
            sink->on_reset(ECONNRESET);
        }
        return;
    }
    c.received += f.body.size();
    _count.bytes_in += f.body.size();
    if (c.sink != nullptr) {
        c.sink->on_data(f.body, _settings.urgent && (f.value & data_urgent) != 0);
    } else {
        reset(f.channel, ECONNRESET);  // as the kernel answers data for a socket that was closed
    }
}

std::optional<packet_fault> mux::take_fin(const frame& f, channel& c) noexcept {
    if (!c.up || c.fin_received) {
        return packet_fault::channel;
    }
    c.fin_received = true;
    if (c.sink != nullptr) {
        c.sink->on_fin();
    } else {
        erase_if_done(f.channel, c);
    }
    return std::nullopt;
}

}  // namespace vmsgr::trunk
