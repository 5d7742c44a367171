#include "daemon/http.hh"

#include <algorithm>

#include "base/text.hh"

namespace vmsgr::daemon {

namespace {

std::string_view reason(int status) {
    switch (status) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
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

// Of the first header of that name, without the blanks around it; lines: what follows the first one.
std::string_view header(std::string_view lines, std::string_view name) noexcept {
    while (!lines.empty()) {
        const auto line = lines.substr(0, lines.find("\r\n"));
        const auto colon = line.find(':');
        if (colon != line.npos && base::same_name(line.substr(0, colon), name)) {
            const auto value = line.substr(colon + 1);
            const auto first = value.find_first_not_of(" \t"), last = value.find_last_not_of(" \t");
            return first == value.npos ? std::string_view() : value.substr(first, last - first + 1);
        }
        lines.remove_prefix(std::min(line.size() + 2, lines.size()));
    }
    return {};
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
    constexpr std::string_view scheme = "Bearer ";
    const auto credentials = header(text.substr(0, end).substr(line.size()), "authorization");
    return http_request{
        .head = method == "HEAD",
        .path = target.substr(0, target.find('?')),
        .key = credentials.starts_with(scheme) ? credentials.substr(scheme.size()) : std::string_view()};
}

std::string http_answer(const http_reply& how, std::string_view body, bool head_only) {
    std::string out = "HTTP/1.1 " + std::to_string(how.status) + " ";
    out += reason(how.status);
    out += "\r\nContent-Type: ";
    out += how.type;
    out += "\r\nContent-Length: " + std::to_string(body.size());
    out += "\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n";
    if (!how.policy.empty()) {
        out += "Referrer-Policy: no-referrer\r\nContent-Security-Policy: ";
        out += how.policy;
        out += "\r\n";
    }
    out += how.status == 405   ? "Allow: GET, HEAD\r\n\r\n"
           : how.status == 401 ? "WWW-Authenticate: Bearer\r\n\r\n"
                               : "\r\n";
    if (!head_only) {
        out += body;
    }
    return out;
}

}  // namespace vmsgr::daemon
