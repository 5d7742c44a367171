// Texts that a stranger chose (a program's name, a route's name, a peer's name), made fit for logs, tables and
// documents. Any thread.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

namespace vmsgr::base {

// A visible ASCII character. No space: a name is one word, in a table as in a log.
constexpr bool is_printable(char c) noexcept { return c > ' ' && c < 127; }

// The text up to its first NUL, with '?' for each byte that is not printable; "?" where nothing is left.
inline std::string printable(std::string_view text) {
    std::string out(text.substr(0, text.find('\0')));
    std::ranges::replace_if(out, [](char c) { return !is_printable(c); }, '?');
    return out.empty() ? "?" : out;
}

}  // namespace vmsgr::base
