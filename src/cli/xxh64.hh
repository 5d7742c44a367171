// XXH64 of a stream of pieces, as xxhsum -H1 prints it: shows whether what arrived is what was sent. Against
// accidents, not against people. One owner, any thread.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace vmsgr::cli {

class xxh64 {
    static constexpr uint64_t p1 = 0x9E3779B185EBCA87, p2 = 0xC2B2AE3D27D4EB4F, p3 = 0x165667B19E3779F9,
                              p4 = 0x85EBCA77C2B2AE63, p5 = 0x27D4EB2F165667C5;
    static constexpr size_t stripe = 32;
    std::array<uint64_t, 4> _lane{p1 + p2, p2, 0, 0 - p1};
    std::array<std::byte, stripe> _rest{};
    size_t _rest_bytes = 0;
    uint64_t _total = 0;

    static uint64_t load64(const std::byte* at) noexcept {
        uint64_t v;
        memcpy(&v, at, sizeof v);
        return v;
    }
    static uint64_t round(uint64_t lane, uint64_t input) noexcept { return std::rotl(lane + input * p2, 31) * p1; }
    void take(const std::byte* at) noexcept {
        for (size_t i = 0; i < _lane.size(); ++i) {
            _lane[i] = round(_lane[i], load64(at + 8 * i));
        }
    }

public:
    void add(std::span<const std::byte> data) noexcept {
        _total += data.size();
        if (_rest_bytes != 0) {
            const size_t n = std::min(stripe - _rest_bytes, data.size());
            memcpy(&_rest[_rest_bytes], data.data(), n);
            data = data.subspan(n);
            if ((_rest_bytes += n) < stripe) {
                return;
            }
            take(_rest.data());
            _rest_bytes = 0;
        }
        for (; data.size() >= stripe; data = data.subspan(stripe)) {
            take(data.data());
        }
        if (!data.empty()) {
            memcpy(_rest.data(), data.data(), data.size());
        }
        _rest_bytes = data.size();
    }

    uint64_t value() const noexcept {
        uint64_t h = p5;
        if (_total >= stripe) {
            h = std::rotl(_lane[0], 1) + std::rotl(_lane[1], 7) + std::rotl(_lane[2], 12) + std::rotl(_lane[3], 18);
            for (uint64_t lane : _lane) {
                h = (h ^ round(0, lane)) * p1 + p4;
            }
        }
        h += _total;
        size_t at = 0;
        for (; at + 8 <= _rest_bytes; at += 8) {
            h = std::rotl(h ^ round(0, load64(&_rest[at])), 27) * p1 + p4;
        }
        if (at + 4 <= _rest_bytes) {
            uint32_t v;
            memcpy(&v, &_rest[at], sizeof v);
            h = std::rotl(h ^ v * p1, 23) * p2 + p3;
            at += 4;
        }
        for (; at < _rest_bytes; ++at) {
            h = std::rotl(h ^ uint64_t(_rest[at]) * p5, 11) * p1;
        }
        h = (h ^ h >> 33) * p2;
        h = (h ^ h >> 29) * p3;
        return h ^ h >> 32;
    }
};

inline std::string hash_text(uint64_t value) {
    char text[17];
    snprintf(text, sizeof text, "%016lx", value);
    return text;
}

}  // namespace vmsgr::cli
