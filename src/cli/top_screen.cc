#include "cli/top_screen.hh"

#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <ftxui/component/component.hpp>
#include <ftxui/component/loop.hpp>
#include <ftxui/component/screen_interactive.hpp>
#include <ftxui/dom/elements.hpp>
#include <ftxui/screen/terminal.hpp>
#include <thread>

#include "base/clock.hh"
#include "cli/stats.hh"

namespace vmsgr::cli {

namespace {

using namespace ftxui;

constexpr auto key_pause = std::chrono::milliseconds(20);

constexpr const char* help_lines[] = {
    "1 2 3 4, Tab      programs, connections, trunks, shards",
    "s S               sort by the next column, the one before",
    "r                 reverse the order",
    "/                 filter: rows with this text; Enter keeps it, Esc drops it",
    "f, space          freeze, go on",
    "arrows, PgUp/Dn   scroll",
    "h ?               this help",
    "q                 leave",
    "",
    "IN/S and OUT/S are seen from the program. RING is how full the fuller ring is.",
    "STALL: who does not take what is there (program or network), and for how long.",
};

// No colour where the user has asked for none (no-color.org).
Element alarm(Element e) {
    const char* none = ::getenv("NO_COLOR");
    return none != nullptr && *none != 0 ? bold(std::move(e)) : std::move(e) | color(Color::Red) | bold;
}

class top_screen {
    top_state _s;
    const std::function<base::result<top_look>()>& _look;
    top_look _before, _now;
    bool _frozen = false, _help = false, _typing = false;
    size_t _first = 0;
    std::string _kept_filter;

public:
    top_screen(top_state s, const std::function<base::result<top_look>()>& look) : _s(std::move(s)), _look(look) {}
    base::result<void> run();

private:
    Element draw();
    Elements draw_rows(const top_sheet& sheet, size_t width, size_t height);
    bool on_key(const Event& e, const std::function<void()>& leave);
    bool on_filter_key(const Event& e);
    void show(top_view v);
    void sort_next(int step);
    std::string footer(const top_sheet& sheet) const;
};

size_t sorted_column(const top_state& s, const top_sheet& sheet) {
    if (const auto chosen = s.sorted_by[size_t(s.view)]) {
        return std::min(*chosen, sheet.columns.size() - 1);
    }
    return sheet.column("OUT/S").value_or(sheet.column("CPU").value_or(0));
}

void top_screen::show(top_view v) {
    _s.view = v;
    _s.reverse = false;
    _first = 0;
}

void top_screen::sort_next(int step) {
    const auto sheet = make_sheet(_s.view, _before, _now);
    const auto n = int(sheet.columns.size());
    _s.sorted_by[size_t(_s.view)] = size_t((int(sorted_column(_s, sheet)) + step + n) % n);
    _s.reverse = false;
}

bool top_screen::on_filter_key(const Event& e) {
    if (e == Event::Return) {
        _typing = false;
    } else if (e == Event::Escape) {
        _s.filter = _kept_filter;
        _typing = false;
    } else if (e == Event::Backspace) {
        if (!_s.filter.empty()) {
            _s.filter.pop_back();
        }
    } else if (e.is_character()) {
        _s.filter += e.character();
    } else {
        return false;
    }
    _first = 0;
    return true;
}

bool top_screen::on_key(const Event& e, const std::function<void()>& leave) {
    if (_typing) {
        return on_filter_key(e);
    }
    const std::string key = e.is_character() ? e.character() : "";
    const size_t page = size_t(std::max(1, Terminal::Size().dimy - 6));
    if (key == "q") {
        leave();
    } else if (key.size() == 1 && key[0] >= '1' && key[0] <= '4') {
        show(top_view(key[0] - '1'));
    } else if (e == Event::Tab) {
        show(top_view((size_t(_s.view) + 1) % top_view_words.size()));
    } else if (key == "s" || key == "S") {
        sort_next(key == "s" ? 1 : -1);
    } else if (key == "r") {
        _s.reverse = !_s.reverse;
    } else if (key == "/") {
        _typing = true;
        _kept_filter = std::exchange(_s.filter, "");
    } else if (key == "f" || key == " ") {
        _frozen = !_frozen;
    } else if (key == "h" || key == "?") {
        _help = !_help;
    } else if (e == Event::Escape) {
        _help ? void(_help = false) : _s.filter.clear();
    } else if (e == Event::ArrowDown || e == Event::PageDown) {
        _first += e == Event::ArrowDown ? 1 : page;
    } else if (e == Event::ArrowUp || e == Event::PageUp) {
        _first -= std::min(_first, e == Event::ArrowUp ? 1 : page);
    } else {
        return false;
    }
    return true;
}

std::string top_screen::footer(const top_sheet& sheet) const {
    if (_typing) {
        return "filter: " + _s.filter + "_";
    }
    std::string out = "sort " + sheet.columns[sorted_column(_s, sheet)].title + (_s.reverse ? " reversed" : "");
    if (!_s.filter.empty()) {
        out += "; filter " + _s.filter;
    }
    return out + "; h help, q quit" + (_frozen ? "; FROZEN" : "");
}

Elements top_screen::draw_rows(const top_sheet& sheet, size_t width, size_t height) {
    auto lines = sheet.lines(width);
    Elements out{text(lines.front() + std::string(width - std::min(width, lines.front().size()), ' ')) | inverted};
    const size_t rows = lines.size() - 1, room = height > 1 ? height - 1 : 1;
    _first = std::min(_first, rows > room ? rows - room : 0);
    for (size_t i = _first; i < rows && i < _first + room; ++i) {
        out.push_back(sheet.rows[i].alarm ? alarm(text(lines[i + 1])) : text(lines[i + 1]));
    }
    if (rows == 0) {
        out.push_back(text(_s.filter.empty() ? "none" : "none with " + _s.filter) | dim);
    }
    return out;
}

Element top_screen::draw() {
    const auto size = Terminal::Size();
    const size_t width = size_t(std::max(20, size.dimx)), height = size_t(std::max(8, size.dimy));
    const auto sheet = chosen_sheet(_s, _before, _now);
    Elements lines;
    for (auto& line : top_summary(_before, _now, _s.socket)) {
        lines.push_back(text(line.substr(0, width)));
    }
    if (is_held(_now.document)) {
        lines.back() = alarm(lines.back());
    }
    Elements tabs;
    for (size_t i = 0; i < top_view_words.size(); ++i) {
        auto name = text(" " + std::to_string(i + 1) + " " + std::string(top_view_words[i]) + " ");
        tabs.push_back(i == size_t(_s.view) ? name | bold | underlined : name | dim);
    }
    lines.push_back(hbox(std::move(tabs)));
    if (_help) {
        for (const char* line : help_lines) {
            lines.push_back(text(line));
        }
    } else {
        std::ranges::move(draw_rows(sheet, width, height - lines.size() - 1), std::back_inserter(lines));
    }
    while (lines.size() + 1 < height) {
        lines.push_back(text(""));
    }
    lines.push_back(text(footer(sheet)) | dim);
    return vbox(std::move(lines));
}

base::result<void> top_screen::run() {
    auto first = _look();
    if (!first) {
        return std::unexpected(first.error());
    }
    _before = _now = std::move(*first);
    auto screen = ScreenInteractive::Fullscreen();
    screen.TrackMouse(false);
    auto component = CatchEvent(Renderer([this] { return draw(); }),
                                [&](const Event& e) { return on_key(e, screen.ExitLoopClosure()); });
    base::result<void> outcome;
    Loop loop(&screen, component);
    for (int64_t next_ms = base::now_ms() + int64_t(_s.interval_s * 1000) / 4; !loop.HasQuitted();) {
        loop.RunOnce();
        if (base::now_ms() >= next_ms) {
            next_ms = base::now_ms() + int64_t(_s.interval_s * 1000);
            if (!_frozen) {
                auto fresh = _look();
                if (!fresh) {
                    outcome = std::unexpected(fresh.error());
                    screen.Exit();
                } else {
                    _before = std::exchange(_now, std::move(*fresh));
                }
            }
            screen.PostEvent(Event::Custom);
        }
        std::this_thread::sleep_for(key_pause);
    }
    return outcome;
}

}  // namespace

top_sheet chosen_sheet(const top_state& s, const top_look& before, const top_look& now) {
    auto sheet = make_sheet(s.view, before, now);
    if (!s.filter.empty()) {
        sheet.keep(s.filter);
    }
    sheet.sort(sorted_column(s, sheet), s.reverse);
    return sheet;
}

base::result<void> run_top_screen(top_state s, const std::function<base::result<top_look>()>& look) {
    return top_screen(std::move(s), look).run();
}

}  // namespace vmsgr::cli
