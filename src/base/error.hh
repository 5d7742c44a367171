// Errors as values, for the Seastar-free code: an errno and a text that names the cause and the next step. Making one
// allocates nothing, as it happens where there is no memory, in signal handlers and in noexcept functions. Any thread.
#pragma once

#include <algorithm>
#include <charconv>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <expected>
#include <iosfwd>
#include <string>
#include <string_view>
#include <utility>

namespace vmsgr::base {

// One line, for people. What is too long loses its beginning, as the cause and the next step stand at the end.
class error_text {
public:
    // A list of all keys of the configuration, behind its path and a quoted key, fits.
    static constexpr size_t bytes_max = 1000;

private:
    uint32_t _size = 0;
    char _text[bytes_max + 1] = {};

public:
    error_text() noexcept = default;
    template <std::convertible_to<std::string_view> Text>
        requires(!std::same_as<Text, error_text>)
    error_text(const Text& text) noexcept {  // NOLINT(google-explicit-constructor): it is a text
        *this += std::string_view(text);
    }

    error_text& operator+=(std::string_view more) noexcept {
        if (more.size() > bytes_max - _size) {
            make_room(more);
        }
        memcpy(_text + _size, more.data(), more.size());
        _size += uint32_t(more.size());
        _text[_size] = 0;
        return *this;
    }
    error_text& operator+=(std::integral auto number) noexcept {
        char digits[24];
        return *this += std::string_view(digits, std::to_chars(digits, digits + sizeof digits, number).ptr);
    }

    const char* c_str() const noexcept { return _text; }
    std::string_view view() const noexcept { return {_text, _size}; }
    operator std::string_view() const noexcept { return view(); }       // NOLINT(google-explicit-constructor)
    operator std::string() const { return std::string(view()); }        // NOLINT(google-explicit-constructor)
    friend bool operator==(const error_text& a, std::string_view b) noexcept { return a.view() == b; }
    friend std::string operator+(std::string before, const error_text& t) { return before.append(t.view()); }
    friend std::string operator+(const error_text& t, std::string_view behind) { return std::string(t).append(behind); }
    template <typename Char, typename Traits>
    friend std::basic_ostream<Char, Traits>& operator<<(std::basic_ostream<Char, Traits>& out, const error_text& t) {
        return out << t.view();
    }

private:
    void make_room(std::string_view& more) noexcept;
};

struct error {
    int errnum = 0;  // an errno value; 0 where none fits
    error_text text{};
};

template <typename T>
using result = std::expected<T, error>;

// The text is made of the parts: texts and whole numbers.
std::unexpected<error> fail(int errnum, const auto&... parts) noexcept {
    error e{errnum};
    (void)(e.text += ... += parts);
    return std::unexpected(e);
}

// The call that has just failed: errno, and "what: its text".
error os_error(std::string_view what) noexcept;

}  // namespace vmsgr::base
