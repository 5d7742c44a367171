#include "base/address.hh"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include <algorithm>
#include <charconv>
#include <cstdio>

namespace vmsgr::base {

namespace {

constexpr std::array<uint8_t, 12> mapped_prefix{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

bool is_mapped(const address& a) noexcept {
    return a.family == AF_INET6 && std::equal(mapped_prefix.begin(), mapped_prefix.end(), a.ip.begin());
}

// inet_pton wants an ended string; text longer than any address is none.
bool to_ip(std::string_view text, int family, uint8_t* out) noexcept {
    char buf[INET6_ADDRSTRLEN + 1];
    if (text.empty() || text.size() >= sizeof buf) {
        return false;
    }
    memcpy(buf, text.data(), text.size());
    buf[text.size()] = 0;
    return ::inet_pton(family, buf, out) == 1;
}

template <typename Int>
bool to_number(std::string_view text, Int max, Int& out) noexcept {
    auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), out);
    return ec == std::errc{} && end == text.data() + text.size() && out <= max;
}

}  // namespace

bool address::is_loopback() const noexcept {
    address a = unmapped();
    if (a.family == AF_INET) {
        return a.ip[0] == 127;
    }
    return a.family == AF_INET6 && a.ip == loopback(AF_INET6, 0).ip;
}

bool address::names_one_host() const noexcept {
    address a = unmapped();
    if (a.is_any()) {
        return false;
    }
    if (a.family == AF_INET) {
        const bool broadcast = std::all_of(a.ip.begin(), a.ip.begin() + 4, [](uint8_t b) { return b == 0xff; });
        return !broadcast && (a.ip[0] & 0xf0) != 0xe0;
    }
    return a.family == AF_INET6 && a.ip[0] != 0xff;
}

address loopback(uint16_t family, uint16_t port) noexcept {
    address a{family, port, 0, {}};
    if (family == AF_INET) {
        a.ip[0] = 127;
        a.ip[3] = 1;
    } else {
        a.ip[15] = 1;
    }
    return a;
}

address address::unmapped() const noexcept {
    if (!is_mapped(*this)) {
        return *this;
    }
    address a{AF_INET, port, 0, {}};
    std::copy(ip.begin() + 12, ip.end(), a.ip.begin());
    return a;
}

address address::mapped() const noexcept {
    if (family != AF_INET) {
        return *this;
    }
    address a{AF_INET6, port, 0, {}};
    std::copy(mapped_prefix.begin(), mapped_prefix.end(), a.ip.begin());
    std::copy(ip.begin(), ip.begin() + 4, a.ip.begin() + 12);
    return a;
}

bool address::is_any() const noexcept {
    return std::all_of(ip.begin(), ip.end(), [](uint8_t b) { return b == 0; });
}

std::optional<address> from_sockaddr(const sockaddr* sa, socklen_t len) noexcept {
    if (sa == nullptr || len < sizeof(sa_family_t) || len > sizeof(sockaddr_storage)) {
        return std::nullopt;  // too long for the kernel, too
    }
    address a;
    if (sa->sa_family == AF_INET && len >= sizeof(sockaddr_in)) {
        sockaddr_in in;
        memcpy(&in, sa, sizeof in);
        a.family = AF_INET;
        a.port = ntohs(in.sin_port);
        memcpy(a.ip.data(), &in.sin_addr, 4);
        return a;
    }
    if (sa->sa_family == AF_INET6 && len >= sizeof(sockaddr_in6) - sizeof(uint32_t)) {
        sockaddr_in6 in6{};
        memcpy(&in6, sa, std::min<size_t>(len, sizeof in6));
        a.family = AF_INET6;
        a.port = ntohs(in6.sin6_port);
        a.scope_id = in6.sin6_scope_id;
        memcpy(a.ip.data(), &in6.sin6_addr, 16);
        return a;
    }
    return std::nullopt;
}

