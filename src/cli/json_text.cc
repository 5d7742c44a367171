#include "cli/json_text.hh"

#include <nlohmann/json.hpp>
#include <utility>

namespace vmsgr::cli {

namespace {

constexpr bool is_blank(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

std::string_view without_blanks(std::string_view text) {
    while (!text.empty() && is_blank(text.front())) {
        text.remove_prefix(1);
    }
    return text;
}

// Where a string that begins here ends, behind its quote.
size_t string_end(std::string_view text) {
    for (size_t at = 1; at < text.size(); ++at) {
        if (text[at] == '"') {
            return at + 1;
        }
        at += text[at] == '\\' ? 1u : 0u;
    }
    return text.size();
}

// Where a value that begins here ends.
size_t value_end(std::string_view text) {
    size_t at = 0;
    for (size_t depth = 0; at < text.size();) {
        switch (text[at]) {
        case '"': at += string_end(text.substr(at)); break;
        case '{':
        case '[':
            ++depth;
            ++at;
            break;
        case '}':
        case ']':
            if (depth == 0) {
                return at;
            }
            --depth;
            ++at;
            break;
        case ',':
            if (depth == 0) {
                return at;
            }
            ++at;
            break;
        default: ++at;
        }
        if (depth == 0 && (text[at - 1] == '"' || text[at - 1] == '}' || text[at - 1] == ']')) {
            return at;
        }
    }
    return at;
}

}  // namespace

json_walk::json_walk(std::string_view text) : _left(without_blanks(text)), _of_object(_left.starts_with('{')) {
    if (_of_object || _left.starts_with('[')) {
        _left.remove_prefix(1);
    } else {
        _left = {};
    }
}

bool json_walk::next() {
    if (!std::exchange(_first, false) && !take(',')) {
        return false;
    }
    _left = without_blanks(_left);
    if (_of_object) {
        if (!_left.starts_with('"')) {
            return false;
        }
        const auto quoted = take_value();
        key = quoted.substr(1, quoted.size() - std::min<size_t>(quoted.size(), 2));
        if (!take(':')) {
            return false;
        }
    }
    value = take_value();
    return !value.empty();
}

bool json_walk::take(char c) {
    _left = without_blanks(_left);
    if (!_left.starts_with(c)) {
        return false;
    }
    _left.remove_prefix(1);
    return true;
}

std::string_view json_walk::take_value() {
    _left = without_blanks(_left);
    auto text = _left.substr(0, value_end(_left));
    _left.remove_prefix(text.size());
    while (!text.empty() && is_blank(text.back())) {
        text.remove_suffix(1);
    }
    return text;
}

std::string_view member_of(std::string_view object, std::string_view key) {
    for (json_walk members(object); members.next();) {
        if (members.key == key) {
            return members.value;
        }
    }
    return {};
}

std::string shown_member(std::string_view object, std::string_view key) { return shown(member_of(object, key)); }

std::string shown(std::string_view value) {
    if (value.empty() || value == "null") {
        return "-";
    }
    if (!value.starts_with('"')) {
        return std::string(value);
    }
    if (value.find('\\') == value.npos) {
        return std::string(value.substr(1, value.size() - 2));
    }
    const auto text = nlohmann::json::parse(value, nullptr, false);
    return text.is_string() ? text.get<std::string>() : "-";
}

std::string indented(std::string_view text) {
    constexpr size_t step = 2;
    std::string out;
    out.reserve(text.size() * 2);
    size_t depth = 0;
    const auto new_line = [&] { out.append(1, '\n').append(depth * step, ' '); };
    for (text = without_blanks(text); !text.empty(); text = without_blanks(text)) {
        size_t taken = 1;
        const char c = text.front();
        if (c == '{' || c == '[') {
            const auto rest = without_blanks(text.substr(1));
            out += c;
            if (rest.starts_with('}') || rest.starts_with(']')) {
                out += rest.front();
                taken = size_t(rest.data() - text.data()) + 1;
            } else {
                ++depth;
                new_line();
            }
        } else if (c == '}' || c == ']') {
            depth -= depth == 0 ? 0 : 1;
            new_line();
            out += c;
        } else if (c == ',') {
            out += c;
            new_line();
        } else if (c == ':') {
            out += ": ";
        } else {
            taken = c == '"' ? string_end(text) : std::min(text.find_first_of(",:]} \t\r\n"), text.size());
            out += text.substr(0, taken);
        }
        text.remove_prefix(taken);
    }
    return out;
}

}  // namespace vmsgr::cli
