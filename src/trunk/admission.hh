// Strangers that have connected and not yet shown that they are peers: how many at once, in all and from one source, so
// that nobody can keep the others out by connecting often. Any thread; one owner.
#pragma once

#include <map>

#include "base/address.hh"

namespace vmsgr::trunk {

inline constexpr unsigned greetings_max = 256;
inline constexpr unsigned greetings_per_source_max = 64;  // a peer has one connection for each of its shards

class admission {
    std::map<base::prefix, unsigned> _from;  // sources with at least one
    unsigned _all = 0;

public:
    // False: too many already.
    bool enter(const base::address& from);
    // Once for each enter() that said yes.
    void leave(const base::address& from) noexcept;
    unsigned all() const noexcept { return _all; }

    // Whom an address belongs to: an IPv4 address is one source, of IPv6 the /64 that one host may use as it likes.
    static base::prefix source_of(const base::address& from) noexcept;
};

}  // namespace vmsgr::trunk
