// The daemon's status document, and careful access to it: a key that an older or newer daemon lacks reads as empty.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.hh"

namespace vmsgr::cli {

using json = nlohmann::json;

// Where shards of the daemon are stopped, or it does not answer within query_timeout_ms, what the page of counters has
// of it (cli/stats.hh); then "partial" is true.
// brief: what connections add up to, and no list of them, which may be long.
base::result<json> ask_status(const std::string& socket, bool brief = false);
// The same as text, one object.
base::result<std::string> ask_status_text(const std::string& socket, bool brief = false);

// The same with its longest list apart, whose rows stay text (cli/json_text.hh).
struct listed_status {
    std::unique_ptr<const std::string> text;
    std::vector<std::string_view> connections;  // of the text
    json rest = json::object();                 // all but them
};
base::result<listed_status> ask_listed_status(const std::string& socket, bool brief = false);

std::string text_of(const json& object, const char* key);
uint64_t number_of(const json& object, const char* key);
// The array under key, or an empty one.
const json& list_of(const json& object, const char* key);
const json& object_of(const json& object, const char* key);
// The process has a session.
bool is_attached(const json& doc, pid_t pid);
// On stdout. Bytes that are no UTF-8 are replaced.
void put_json(const json& j);

// After a table of what the daemon shows to this user: that there may be more. Nothing where it shows all.
void say_what_is_shown(const json& doc);

}  // namespace vmsgr::cli
