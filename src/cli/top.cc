// vmsgr top: what moves, live; on a terminal as a screen, elsewhere as lines.
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <thread>

#include "base/clock.hh"
#include "cli/cli.hh"
#include "cli/top_screen.hh"

namespace vmsgr::cli {

namespace {

constexpr size_t plain_width = 200;

struct top_options {
    std::string view = "programs", filter, sort;
    double interval_s = 1;
    unsigned count = 0;
};

base::result<top_look> look_at(const std::string& socket) {
    auto doc = ask_status(socket);
    if (!doc) {
        return std::unexpected(doc.error());
    }
    return top_look{std::move(*doc), double(base::now_ns()) / 1e9};
}

void print_json(const top_sheet& sheet, const top_state& s) {
    json rows = json::array();
    for (auto& r : sheet.rows) {
        json row = json::object();
        for (size_t c = 0; c < sheet.columns.size(); ++c) {
            row[sheet.columns[c].title] = r.cells[c].text;
        }
        rows.push_back(std::move(row));
    }
    puts(json{{"view", top_view_words[size_t(s.view)]}, {"rows", std::move(rows)}}.dump().c_str());
}

void print_lines(const top_sheet& sheet, const std::vector<std::string>& summary) {
    for (auto& line : summary) {
        puts(line.c_str());
    }
    for (auto& line : sheet.lines(plain_width)) {
        puts(line.substr(0, line.find_last_not_of(' ') + 1).c_str());
    }
}

int print_top(const top_state& s, const options& o, unsigned count) {
    auto before = look_at(o.socket);
    for (unsigned i = 0; before && i < count; ++i) {
        std::this_thread::sleep_for(std::chrono::duration<double>(s.interval_s));
        auto now = look_at(o.socket);
        if (now) {
            const auto sheet = chosen_sheet(s, *before, *now);
            if (o.json) {
                print_json(sheet, s);
            } else {
                printf("%s", i == 0 ? "" : "\n");
                print_lines(sheet, top_summary(*before, *now, o.socket));
            }
            fflush(stdout);
        }
        before = std::move(now);
    }
    return before ? int(exit_ok) : say_error(exit_no_daemon, before.error().text);
}

}  // namespace

command add_top(CLI::App& app, const options& o) {
    auto t = std::make_shared<top_options>();
    app.add_option("--view", t->view, "what to show first; programs unless told otherwise")
        ->check(CLI::IsMember(std::vector<std::string>(top_view_words.begin(), top_view_words.end())));
    app.add_option("--interval", t->interval_s, "seconds between two looks; 1 unless told otherwise")
        ->type_name("S")
        ->check(CLI::Range(0.1, 3600.0));
    app.add_option("--count", t->count, "print so many looks as lines, and end")
        ->type_name("N")
        ->check(CLI::Range(1u, 1000000000u));
    app.add_option("--filter", t->filter, "only rows with this text")->type_name("TEXT");
    app.add_option("--sort", t->sort, "the column to sort by")->type_name("COLUMN");
    app.footer(
        "Press h for the keys. Where the output is no terminal it prints one look as lines, or --count of them.\n\n"
        "Examples:\n  vmsgr top\n  vmsgr top --view connections --filter redis\n"
        "  vmsgr top --count 60 --interval 10 >log");
    return {[&o, t] {
        top_state s;
        s.view = top_view(std::ranges::find(top_view_words, t->view) - top_view_words.begin());
        s.filter = t->filter;
        s.interval_s = t->interval_s;
        s.socket = o.socket;
        if (!t->sort.empty()) {
            const auto by = make_sheet(s.view, {}, {}).column(t->sort);
            if (!by) {
                return say_error(exit_usage, "top: no column " + t->sort + " in " + t->view);
            }
            s.sorted_by[size_t(s.view)] = by;
        }
        if (o.json || t->count != 0 || ::isatty(STDOUT_FILENO) == 0 || ::isatty(STDIN_FILENO) == 0) {
            return print_top(s, o, std::max(1u, t->count));
        }
        const std::function<base::result<top_look>()> look = [&o] { return look_at(o.socket); };
        const auto done = run_top_screen(s, look);
        return done ? int(exit_ok) : say_error(exit_no_daemon, done.error().text);
    }};
}

}  // namespace vmsgr::cli
