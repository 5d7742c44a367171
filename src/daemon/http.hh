// As much of HTTP/1.1 as a scraper needs: one request a connection, GET and HEAD, nothing of a body. Seastar-free; any
// thread; bounded by what it is given.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace vmsgr::daemon {

inline constexpr size_t http_head_max = 8192;

struct http_request {
    int error = 0;  // 0, or the status that the client gets instead of an answer
    bool head = false;
    // Into the text that was read.
    std::string_view path{};  // without the query
    std::string_view key{};  // of "Authorization: Bearer KEY"
};

// Of what has come so far; nothing: more has to come.
std::optional<http_request> read_http_request(std::string_view text) noexcept;

// The whole answer, after which the connection ends.
struct http_reply {
    int status = 200;
    std::string_view type = "text/plain; charset=utf-8";
    std::string_view policy{};  // Content-Security-Policy, if any
};
std::string http_answer(const http_reply& how, std::string_view body, bool head_only);

}  // namespace vmsgr::daemon
