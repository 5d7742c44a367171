// The bytes of a fuzz target, taken apart: each value comes from the front, and is 0 when nothing is left. So what a
// target does is its input, read from left to right, and a shorter input does less. One thread.
#pragma once

#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace vmsgr::fuzz {

// What a target promises does not hold: the input is a finding.
[[noreturn]] inline void finding(const char* what) {
    fprintf(stderr, "%s\n", what);
    abort();
}
inline void must(bool holds, const char* otherwise) {
    if (!holds) {
        finding(otherwise);
    }
}

class input {
    std::span<const uint8_t> _left;

public:
    input(const uint8_t* data, size_t size) noexcept : _left(data, size) {}

    bool empty() const noexcept { return _left.empty(); }
    size_t size() const noexcept { return _left.size(); }

    template <typename T>
    T take() noexcept {
        T value{};
        std::ranges::copy(next(sizeof value), std::as_writable_bytes(std::span(&value, 1)).begin());
        return value;
    }
    uint8_t byte() noexcept { return take<uint8_t>(); }
    // 0 to n - 1.
    size_t below(size_t n) noexcept { return n <= 256 ? byte() % n : take<uint32_t>() % n; }
    bool one_in(size_t n) noexcept { return below(n) == n - 1; }
    // At most so many.
    std::span<const std::byte> next(size_t bytes) noexcept {
        const auto first = _left.first(std::min(bytes, _left.size()));
        _left = _left.subspan(first.size());
        return std::as_bytes(first);
    }
    std::string_view text() noexcept {
        const auto all = next(_left.size());
        return {reinterpret_cast<const char*>(all.data()), all.size()};
    }
    // A number that is likely to matter: small, near a power of two, or anything.
    uint64_t number() noexcept {
        const uint8_t how = byte();
        const uint64_t near = uint64_t(1) << (how >> 2 & 63);
        switch (how & 3) {
        case 0: return how >> 2;
        case 1: return near - 1 + byte() % 3;
        case 2: return 0 - near - byte() % 3;
        default: return take<uint64_t>();
        }
    }
};

}  // namespace vmsgr::fuzz
