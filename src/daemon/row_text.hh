// A row of a long list of the status document: a JSON object that is written field by field. A tree of values for each
// row, made and thrown away, costs several times as much. Any thread.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <concepts>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "base/address.hh"

namespace vmsgr::daemon {

// Names of fields are our own, and need no escapes.
class row_text {
    std::string& _out;
    bool _first = true;

public:
    explicit row_text(std::string& out) : _out(out) { _out += '{'; }
    void end() { _out += '}'; }

    row_text& add(std::string_view name, std::string_view value) {
        begin(name);
        put(value);
        return *this;
    }
    row_text& add(std::string_view name, const base::address& value) {
        char text[base::address_text_bytes];
        return add(name, base::format(value, text));
    }
    row_text& add(std::string_view name, std::integral auto value) {
        begin(name);
        if constexpr (std::same_as<decltype(value), bool>) {
            _out += value ? "true" : "false";
        } else {
            char text[24];
            _out.append(text, std::to_chars(text, std::end(text), value).ptr);
        }
        return *this;
    }
    // Null where that is no number of seconds: some are of a program's making.
    row_text& add_seconds(std::string_view name, double s, int digits) {
        char text[32];
        const auto done = std::to_chars(text, std::end(text), s, std::chars_format::fixed, digits);
        if (done.ec != std::errc{} || !std::isfinite(s)) {
            return add_null(name);
        }
        begin(name);
        _out.append(text, done.ptr);
        return *this;
    }
    row_text& add_null(std::string_view name) {
        begin(name);
        _out += "null";
        return *this;
    }
    // An object, to be ended before anything else is added here.
    row_text open(std::string_view name) {
        begin(name);
        return row_text(_out);
    }

private:
    void begin(std::string_view name) {
        _out += std::exchange(_first, false) ? "\"" : ",\"";
        _out += name;
        _out += "\":";
    }
    void put(std::string_view text) {
        const bool plain = std::ranges::all_of(text,
                                               [](char c) { return c >= ' ' && c < 127 && c != '"' && c != '\\'; });
        if (!plain) {
            _out += nlohmann::json(text).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
            return;
        }
        _out += '"';
        _out += text;
        _out += '"';
    }
};

}  // namespace vmsgr::daemon
