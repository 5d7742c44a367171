// Texts that a stranger chose (a program's name, a route's name, a peer's name), made fit for logs, tables and
// documents. Any thread.
#pragma once

#include <string.h>

#include <algorithm>
#include <string>

namespace vmsgr::base {

// At most `max` bytes, up to the first NUL. Blanks (a name is one word), what is no printable ASCII, and ';', which
// separates routes, become '?'; so does an empty text.
inline std::string printable(const char* text, size_t max) {
    std::string out(text, strnlen(text, max));
    std::ranges::replace_if(out, [](unsigned char c) { return c <= ' ' || c >= 127 || c == ';'; }, '?');
    return out.empty() ? "?" : out;
}

}  // namespace vmsgr::base
