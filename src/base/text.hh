// Texts that a stranger chose (a program's name, a route's name, a peer's name), made fit for logs, tables and
// documents. Any thread.
#pragma once

#include <string.h>

#include <algorithm>
#include <string>
#include <string_view>

namespace vmsgr::base {

// At most `max` bytes, up to the first NUL. Blanks (a name is one word), what is no printable ASCII, and ';', which
// separates routes, become '?'; so does an empty text.
inline std::string printable(const char* text, size_t max) {
    std::string out(text, strnlen(text, max));
    std::ranges::replace_if(out, [](unsigned char c) { return c <= ' ' || c >= 127 || c == ';'; }, '?');
    return out.empty() ? "?" : out;
}

// As DNS compares names, without regard to the case of ASCII letters; a `*` is no pattern.
inline bool same_name(std::string_view a, std::string_view b) noexcept {
    auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; };
    return std::ranges::equal(a, b, {}, lower, lower);
}

}  // namespace vmsgr::base
