#include "cli/table.hh"

#include <algorithm>
#include <cstdio>

namespace vmsgr::cli {

table::table(std::initializer_list<std::string_view> titles) {
    for (auto t : titles) {
        bool right = t.starts_with('>');
        _columns.push_back({std::string(t.substr(right ? 1 : 0)), right});
    }
}

std::string table::text() const {
    std::vector<size_t> width;
    for (size_t c = 0; c < _columns.size(); ++c) {
        size_t w = _columns[c].title.size();
        for (const auto& row : _rows) {
            w = std::max(w, row[c].size());
        }
        width.push_back(w);
    }
    std::string out;
    auto add = [&](auto&& cell) {
        for (size_t c = 0; c < _columns.size(); ++c) {
            const std::string& text = cell(c);
            const size_t fill = width[c] - text.size();
            out.append(c == 0 ? 0 : 1, ' ');
            _columns[c].right ? out.append(fill, ' ').append(text) : out.append(text).append(fill, ' ');
        }
        out.erase(out.find_last_not_of(' ') + 1);
        out += '\n';
    };
    add([&](size_t c) -> const std::string& { return _columns[c].title; });
    for (const auto& row : _rows) {
        add([&](size_t c) -> const std::string& { return row[c]; });
    }
    return out;
}

std::string bytes_text(uint64_t bytes) {
    constexpr const char* units[] = {"", "K", "M", "G", "T", "P", "E"};
    double n = double(bytes);
    size_t unit = 0;
    while (n >= 999.5 && unit + 1 < std::size(units)) {
        n /= 1024;
        ++unit;
    }
    char buf[32];
    snprintf(buf, sizeof buf, unit == 0 || n >= 9.95 ? "%.0f%s" : "%.1f%s", n, units[unit]);
    return buf;
}

std::string seconds_text(double seconds) {
    auto s = uint64_t(seconds < 0 ? 0 : seconds);
    char buf[48];
    if (s < 60) {
        snprintf(buf, sizeof buf, "%lus", s);
    } else if (s < 3600) {
        snprintf(buf, sizeof buf, "%lum%02lus", s / 60, s % 60);
    } else if (s < 86400) {
        snprintf(buf, sizeof buf, "%luh%02lum", s / 3600, s % 3600 / 60);
    } else {
        snprintf(buf, sizeof buf, "%lud%02luh", s / 86400, s % 86400 / 3600);
    }
    return buf;
}

}  // namespace vmsgr::cli
