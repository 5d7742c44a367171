#include "trunks/shares.hh"

#include <algorithm>

namespace vmsgr::trunks {

peer_share peer_shares::find(const std::string& identity, uint64_t limit) {
    auto at = _all.find(identity);
    if (at == _all.end()) {
        if (_all.size() >= _sweep_at) {
            std::erase_if(_all, [](auto& entry) { return entry.second.use_count() == 1; });
            _sweep_at = std::max<size_t>(64, 2 * _all.size());
        }
        at = _all.emplace(identity, std::make_shared<conn::usage>(limit)).first;
    }
    return at->second;
}

}  // namespace vmsgr::trunks
