// Routes: first match wins, no match means posix. A table is a plain value of fixed size, so that the preload
// library can hold and match it without allocating. Any thread; a table is not changed once it is in use.
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <string>
#include <string_view>

#include "base/address.hh"
#include "base/error.hh"

namespace vmsgr::proto {

enum class role : uint8_t { client = 0, server = 1, any = 2 };
// local: memory where both ends are programs of one daemon, else as posix.
enum class via : uint8_t { posix = 0, direct = 1, trunk = 2, deny = 3, local = 4 };
enum class fallback : uint8_t { posix = 0, fail = 1 };
// What a connect of a route via: trunk does while there is no trunk. unset: the daemon's default (docs/PROTOCOL.md, 2).
enum class without_trunk : uint8_t { unset = 0, wait = 1, fail = 2, direct = 3 };

inline constexpr size_t route_name_bytes = 32;  // with the ending NUL
inline constexpr size_t route_program_bytes = 64;  // with the ending NUL
inline constexpr size_t routes_max = 64;

struct route {
    std::array<char, route_name_bytes> name{};
    std::array<char, route_program_bytes> program{'*'};  // glob on the program's basename
    role who = role::any;
    base::prefix addresses;
    uint16_t port_first = 0;
    uint16_t port_last = 65535;
    via way = via::posix;
    fallback without_daemon = fallback::posix;
    proto::without_trunk without_trunk = proto::without_trunk::unset;
    bool local = true;  // memory to memory, where both ends are programs of one daemon

    std::string_view name_text() const noexcept { return name.data(); }
    std::string_view program_text() const noexcept { return program.data(); }
    // Is anything carried that it matches?
    bool carries() const noexcept { return way != via::posix && way != via::deny; }
    bool matches_program(std::string_view basename) const noexcept;
    // It says itself that no connection goes another way than by trunk.
    bool only_by_trunk() const noexcept {
        using enum proto::without_trunk;
        return way == via::trunk && (without_trunk == wait || without_trunk == fail);
    }
    // `who` is client (a is the peer) or server (a is the local address that is listened on). A listener on a
    // wildcard address matches every prefix of its family (:: those of both), as it accepts from all of them.
    bool matches(std::string_view basename, role who, const base::address& a) const noexcept;
};

struct route_table {
    uint32_t count = 0;
    std::array<route, routes_max> routes{};

    const route* begin() const noexcept { return routes.data(); }
    const route* end() const noexcept { return routes.data() + count; }
    // The first match, or null: posix.
    const route* match(std::string_view basename, role who, const base::address& a) const noexcept;
    // Can this program meet any route that is not posix? If not, the library stays inert in it.
    bool concerns(std::string_view basename) const noexcept;
};

std::string_view to_text(role) noexcept;
std::string_view to_text(via) noexcept;
std::string_view to_text(fallback) noexcept;
std::string_view to_text(without_trunk) noexcept;
std::optional<role> parse_role(std::string_view) noexcept;
std::optional<via> parse_via(std::string_view) noexcept;
std::optional<fallback> parse_fallback(std::string_view) noexcept;
std::optional<without_trunk> parse_without_trunk(std::string_view) noexcept;

// May stand in a route's name or program: no spaces, no ';', not empty, short enough.
bool valid_word(std::string_view text, size_t bytes) noexcept;

// The compact form in which `vmsgr run` hands routes to the library ($VMSGR_ROUTES):
// "name program role prefix first-last via fallback[ remote][ wait|fail|direct];..." parse allocates nothing.
std::string to_text(const route_table&);
bool parse_routes(std::string_view text, route_table& out) noexcept;

}  // namespace vmsgr::proto
