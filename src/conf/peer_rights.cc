#include "conf/peer_rights.hh"

#include <algorithm>

#include "base/text.hh"

namespace vmsgr::conf {

namespace {

bool is_in(const base::address& a, std::span<const base::prefix> list) noexcept {
    return std::ranges::any_of(list, [&](const base::prefix& p) { return p.contains(a); });
}

bool is_it(const trunk_peer& p, const peer_identity& who) noexcept {
    if (who.secured) {
        return std::ranges::any_of(who.names, [&](const std::string& n) { return base::same_name(n, p.name); });
    }
    return is_in(who.from, p.sources);
}

}  // namespace

bool is_named(const trunk_config& c, const peer_identity& who) noexcept {
    return std::ranges::any_of(c.peers, [&](const trunk_peer& p) { return is_it(p, who); });
}

bool may_claim(const trunk_config& c, const peer_identity& who, const base::address& source) noexcept {
    if (!source.names_one_host() || source.is_loopback()) {
        return false;
    }
    if (!is_named(c, who)) {
        return whole(source.unmapped()) == whole(who.from.unmapped());
    }
    return std::ranges::any_of(c.peers, [&](const trunk_peer& p) { return is_it(p, who) && is_in(source, p.sources); });
}

bool may_reach(const trunk_config& c, const peer_identity& who, const base::address& destination) noexcept {
    if (!destination.names_one_host() || destination.is_loopback()) {
        return false;
    }
    // An entry's own list takes the place of the one for all.
    bool own_list = false;
    for (auto& p : c.peers) {
        if (!p.serves.empty() && is_it(p, who)) {
            own_list = true;
            if (is_in(destination, p.serves)) {
                return true;
            }
        }
    }
    return !own_list && (c.serves.empty() || is_in(destination, c.serves));
}

std::string trusts(const trunk_config& c) {
    if (!c.tls.on()) {
        std::string from;
        for (auto& p : c.accept_from) {
            from += (from.empty() ? "" : ", ") + base::to_string(p);
        }
        return "plain: whoever can send from " + (from.empty() ? "the address of a peer" : from) +
               " is believed to be that host, and the network can read and change all bytes; trunk.tls stops both";
    }
    std::string names;
    for (auto& n : c.tls.names) {
        names += (names.empty() ? "" : ", ") + n;
    }
    return "TLS: " +
           (names.empty() ? "every certificate of " + c.tls.ca : "certificates of " + c.tls.ca + " for " + names) +
           (c.tls.crl.empty() ? ", revoked or not" : ", unless revoked");
}

}  // namespace vmsgr::conf
