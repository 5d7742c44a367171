// Socket addresses and prefixes as plain values that can lie in shared memory and in messages.
// Any thread; nothing here allocates unless it returns std::string.
#pragma once

#include <sys/socket.h>

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace vmsgr::base {

// An IPv4 or IPv6 address with its port. All zero: none.
struct address {
    uint16_t family = 0;             // AF_INET, AF_INET6 or 0
    uint16_t port = 0;               // host byte order
    uint32_t scope_id = 0;           // IPv6 link-local only
    std::array<uint8_t, 16> ip{};    // network byte order; IPv4 in the first four

    bool operator==(const address&) const = default;
    bool is_any() const noexcept;    // 0.0.0.0 or ::
    bool is_loopback() const noexcept;  // 127.0.0.0/8 or ::1, mapped too
    // Neither a wildcard nor a multicast nor the broadcast address, mapped too; false for none.
    bool names_one_host() const noexcept;
    // An IPv4-mapped IPv6 address as the IPv4 address that it is, and the way back; others as they are.
    address unmapped() const noexcept;
    address mapped() const noexcept;
};
static_assert(sizeof(address) == 24);

// 127.0.0.1 or ::1.
address loopback(uint16_t family, uint16_t port) noexcept;

// What a sockaddr says; nothing for other families or a length too short for its family.
std::optional<address> from_sockaddr(const sockaddr* sa, socklen_t len) noexcept;

// Fills ss and returns the length that the kernel would give; 0 where the address is none.
socklen_t to_sockaddr(const address& a, sockaddr_storage& ss) noexcept;

// "127.0.0.1:80", "[::1]:80", "-" for none. buf of address_text_bytes; always ends in NUL; returns the text.
inline constexpr size_t address_text_bytes = 64;
std::string_view format(const address& a, char* buf) noexcept;
std::string to_string(const address& a);

// "ADDR:PORT" or "[ADDR]:PORT"; without a port, port 0.
std::optional<address> parse_address(std::string_view text) noexcept;

// An address prefix such as 10.0.0.0/8. bits counts within the family; family 0 matches everything.
struct prefix {
    uint16_t family = 0;
    uint8_t bits = 0;
    std::array<uint8_t, 16> ip{};

    auto operator<=>(const prefix&) const = default;
    // An IPv4-mapped IPv6 address is matched as the IPv4 address that it is.
    bool contains(const address& a) const noexcept;
};

// "10.0.0.0/8", "::1" (a whole address), "*" or "" (everything).
std::optional<prefix> parse_prefix(std::string_view text) noexcept;
std::string to_string(const prefix& p);

}  // namespace vmsgr::base
