#include "daemon/page_keys.hh"

#include <algorithm>
#include <array>

#include "base/random.hh"

namespace vmsgr::daemon {

namespace {

// As long for a wrong key as for one that is nearly right.
bool is_same(std::string_view a, std::string_view b) noexcept {
    unsigned differ = a.size() != b.size();
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
        differ |= unsigned(a[i] ^ b[i]);
    }
    return differ == 0;
}

std::string make_key() {
    std::array<unsigned char, 16> bytes{};
    base::random_bytes(bytes.data(), bytes.size());
    std::string out;
    for (const unsigned char b : bytes) {
        out += "0123456789abcdef"[b >> 4];
        out += "0123456789abcdef"[b & 15];
    }
    return out;
}

}  // namespace

void page_keys::forget_old(const conf::access_config& rules, int64_t now_ms) {
    if (rules != _rules) {
        _given.clear();
        _rules = rules;
    }
    while (!_given.empty() && _given.front().until_ms <= now_ms) {
        _given.pop_front();
    }
}

std::string page_keys::give(const attach::viewer& to, const conf::access_config& rules, int64_t now_ms) {
    forget_old(rules, now_ms);
    auto is_his = [&](const given& g) { return g.to.uid == to.uid; };
    if (size_t(std::ranges::count_if(_given, is_his)) >= keys_of_user_max) {
        _given.erase(std::ranges::find_if(_given, is_his));
    } else if (_given.size() >= keys_max) {
        _given.pop_front();
    }
    return _given.emplace_back(make_key(), to, now_ms + key_ms).key;
}

std::optional<attach::viewer> page_keys::owner(std::string_view key, const conf::access_config& rules, int64_t now_ms) {
    forget_old(rules, now_ms);
    const auto at = std::ranges::find_if(_given, [&](const given& g) { return is_same(g.key, key); });
    return at == _given.end() ? std::nullopt : std::optional(at->to);
}

}  // namespace vmsgr::daemon
