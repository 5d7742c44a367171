// Values as a run of bytes, for another process of this machine that reads them in the same order: what one worker
// leaves to the next. Whoever writes puts a version in front. A reader never goes beyond its bytes: what is missing
// reads as zero, and complete() says so at the end. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace vmsgr::base {

template <typename T>
concept recordable = std::is_trivially_copyable_v<T> && std::has_unique_object_representations_v<T>;

class record_writer {
    std::vector<std::byte> _bytes;

public:
    template <recordable T>
    void put(const T& value) {
        const auto* at = reinterpret_cast<const std::byte*>(&value);
        _bytes.insert(_bytes.end(), at, at + sizeof value);
    }
    void put_bytes(std::span<const std::byte> bytes) {
        put(uint64_t(bytes.size()));
        _bytes.insert(_bytes.end(), bytes.begin(), bytes.end());
    }
    void put_text(std::string_view text) { put_bytes(std::as_bytes(std::span(text))); }
    std::span<const std::byte> bytes() const noexcept { return _bytes; }
};

class record_reader {
    std::span<const std::byte> _left;
    bool _complete = true;

public:
    explicit record_reader(std::span<const std::byte> bytes) noexcept : _left(bytes) {}

    template <recordable T>
    T get() noexcept {
        T value{};
        const auto from = take(sizeof value);
        if (!from.empty()) {
            memcpy(&value, from.data(), sizeof value);
        }
        return value;
    }
    // They stay where they are.
    std::span<const std::byte> get_bytes() noexcept { return take(get<uint64_t>()); }
    std::string get_text() {
        const auto from = get_bytes();
        return {reinterpret_cast<const char*>(from.data()), from.size()};
    }
    bool complete() const noexcept { return _complete; }

private:
    std::span<const std::byte> take(uint64_t n) noexcept {
        if (n > _left.size()) {
            _complete = false;
            _left = {};
            return {};
        }
        const auto from = _left.first(size_t(n));
        _left = _left.subspan(size_t(n));
        return from;
    }
};

}  // namespace vmsgr::base
