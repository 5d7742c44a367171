#include "trunk/admission.hh"

#include <algorithm>

namespace vmsgr::trunk {

namespace {

constexpr uint8_t v4_bits = 32, v6_source_bits = 64;

}  // namespace

base::prefix admission::source_of(const base::address& from) noexcept {
    const base::address a = from.unmapped();
    const uint8_t bits = a.family == AF_INET ? v4_bits : v6_source_bits;
    base::prefix p{a.family, bits, {}};
    std::copy_n(a.ip.begin(), bits / 8, p.ip.begin());
    return p;
}

std::optional<uint64_t> admission::who_leaves(const source& s) const {
    if (auto own = _of.find(s); own != _of.end() && own->second.size() >= greetings_per_source_max) {
        return *own->second.begin();
    }
    if ((s.named ? _named : _all.size() - _named) < greetings_max) {
        return std::nullopt;
    }
    const std::set<uint64_t>* most = nullptr;
    for (auto& [who, ids] : _of) {
        if (who.named == s.named && (most == nullptr || ids.size() > most->size())) {
            most = &ids;
        }
    }
    return *most->begin();
}

admission::entered admission::enter(const base::address& from, bool named) {
    const source s{source_of(from), named};
    entered out;
    out.leaves = who_leaves(s);
    if (out.leaves) {
        leave(*out.leaves);
    }
    out.id = ++_last_id;
    _all.emplace(out.id, s);
    _of[s].insert(out.id);
    _named += named ? 1u : 0u;
    return out;
}

void admission::leave(uint64_t id) noexcept {
    const auto at = _all.find(id);
    if (at == _all.end()) {
        return;
    }
    _named -= at->second.named ? 1u : 0u;
    const auto own = _of.find(at->second);
    own->second.erase(id);
    if (own->second.empty()) {
        _of.erase(own);
    }
    _all.erase(at);
}

}  // namespace vmsgr::trunk
