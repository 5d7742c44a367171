// What `vmsgr top` shows, without a terminal: two looks at the daemon's status document become a table with rates,
// which can be sorted, filtered and fitted to a width. Single thread.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/document.hh"

namespace vmsgr::cli {

enum class top_view : uint8_t { programs, connections, trunks, shards };
inline constexpr std::array<std::string_view, 4> top_view_words = {"programs", "connections", "trunks", "shards"};

struct top_column {
    std::string title;
    bool number = false;  // set to the right, and sorted with the largest first
    int leaves = 0;  // where the width is too small: the highest goes first; 0 stays
};

struct top_cell {
    std::string text;
    double number = 0;  // by which it is sorted, in a column of numbers
};

struct top_row {
    std::vector<top_cell> cells;
    bool alarm = false;  // somebody should look at it
};

struct top_sheet {
    std::vector<top_column> columns;
    std::vector<top_row> rows;

    std::optional<size_t> column(std::string_view title) const;
    void sort(size_t by, bool reverse);
    // Rows of which some cell has this text, whatever its case.
    void keep(std::string_view text);
    // As lines of at most `width` columns, the titles first.
    std::vector<std::string> lines(size_t width) const;
};

// A look at the daemon.
struct top_look {
    json document;
    double at_s = 0;
};

// now: the later look. Rates are of the time between the two; "-" for what is new.
top_sheet make_sheet(top_view view, const top_look& before, const top_look& now);
// The daemon, its totals and its shards, a line each.
std::vector<std::string> top_summary(const top_look& before, const top_look& now, std::string_view socket);

}  // namespace vmsgr::cli
