// Strangers that have connected and not yet shown that they are peers: how many at once, in all and from one source.
// Who comes is always let in, and the oldest of whoever has the most leaves: an honest peer shows who it is within
// moments, so nobody keeps others out by connecting and waiting. Hosts that the configuration names have places of
// their own, which strangers do not take. Any thread; one owner.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>

#include "base/address.hh"

namespace vmsgr::trunk {

inline constexpr unsigned greetings_max = 256;  // of named hosts, and again of strangers
inline constexpr unsigned greetings_per_source_max = 64;  // a peer has one connection for each of its shards

class admission {
    struct source {
        base::prefix from;
        bool named = false;
        auto operator<=>(const source&) const = default;
    };
    std::map<uint64_t, source> _all;  // by id: the oldest first
    std::map<source, std::set<uint64_t>> _of;  // sources with at least one
    unsigned _named = 0;
    uint64_t _last_id = 0;

public:
    struct entered {
        uint64_t id = 0;
        std::optional<uint64_t> leaves;  // has no place any more; its leave() does nothing
    };
    entered enter(const base::address& from, bool named);
    void leave(uint64_t id) noexcept;
    size_t all() const noexcept { return _all.size(); }

    // Whom an address belongs to: an IPv4 address is one source, of IPv6 the /64 that one host may use as it likes.
    static base::prefix source_of(const base::address& from) noexcept;

private:
    // Who makes room for one more of this source; none: there is room.
    std::optional<uint64_t> who_leaves(const source& s) const;
};

}  // namespace vmsgr::trunk
