#include "cli/document.hh"

#include <errno.h>

#include <algorithm>
#include <cstdio>

#include "cli/json_text.hh"
#include "cli/query.hh"
#include "cli/stats.hh"

namespace vmsgr::cli {

namespace {

// An object's text with one more member.
std::string with_member(std::string object, const char* key, const json& value) {
    const size_t end = object.find_last_of('}');
    const bool empty = object.find_last_not_of(" {", end - 1) == object.npos;
    return object.insert(end, (empty ? "\"" : ",\"") + std::string(key) + "\":" + value.dump());
}

bool is_object(std::string_view text) { return text.starts_with('{') && text.ends_with('}'); }

}  // namespace

base::result<std::string> ask_status_text(const std::string& socket, bool brief) {
    const auto health = ask_stats(socket, "health");  // none: the daemon may know more
    if (health && is_held(*health)) {
        if (auto text = ask_stats_text(socket, "status"); text && is_object(*text)) {
            return text;
        }
    }
    auto text = ask_daemon(socket, proto::kind::status, brief ? uint32_t(proto::status_brief) : 0);
    if (!text && text.error().errnum == ETIMEDOUT) {  // stopped since, or overloaded
        if (auto doc = ask_stats_text(socket, "status"); doc && is_object(*doc)) {
            return doc;
        }
    }
    if (text && !is_object(*text)) {
        return base::fail(EPROTO, "vmsgrd at " + socket + " answered with a status that is no JSON object");
    }
    return text && health ? with_member(std::move(*text), "shards", list_of(*health, "shards")) : std::move(text);
}

base::result<json> ask_status(const std::string& socket, bool brief) {
    auto text = ask_status_text(socket, brief);
    if (!text) {
        return std::unexpected(text.error());
    }
    json doc = json::parse(*text, nullptr, false);
    if (!doc.is_object()) {
        return base::fail(EPROTO, "vmsgrd at " + socket + " answered with a status that is no JSON object");
    }
    return doc;
}

base::result<listed_status> ask_listed_status(const std::string& socket, bool brief) {
    auto text = ask_status_text(socket, brief);
    if (!text) {
        return std::unexpected(text.error());
    }
    listed_status out;
    out.text = std::make_unique<const std::string>(std::move(*text));
    for (json_walk members(*out.text); members.next();) {
        if (members.key == "connections") {
            for (json_walk rows(members.value); rows.next();) {
                out.connections.push_back(rows.value);
            }
        } else {
            out.rest[std::string(members.key)] = json::parse(members.value, nullptr, false);
        }
    }
    return out;
}

std::string text_of(const json& object, const char* key) {
    auto at = object.is_object() ? object.find(key) : object.end();
    if (at == object.end() || at->is_null()) {
        return "-";
    }
    return at->is_string() ? at->get<std::string>() : at->dump();
}

uint64_t number_of(const json& object, const char* key) {
    auto at = object.is_object() ? object.find(key) : object.end();
    return at == object.end() || !at->is_number() ? 0 : at->get<uint64_t>();
}

const json& list_of(const json& object, const char* key) {
    static const json none = json::array();
    auto at = object.is_object() ? object.find(key) : object.end();
    return at == object.end() || !at->is_array() ? none : *at;
}

const json& object_of(const json& object, const char* key) {
    static const json none = json::object();
    auto at = object.is_object() ? object.find(key) : object.end();
    return at == object.end() || !at->is_object() ? none : *at;
}

bool is_attached(const json& doc, pid_t pid) {
    return std::ranges::any_of(list_of(doc, "sessions"),
                               [pid](const json& s) { return number_of(s, "pid") == uint64_t(pid); });
}

void put_json(const json& j) { puts(j.dump(2, ' ', false, json::error_handler_t::replace).c_str()); }

void say_what_is_shown(const json& doc) {
    if (doc.value("partial", false)) {
        const auto why = held_text(doc);
        printf("\n%s(so this is from the page of counters, without listeners, users and local connections)\n",
               why.empty() ? "vmsgrd did not answer in time, its shards are busy\n" : why.c_str());
    }
    const json& shown = object_of(doc, "shown");
    if (shown.value("all", true)) {
        return;
    }
    const std::string group = text_of(shown, "observers");
    printf("(what belongs to user %s; %s)\n", text_of(shown, "uid").c_str(),
           group == "-" ? "root sees all" : ("root and group " + group + " see all").c_str());
}

}  // namespace vmsgr::cli
