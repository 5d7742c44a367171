// Who may see what on the status page. A browser cannot show who its user is, a client of the status socket can:
// `vmsgr page` asks there for a key, and the page gets what the key's owner gets from `vmsgr status`. Keys are few;
// they end after a day, when newer ones take their place, when the rules of access change, and with the process.
// Single thread.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <string_view>

#include "attach/access.hh"

namespace vmsgr::daemon {

class page_keys {
public:
    static constexpr size_t keys_max = 64, keys_of_user_max = 8;
    static constexpr int64_t key_ms = 24 * 3'600'000;

    // rules: of now.
    std::string give(const attach::viewer& to, const conf::access_config& rules, int64_t now_ms);
    // Nothing where it is no key, or none any more.
    std::optional<attach::viewer> owner(std::string_view key, const conf::access_config& rules, int64_t now_ms);

private:
    struct given {
        std::string key;
        attach::viewer to;
        int64_t until_ms;
    };
    std::deque<given> _given;  // the oldest first
    conf::access_config _rules;  // under which they were given

    void forget_old(const conf::access_config& rules, int64_t now_ms);
};

}  // namespace vmsgr::daemon
