// Errors as values, for the Seastar-free code: an errno and a text that names the cause and the next step.
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace vmsgr::base {

struct error {
    int errnum = 0;    // an errno value; 0 where none fits
    std::string text;  // one line, for people
};

template <typename T>
using result = std::expected<T, error>;

inline std::unexpected<error> fail(int errnum, std::string text) {
    return std::unexpected(error{errnum, std::move(text)});
}

// The call that has just failed: errno, and "what: its text".
error os_error(std::string_view what);

}  // namespace vmsgr::base
