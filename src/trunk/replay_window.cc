#include "trunk/replay_window.hh"

#include <string.h>

#include <new>

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

// --- frames in --------------------------------------------------------------------------------------------------

bool replay_window::has_room(size_t reserve) const noexcept {
    if (kept() >= _packets_max + reserve || _share.used >= _share.limit) {
        return false;
    }
    return reserve != 0 || bytes() < _share.limit - _share.used;
}

// False: there is no memory, which is as if the limit were met: acknowledgements will free some.
bool replay_window::begin_packet() noexcept try {
    _packets.push_back(std::make_shared<packet_buffer>(_packet_bytes, _share));
    _filling = _packets.back().get();
    _last_data_at = 0;
    return true;
} catch (const std::bad_alloc&) {
    return false;
}

bool replay_window::make_space(size_t bytes, size_t reserve) noexcept {
    if (_filling && _filling->filled + bytes > _packet_bytes) {
        keep_filled();
    }
    if (!_filling) {
        return has_room(reserve) && begin_packet();
    }
    return true;
}

void replay_window::keep_filled() noexcept {
    auto bytes = _filling->bytes();
    memset(bytes.data() + _filling->filled, 0, bytes.size() - _filling->filled);
    _filling = nullptr;
}

void replay_window::finish_filling() noexcept {
    if (_filling && _filling->filled > header_bytes) {
        keep_filled();
    }
}

void replay_window::put_frame(uint64_t channel, frame_kind kind, uint32_t value,
                              std::span<const std::byte> body) noexcept {
    auto* at = _filling->bytes().data() + _filling->filled;
    put_frame_header(at, channel, kind, uint16_t(body.size()), value);
    if (!body.empty()) {
        memcpy(at + frame_header_bytes, body.data(), body.size());
    }
    _filling->filled += frame_header_bytes + body.size();
    _last_data_at = 0;
}

size_t replay_window::put_data(uint64_t channel, std::span<const std::byte> bytes, bool urgent) noexcept {
    size_t taken = 0;
    while (taken < bytes.size() && make_space(frame_header_bytes + 1, 0)) {
        if (_last_data_at == 0 || _last_data_channel != channel) {
            _last_data_at = _filling->filled;
            _last_data_channel = channel;
            _filling->filled += frame_header_bytes;
        }
        auto* base = _filling->bytes().data();
        const size_t n = std::min(bytes.size() - taken, _packet_bytes - _filling->filled);
        memcpy(base + _filling->filled, bytes.data() + taken, n);
        _filling->filled += n;
        taken += n;
        const bool ends_urgent = urgent && taken == bytes.size();
        put_frame_header(base + _last_data_at, channel, frame_kind::data,
                         uint16_t(_filling->filled - _last_data_at - frame_header_bytes),
                         ends_urgent ? data_urgent : 0);
        if (ends_urgent) {
            _last_data_at = 0;  // it grows no more
        }
    }
    return taken;
}

// --- the peer's word --------------------------------------------------------------------------------------------

bool replay_window::reconnected(uint64_t ack) noexcept {
    const size_t ever_left = std::max(_handed_out, _handed_out_before);
    if (ack < _acked || ack > _acked + ever_left) {
        return false;
    }
    _handed_out_before = ever_left;
    acknowledged(ack);
    _handed_out = 0;
    return true;
}

bool replay_window::acknowledged(uint64_t ack) noexcept {
    const bool more = _acked < ack;
    while (_acked < ack) {
        ++_acked;
        _packets.pop_front();
        _handed_out -= _handed_out != 0;
        _handed_out_before -= _handed_out_before != 0;
    }
    return more;
}

void replay_window::save(base::record_writer& to) {
    finish_filling();
    to.put(_acked);
    to.put(uint64_t(std::max(_handed_out, _handed_out_before)));
    to.put(uint64_t(kept()));
    for (size_t i = 0; i < kept(); ++i) {
        to.put_bytes(_packets[i]->bytes().first(_packets[i]->filled).subspan(header_bytes));
    }
}

bool replay_window::load(base::record_reader& from) {
    _acked = from.get<uint64_t>();
    _handed_out_before = size_t(from.get<uint64_t>());
    const auto count = from.get<uint64_t>();
    for (uint64_t i = 0; i < count && from.complete(); ++i) {
        const auto payload = from.get_bytes();
        if (payload.size() > _packet_bytes - header_bytes) {
            return false;
        }
        auto& p = _packets.emplace_back(std::make_shared<packet_buffer>(_packet_bytes, _share));
        auto* at = std::ranges::copy(payload, p->bytes().data() + header_bytes).out;
        p->filled = header_bytes + payload.size();
        memset(at, 0, _packet_bytes - p->filled);
    }
    return from.complete() && _handed_out_before <= count;
}

void replay_window::clear() noexcept {
    _packets.clear();
    _filling = nullptr;
    _handed_out = _handed_out_before = 0;
}

}  // namespace vmsgr::trunk
