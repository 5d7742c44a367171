#include "trunk/engine.hh"

#include <string.h>

#include <utility>

namespace vmsgr::trunk {

engine::engine(const engine_settings& s, engine_owner& owner, memory_share& share, engine_counters& count)
    : _settings(s),
      _owner(owner),
      _share(share),
      _count(count),
      _packets_per_ack(packets_per_ack(s.packet_bytes)),
      _out(s.packet_bytes, s.replay_bytes, share),
      _mux(_settings, owner, _out, count) {}

bool engine::attach(uint64_t session, uint64_t peer_ack, uint64_t now_us, crc_cover cover) noexcept {
    if (!_out.reconnected(peer_ack)) {
        return false;
    }
    _session = session;
    _crc_cover = cover;
    _attached = true;
    ack_leaves();  // with the hello
    _dummy_due = false;
    _echo = 0;
    _last_in_us = _last_out_us = now_us;
    _mux.wake_waiting();
    _owner.on_output();
    return true;
}

void engine::end(int err) noexcept {
    _attached = false;
    _out.clear();
    _mux.end(err);
}

void engine::save(base::record_writer& to) {
    to.put(_session);
    to.put(_received);
    _out.save(to);
    _mux.save(to);
}

bool engine::load(base::record_reader& from) {
    _mux.may_send(false);
    _session = from.get<uint64_t>();
    _received = from.get<uint64_t>();
    return _out.load(from) && _mux.load(from);
}

// --- packets out ------------------------------------------------------------------------------------------------

packet_ptr engine::next_packet(uint64_t now_us) {
    if (!_attached) {
        return nullptr;
    }
    if (_out.all_left()) {
        _mux.write_due();
        if (_out.all_left()) {
            _out.finish_filling();
        }
    }
    if (packet_ptr p = _out.next()) {
        return data_packet(std::move(p));
    }
    if (_ack_due || _echo != 0) {
        return control_packet(packet_type::ack, now_us);
    }
    return _dummy_due ? control_packet(packet_type::dummy, now_us) : nullptr;
}

packet_ptr engine::data_packet(packet_ptr p) noexcept {
    header h;
    h.session = _session;
    h.sequence = _out.last_sequence();
    h.ack = _received;
    h.payload_bytes = uint32_t(p->filled - header_bytes);
    seal(p->bytes(), h, _crc_cover);
    ack_leaves();
    ++_count.packets_out;
    _count.replayed += _out.last_left_before();
    return p;
}

packet_ptr engine::control_packet(packet_type type, uint64_t now_us) {
    packet_ptr p = std::make_shared<packet_buffer>(_settings.packet_bytes, _share);
    memset(p->bytes().data(), 0, p->bytes().size());
    header h;
    h.type = type;
    h.session = _session;
    h.sequence = _out.last_sequence();
    h.ack = _received;
    if (type == packet_type::ack) {
        h.echo = std::exchange(_echo, 0);
    } else if (type == packet_type::dummy) {
        h.stamp = now_us;
        _dummy_due = false;
    }
    ack_leaves();
    seal(p->bytes(), h, _crc_cover);
    return p;
}

packet_ptr engine::bye(uint64_t now_us) { return control_packet(packet_type::bye, now_us); }

// Each packet carries an acknowledgement of all that came.
void engine::ack_leaves() noexcept {
    _to_be_acked = 0;
    _ack_due = false;
}

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
    _mux.wake_waiting();  // nothing else tells it, or frames that are due, what other engines have freed
    _ack_due = _ack_due || _to_be_acked != 0;
    if (_ack_due || _dummy_due || _mux.has_due()) {
        _owner.on_output();
    }
    return true;
}

// --- packets in -------------------------------------------------------------------------------------------------

std::optional<packet_fault> engine::out_of_order(const header& h) const noexcept {
    if (h.type == packet_type::hello) {
        return packet_fault::type;
    }
    if (h.session != _session) {
        return packet_fault::cookie;
    }
    if (!_out.may_acknowledge(h.ack)) {
        return packet_fault::ack;
    }
    const uint64_t next = _received + 1;
    if (h.type == packet_type::data ? h.sequence > next : h.sequence > _received) {
        return packet_fault::sequence;
    }
    return std::nullopt;
}

std::optional<packet_fault> engine::receive(std::span<const std::byte> packet, uint64_t now_us, bool& bye) noexcept {
    header h;
    auto why = packet.size() == _settings.packet_bytes ? invalid(packet, h, _crc_cover) : packet_fault::size;
    if (!why) {
        why = out_of_order(h);
    }
    if (why) {
        count(*why);
        return why;
    }
    _last_in_us = now_us;
    take_ack(h.ack);
    switch (h.type) {
    case packet_type::data: return take_data(h, packet.subspan(header_bytes, h.payload_bytes));
    case packet_type::dummy:
        _echo = h.stamp;
        _ack_due = true;
        _owner.on_output();
        break;
    case packet_type::ack:
        if (h.echo != 0 && h.echo <= now_us) {
            _rtt_us = now_us - h.echo;
            _round_trips.add(_rtt_us);
        }
        break;
    case packet_type::bye: bye = true; break;
    case packet_type::hello: break;
    }
    return std::nullopt;
}

void engine::take_ack(uint64_t ack) noexcept {
    if (_out.acknowledged(ack)) {
        _mux.wake_waiting();
        if (_mux.has_due()) {
            _owner.on_output();
        }
    }
}

std::optional<packet_fault> engine::take_data(const header& h, std::span<const std::byte> payload) noexcept {
    if (h.sequence <= _received) {
        ++_count.duplicates;
        _ack_due = true;
        _owner.on_output();
        return std::nullopt;
    }
    _received = h.sequence;
    ++_count.packets_in;
    if (++_to_be_acked >= _packets_per_ack) {
        _ack_due = true;
        _owner.on_output();
    }
    auto why = _mux.take_frames(payload);
    if (why) {
        count(*why);
    }
    return why;
}

}  // namespace vmsgr::trunk
