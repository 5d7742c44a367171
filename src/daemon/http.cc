#include "daemon/http.hh"

#include <algorithm>

namespace vmsgr::daemon {

namespace {

std::string_view reason(int status) {
    switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 431: return "Request Header Fields Too Large";
    case 505: return "HTTP Version Not Supported";
    default: return "Internal Server Error";
    }
}

bool is_visible(std::string_view word) noexcept {
    return !word.empty() && std::ranges::all_of(word, [](char c) { return c > ' ' && c < 127; });
}

}  // namespace

std::optional<http_request> read_http_request(std::string_view text) noexcept {
    const auto end = text.find("\r\n\r\n");
    if (end == text.npos) {
        return text.size() < http_head_max ? std::nullopt : std::optional(http_request{.error = 431});
    }
    const auto line = text.substr(0, text.find("\r\n"));
    const auto first = line.find(' '), last = line.rfind(' ');
    if (first == line.npos || first == last) {
        return http_request{.error = 400};
    }
    const auto method = line.substr(0, first), target = line.substr(first + 1, last - first - 1),
               version = line.substr(last + 1);
    if (!is_visible(method) || !is_visible(target) || !target.starts_with('/')) {
        return http_request{.error = 400};
    }
    if (version != "HTTP/1.1" && version != "HTTP/1.0") {
        return http_request{.error = version.starts_with("HTTP/") ? 505 : 400};
    }
    if (method != "GET" && method != "HEAD") {
        return http_request{.error = 405};
    }
    return http_request{.head = method == "HEAD", .path = target.substr(0, target.find('?'))};
}

std::string http_answer(int status, std::string_view type, std::string_view body, bool head_only) {
    std::string out = "HTTP/1.1 " + std::to_string(status) + " ";
    out += reason(status);
    out += "\r\nContent-Type: ";
    out += type;
    out += "\r\nContent-Length: " + std::to_string(body.size());
    out += "\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n";
    out += status == 405 ? "Allow: GET, HEAD\r\n\r\n" : "\r\n";
    if (!head_only) {
        out += body;
    }
    return out;
}

}  // namespace vmsgr::daemon
