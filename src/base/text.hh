// Text that somebody else wrote, made fit for logs and documents. Any thread.
#pragma once

#include <string.h>

#include <algorithm>
#include <string>

namespace vmsgr::base {

// Up to `max` bytes or the first NUL: blanks, what is no printable ASCII, and the separator of routes become '?'.
inline std::string printable(const char* text, size_t max) {
    std::string out(text, strnlen(text, max));
    std::ranges::replace_if(out, [](unsigned char c) { return c <= ' ' || c >= 127 || c == ';'; }, '?');
    return out.empty() ? "?" : out;
}

}  // namespace vmsgr::base