socklen_t to_sockaddr(const address& a, sockaddr_storage& ss) noexcept {
    memset(&ss, 0, sizeof ss);
    if (a.family == AF_INET) {
        sockaddr_in in{};
        in.sin_family = AF_INET;
        in.sin_port = htons(a.port);
        memcpy(&in.sin_addr, a.ip.data(), 4);
        memcpy(&ss, &in, sizeof in);
        return sizeof in;
    }
    if (a.family == AF_INET6) {
        sockaddr_in6 in6{};
        in6.sin6_family = AF_INET6;
        in6.sin6_port = htons(a.port);
        in6.sin6_scope_id = a.scope_id;
        memcpy(&in6.sin6_addr, a.ip.data(), 16);
        memcpy(&ss, &in6, sizeof in6);
        return sizeof in6;
    }
    return 0;
}

std::string_view format(const address& a, char* buf) noexcept {
    char ip[INET6_ADDRSTRLEN];
    int n = 0;
    if (a.family == AF_INET && ::inet_ntop(AF_INET, a.ip.data(), ip, sizeof ip)) {
        n = snprintf(buf, address_text_bytes, "%s:%u", ip, unsigned(a.port));
    } else if (a.family == AF_INET6 && ::inet_ntop(AF_INET6, a.ip.data(), ip, sizeof ip)) {
        n = snprintf(buf, address_text_bytes, "[%s]:%u", ip, unsigned(a.port));
    } else {
        n = snprintf(buf, address_text_bytes, "-");
    }
    return {buf, size_t(n)};
}

std::string to_string(const address& a) {
    char buf[address_text_bytes];
    return std::string(format(a, buf));
}

std::optional<address> parse_address(std::string_view text) noexcept {
    address a;
    std::string_view ip = text, port;
    if (text.starts_with('[')) {
        auto end = text.find(']');
        if (end == text.npos) {
            return std::nullopt;
        }
        ip = text.substr(1, end - 1);
        auto rest = text.substr(end + 1);
        if (!rest.empty() && !rest.starts_with(':')) {
            return std::nullopt;
        }
        port = rest.empty() ? rest : rest.substr(1);
        if (!rest.empty() && port.empty()) {
            return std::nullopt;
        }
    } else if (std::ranges::count(text, ':') == 1) {
        auto colon = text.find(':');
        ip = text.substr(0, colon);
        port = text.substr(colon + 1);
        if (port.empty()) {
            return std::nullopt;
        }
    }
    if (to_ip(ip, AF_INET, a.ip.data())) {
        a.family = AF_INET;
    } else if (to_ip(ip, AF_INET6, a.ip.data())) {
        a.family = AF_INET6;
    } else {
        return std::nullopt;
    }
    if (!port.empty() && !to_number<uint16_t>(port, 65535, a.port)) {
        return std::nullopt;
    }
    return a;
}

bool prefix::contains(const address& a) const noexcept {
    if (family == 0) {
        return true;
    }
    const uint8_t* other = a.ip.data();
    uint16_t other_family = a.family;
    if (family == AF_INET && is_mapped(a)) {
        other += mapped_prefix.size();
        other_family = AF_INET;
    }
    if (other_family != family) {
        return false;
    }
    size_t whole = bits / 8;
    if (memcmp(ip.data(), other, whole) != 0) {
        return false;
    }
    unsigned rest = bits % 8;
    return rest == 0 || ((ip[whole] ^ other[whole]) >> (8 - rest)) == 0;
}

std::optional<prefix> parse_prefix(std::string_view text) noexcept {
    prefix p;
    if (text.empty() || text == "*") {
        return p;
    }
    auto slash = text.find('/');
    auto ip = text.substr(0, slash);
    unsigned max = 0;
    if (to_ip(ip, AF_INET, p.ip.data())) {
        p.family = AF_INET;
        max = 32;
    } else if (to_ip(ip, AF_INET6, p.ip.data())) {
        p.family = AF_INET6;
        max = 128;
    } else {
        return std::nullopt;
    }
    unsigned bits = max;
    if (slash != text.npos && !to_number<unsigned>(text.substr(slash + 1), max, bits)) {
        return std::nullopt;
    }
    p.bits = uint8_t(bits);
    return p;
}

std::string to_string(const prefix& p) {
    if (p.family == 0) {
        return "*";
    }
    char ip[INET6_ADDRSTRLEN];
    ::inet_ntop(p.family, p.ip.data(), ip, sizeof ip);
    return std::string(ip) + "/" + std::to_string(p.bits);
}

}  // namespace vmsgr::base
