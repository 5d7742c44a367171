#include "proto/routes.hh"

#include <fnmatch.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <charconv>

namespace vmsgr::proto {

namespace {

constexpr std::string_view roles[] = {"client", "server", "any"};
constexpr std::string_view vias[] = {"posix", "direct", "trunk", "deny", "local"};
constexpr std::string_view fallbacks[] = {"posix", "fail"};
constexpr std::string_view withouts[] = {"default", "wait", "fail", "direct"};

template <typename E, size_t N>
std::optional<E> find_word(const std::string_view (&words)[N], std::string_view text) noexcept {
    auto at = std::ranges::find(words, text);
    return at == std::end(words) ? std::nullopt : std::optional(E(at - words));
}

template <size_t N>
void copy_word(std::array<char, N>& to, std::string_view from) noexcept {
    to.fill(0);
    memcpy(to.data(), from.data(), std::min(from.size(), N - 1));
}

// The next piece of text up to the separator; text is cut by it.
std::string_view next(std::string_view& text, char separator) noexcept {
    auto at = text.find(separator);
    auto piece = text.substr(0, at);
    text = at == text.npos ? std::string_view{} : text.substr(at + 1);
    return piece;
}

bool parse_port(std::string_view text, uint16_t& out) noexcept {
    auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), out);
    return ec == std::errc{} && end == text.data() + text.size();
}

constexpr std::string_view remote_word = "remote";

// What most routes do not say: each word once.
bool parse_extras(std::string_view text, route& r) noexcept {
    r.local = true;
    r.without_trunk = without_trunk::unset;
    while (!text.empty()) {
        const auto word = next(text, ' ');
        const auto without = parse_without_trunk(word);
        if (word == remote_word && r.local) {
            r.local = false;
        } else if (without && *without != without_trunk::unset && r.without_trunk == without_trunk::unset) {
            r.without_trunk = *without;
        } else {
            return false;
        }
    }
    return true;
}

bool parse_route(std::string_view text, route& r) noexcept {
    auto name = next(text, ' '), program = next(text, ' '), who = next(text, ' '), addresses = next(text, ' '),
         ports = next(text, ' '), way = next(text, ' '), without = next(text, ' ');
    auto first = next(ports, '-');
    auto p = base::parse_prefix(addresses);
    auto ro = parse_role(who);
    auto vi = parse_via(way);
    auto fa = parse_fallback(without);
    if (!valid_word(name, route_name_bytes) || !valid_word(program, route_program_bytes) || !p || !ro || !vi || !fa ||
        !parse_port(first, r.port_first) || !parse_port(ports, r.port_last)) {
        return false;
    }
    copy_word(r.name, name);
    copy_word(r.program, program);
    r.who = *ro;
    r.addresses = *p;
    r.way = *vi;
    r.without_daemon = *fa;
    return parse_extras(text, r);
}

bool wildcard_listener_matches(const base::prefix& p, const base::address& a) noexcept {
    return a.family == AF_INET6 || p.family == a.family;
}

}  // namespace

std::string_view to_text(role r) noexcept { return roles[size_t(r)]; }
std::string_view to_text(via v) noexcept { return vias[size_t(v)]; }
std::string_view to_text(fallback f) noexcept { return fallbacks[size_t(f)]; }
std::string_view to_text(without_trunk w) noexcept { return withouts[size_t(w)]; }
std::optional<role> parse_role(std::string_view t) noexcept { return find_word<role>(roles, t); }
std::optional<via> parse_via(std::string_view t) noexcept { return find_word<via>(vias, t); }
std::optional<fallback> parse_fallback(std::string_view t) noexcept { return find_word<fallback>(fallbacks, t); }
std::optional<without_trunk> parse_without_trunk(std::string_view t) noexcept {
    return find_word<without_trunk>(withouts, t);
}

bool valid_word(std::string_view text, size_t bytes) noexcept {
    return !text.empty() && text.size() < bytes &&
           std::ranges::none_of(text, [](unsigned char c) { return c <= ' ' || c == ';' || c == 127; });
}

bool route::matches_program(std::string_view basename) const noexcept {
    char buf[256];
    if (basename.size() >= sizeof buf) {
        return false;
    }
    memcpy(buf, basename.data(), basename.size());
    buf[basename.size()] = 0;
    return ::fnmatch(program.data(), buf, 0) == 0;
}

bool route::matches(std::string_view basename, role caller, const base::address& a) const noexcept {
    if (who != role::any && who != caller) {
        return false;
    }
    if (a.port < port_first || a.port > port_last) {
        return false;
    }
    bool address_fits = addresses.contains(a) ||
                        (caller == role::server && a.is_any() && wildcard_listener_matches(addresses, a));
    return address_fits && matches_program(basename);
}

const route* route_table::match(std::string_view basename, role caller, const base::address& a) const noexcept {
    auto at = std::find_if(begin(), end(), [&](const route& r) { return r.matches(basename, caller, a); });
    return at == end() ? nullptr : at;
}

bool route_table::concerns(std::string_view basename) const noexcept {
    return std::any_of(begin(), end(),
                       [&](const route& r) { return r.way != via::posix && r.matches_program(basename); });
}

std::string to_text(const route_table& t) {
    std::string out;
    for (const route& r : t) {
        if (!out.empty()) {
            out += ';';
        }
        out += r.name_text();
        out += ' ';
        out += r.program_text();
        out += ' ';
        out += to_text(r.who);
        out += ' ';
        out += base::to_string(r.addresses);
        out += ' ' + std::to_string(r.port_first) + '-' + std::to_string(r.port_last) + ' ';
        out += to_text(r.way);
        out += ' ';
        out += to_text(r.without_daemon);
        if (!r.local) {
            out += ' ';
            out += remote_word;
        }
        if (r.without_trunk != without_trunk::unset) {
            out += ' ';
            out += to_text(r.without_trunk);
        }
    }
    return out;
}

bool parse_routes(std::string_view text, route_table& out) noexcept {
    out.count = 0;
    while (!text.empty()) {
        auto line = next(text, ';');
        if (out.count == routes_max || !parse_route(line, out.routes[out.count])) {
            return false;
        }
        ++out.count;
    }
    return true;
}

}  // namespace vmsgr::proto
