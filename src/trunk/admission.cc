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

bool admission::enter(const base::address& from) {
    if (_all == greetings_max) {
        return false;
    }
    auto& n = _from[source_of(from)];
    if (n == greetings_per_source_max) {
        return false;
    }
    ++n;
    ++_all;
    return true;
}

void admission::leave(const base::address& from) noexcept {
    if (auto at = _from.find(source_of(from)); at != _from.end()) {
        --_all;
        if (--at->second == 0) {
            _from.erase(at);
        }
    }
}

}  // namespace vmsgr::trunk
