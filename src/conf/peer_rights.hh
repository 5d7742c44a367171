// What the configuration gives a peer that has shown who it is: the source addresses that its programs may have, and
// the addresses of this host that they may reach. A peer that no entry of `trunks` names may claim the one address from
// which it has connected. Whether an address is this host's own is the caller's to ask. Any thread.
#pragma once

#include <span>
#include <string>

#include "conf/trunks.hh"

namespace vmsgr::conf {

// Who it is: by its certificate's names with TLS, else by the address from which it has connected.
struct peer_identity {
    std::span<const std::string> names;  // none without TLS
    base::address from;
    bool secured = false;
};

// An entry of `trunks` with that name or, without TLS, that address.
bool is_named(const trunk_config& c, const peer_identity& who) noexcept;
bool may_claim(const trunk_config& c, const peer_identity& who, const base::address& source) noexcept;
bool may_reach(const trunk_config& c, const peer_identity& who, const base::address& destination) noexcept;

// What these trunks believe, for people: one sentence, in the log and in status.
std::string trusts(const trunk_config& c);

}  // namespace vmsgr::conf
