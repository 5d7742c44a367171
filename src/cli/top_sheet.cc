#include "cli/top_sheet.hh"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>

#include "base/text.hh"
#include "cli/stats.hh"
#include "cli/table.hh"

namespace vmsgr::cli {

namespace {

// A stall that is shown in numbers already, but is no news.
constexpr double alarm_stall_s = 1;

char lower(char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; }

bool holds(std::string_view text, std::string_view part) {
    return !std::ranges::search(text, part, {}, lower, lower).empty();
}

double double_of(const json& object, const char* key) {
    const auto at = object.find(key);
    return at != object.end() && at->is_number() ? at->get<double>() : 0;
}

top_cell word(std::string text) { return {std::move(text), 0}; }
top_cell number(const json& object, const char* key) { return {text_of(object, key), double_of(object, key)}; }
top_cell bytes(double n) { return {bytes_text(uint64_t(std::max(0.0, n))), n}; }
top_cell rate(std::optional<double> per_s) { return per_s ? bytes(*per_s) : top_cell{"-", -1}; }
top_cell percent(std::optional<double> part) {
    return part ? top_cell{std::to_string(std::lround(*part * 100)) + "%", *part} : top_cell{"-", -1};
}

// Rows of the earlier look, by what makes them the same.
class earlier {
    std::map<std::string, const json*> _rows;
    double _seconds;

public:
    earlier(const top_look& before, const top_look& now, const char* list,
            const std::function<std::string(const json&)>& key)
        : _seconds(now.at_s - before.at_s) {
        for (const auto& row : list_of(before.document, list)) {
            _rows.emplace(key(row), &row);
        }
    }
    std::optional<double> rate(const std::string& key, const json& row, const char* of) const {
        const auto at = _rows.find(key);
        if (at == _rows.end() || _seconds <= 0) {
            return std::nullopt;
        }
        return std::max(0.0, double_of(row, of) - double_of(*at->second, of)) / _seconds;
    }
};

std::string connection_key(const json& c) {
    const auto id = text_of(c, "id");
    return id != "-" ? id : text_of(c, "session") + text_of(c, "role") + text_of(c, "local") + text_of(c, "peer");
}
std::string trunk_key(const json& t) {
    return text_of(t, "name") + text_of(t, "outgoing") + '/' + text_of(t, "shard") + '/' + text_of(t, "lane");
}
std::string shard_key(const json& s) { return text_of(s, "shard"); }

std::string stall_text(const json& c) {
    const double program = double_of(c, "program_stalls_s"), network = double_of(c, "network_stalls_s");
    if (std::max(program, network) < alarm_stall_s) {
        return "-";
    }
    return program >= network ? "program " + seconds_text(program) : "network " + seconds_text(network);
}

std::optional<double> ring_fill(const json& c) {
    const double ring = double_of(c, "ring_bytes");
    if (ring <= 0) {
        return std::nullopt;
    }
    return std::max(double_of(c, "unread_bytes"), double_of(c, "unsent_bytes")) / ring;
}

top_sheet connections(const top_look& before, const top_look& now) {
    const earlier then(before, now, "connections", connection_key);
    std::map<std::string, std::string> programs;
    for (const auto& s : list_of(now.document, "sessions")) {
        programs[text_of(s, "id")] = text_of(s, "program");
    }
    top_sheet out{{{"PID", true},
                   {"PROGRAM", false, 3},
                   {"LOCAL", false, 5},
                   {"PEER"},
                   {"PATH"},
                   {"ROUTE", false, 4},
                   {"IN/S", true},
                   {"OUT/S", true},
                   {"RING", true, 1},
                   {"STALL", false, 2}},
                  {}};
    for (const auto& c : list_of(now.document, "connections")) {
        const auto key = connection_key(c), stall = stall_text(c);
        const bool server = text_of(c, "role") == "server";
        out.rows.push_back({{number(c, "pid"), word(programs[text_of(c, "session")]), word(text_of(c, "local")),
                             word((server ? "< " : "> ") + text_of(c, "peer")), word(text_of(c, "path")),
                             word(text_of(c, "route")), rate(then.rate(key, c, "bytes_in")),
                             rate(then.rate(key, c, "bytes_out")), percent(ring_fill(c)), word(stall)},
                            stall != "-"});
    }
    return out;
}

struct program_sums {
    size_t connections = 0, stalled = 0;
    double in = 0, out = 0;
};

top_sheet programs(const top_look& before, const top_look& now) {
    const earlier then(before, now, "connections", connection_key);
    std::map<std::string, program_sums> sums;
    for (const auto& c : list_of(now.document, "connections")) {
        auto& s = sums[text_of(c, "session")];
        const auto key = connection_key(c);
        ++s.connections;
        s.stalled += stall_text(c) != "-";
        s.in += then.rate(key, c, "bytes_in").value_or(0);
        s.out += then.rate(key, c, "bytes_out").value_or(0);
    }
    top_sheet out{{{"PID", true},
                   {"UID", true, 3},
                   {"PROGRAM"},
                   {"CONNS", true},
                   {"IN/S", true},
                   {"OUT/S", true},
                   {"STALLED", true, 1},
                   {"FELL BACK", true, 2}},
                  {}};
    for (const auto& s : list_of(now.document, "sessions")) {
        const auto& of = sums[text_of(s, "id")];
        out.rows.push_back({{number(s, "pid"),
                             number(s, "uid"),
                             word(text_of(s, "program")),
                             {std::to_string(of.connections), double(of.connections)},
                             bytes(of.in),
                             bytes(of.out),
                             {std::to_string(of.stalled), double(of.stalled)},
                             number(s, "fell_back")},
                            of.stalled != 0});
    }
    return out;
}

top_sheet trunks(const top_look& before, const top_look& now) {
    const earlier then(before, now, "trunks", trunk_key);
    top_sheet out{{{"TRUNK"},
                   {"STATE"},
                   {"LANE", true, 4},
                   {"CHANNELS", true, 3},
                   {"RTT", true},
                   {"IN/S", true},
                   {"OUT/S", true},
                   {"IN FLIGHT", true, 1},
                   {"REPLAYED", true, 2}},
                  {}};
    for (const auto& t : list_of(now.document, "trunks")) {
        const auto key = trunk_key(t), state = text_of(t, "state");
        const bool outgoing = t.value("outgoing", false);
        const uint64_t rtt = number_of(t, "rtt_us");
        out.rows.push_back({{word((outgoing ? "> " : "< ") + text_of(t, "name")),
                             word(state),
                             number(t, "lane"),
                             number(t, "channels"),
                             {rtt == 0 ? "-" : std::to_string(rtt) + "us", double(rtt)},
                             rate(then.rate(key, t, "bytes_in")),
                             rate(then.rate(key, t, "bytes_out")),
                             bytes(double_of(t, "in_flight_bytes")),
                             number(t, "replayed")},
                            outgoing && state != "up"});
    }
    return out;
}

top_sheet shards(const top_look& before, const top_look& now) {
    const earlier then(before, now, "shards", shard_key);
    top_sheet out{{{"SHARD", true}, {"STATE"}, {"CPU", true}, {"SILENT", true}, {"THREAD", true}}, {}};
    for (const auto& s : list_of(now.document, "shards")) {
        const double silent = double_of(s, "silent_s");
        out.rows.push_back({{number(s, "shard"),
                             word(text_of(s, "state")),
                             percent(then.rate(shard_key(s), s, "cpu_s")),
                             {seconds_text(silent), silent},
                             number(s, "thread")},
                            text_of(s, "state") != "running"});
    }
    return out;
}

}  // namespace

top_sheet make_sheet(top_view view, const top_look& before, const top_look& now) {
    switch (view) {
    case top_view::programs: return programs(before, now);
    case top_view::connections: return connections(before, now);
    case top_view::trunks: return trunks(before, now);
    case top_view::shards: return shards(before, now);
    }
    return {};
}

std::optional<size_t> top_sheet::column(std::string_view title) const {
    const auto at = std::ranges::find_if(columns, [&](auto& c) { return base::same_name(c.title, title); });
    return at == columns.end() ? std::nullopt : std::optional(size_t(at - columns.begin()));
}

void top_sheet::sort(size_t by, bool reverse) {
    if (by >= columns.size()) {
        return;
    }
    const bool number = columns[by].number;
    std::ranges::stable_sort(rows, [&](const top_row& a, const top_row& b) {
        const top_cell &x = a.cells[by], &y = b.cells[by];
        const bool first = number ? x.number > y.number : x.text < y.text;
        const bool last = number ? y.number > x.number : y.text < x.text;
        return reverse ? last : first;
    });
}

void top_sheet::keep(std::string_view text) {
    std::erase_if(rows, [&](const top_row& r) {
        return std::ranges::none_of(r.cells, [&](const top_cell& c) { return holds(c.text, text); });
    });
}

std::vector<std::string> top_sheet::lines(size_t width) const {
    std::vector<size_t> widths(columns.size());
    for (size_t c = 0; c < columns.size(); ++c) {
        widths[c] = columns[c].title.size();
        for (auto& r : rows) {
            widths[c] = std::max(widths[c], r.cells[c].text.size());
        }
    }
    std::vector<bool> shown(columns.size(), true);
    auto needed = [&] {
        size_t n = 0;
        for (size_t c = 0; c < columns.size(); ++c) {
            n += shown[c] ? widths[c] + 1 : 0;
        }
        return n - 1;
    };
    while (needed() > width) {
        size_t worst = columns.size();
        for (size_t c = 0; c < columns.size(); ++c) {
            if (shown[c] && columns[c].leaves != 0 &&
                (worst == columns.size() || columns[c].leaves > columns[worst].leaves)) {
                worst = c;
            }
        }
        if (worst == columns.size()) {
            break;
        }
        shown[worst] = false;
    }
    auto line = [&](auto&& text_of_column) {
        std::string out;
        for (size_t c = 0; c < columns.size(); ++c) {
            if (shown[c]) {
                const std::string& text = text_of_column(c);
                const std::string fill(widths[c] - text.size(), ' ');
                out += (out.empty() ? "" : " ") + (columns[c].number ? fill + text : text + fill);
            }
        }
        return out.substr(0, width);
    };
    std::vector<std::string> out{line([&](size_t c) -> const std::string& { return columns[c].title; })};
    for (auto& r : rows) {
        out.push_back(line([&](size_t c) -> const std::string& { return r.cells[c].text; }));
    }
    return out;
}

std::vector<std::string> top_summary(const top_look& before, const top_look& now, std::string_view socket) {
    const json &d = object_of(now.document, "daemon"), &t = object_of(now.document, "totals"),
               &was = object_of(before.document, "totals");
    const double seconds = std::max(1e-3, now.at_s - before.at_s);
    auto per_s = [&](const char* key) {
        return bytes_text(uint64_t(std::max(0.0, double_of(t, key) - double_of(was, key)) / seconds)) + "/s";
    };
    std::string shard_line = "shards:";
    const auto of_shards = shards(before, now);
    for (auto& s : of_shards.rows) {
        const bool running = s.cells[1].text == "running";
        shard_line += " " + s.cells[0].text + " " + (running ? s.cells[2].text : s.cells[1].text);
    }
    return {"vmsgrd " + text_of(d, "version") + ", pid " + text_of(d, "pid") + ", up " +
                seconds_text(double_of(d, "uptime_s")) + ", " + std::string(socket),
            "programs " + text_of(t, "sessions_open") + ", connections " +
                std::to_string(list_of(now.document, "connections").size()) + "; direct " + per_s("bytes_direct") +
                ", local " + per_s("bytes_local") + ", trunk " + per_s("bytes_trunk"),
            shard_line};
}

}  // namespace vmsgr::cli
