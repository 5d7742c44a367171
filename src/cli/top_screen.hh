// `vmsgr top` on a terminal. Single thread.
#pragma once

#include <functional>

#include "cli/top_sheet.hh"

namespace vmsgr::cli {

struct top_state {
    top_view view = top_view::programs;
    std::array<std::optional<size_t>, top_view_words.size()> sorted_by{};  // none: as the view likes it
    bool reverse = false;
    std::string filter;
    double interval_s = 1;
    std::string socket;
};

// The view's rows as they are asked for: sorted and filtered.
top_sheet chosen_sheet(const top_state& s, const top_look& before, const top_look& now);

// Until somebody leaves it. look: one more look at the daemon; its error ends it.
base::result<void> run_top_screen(top_state s, const std::function<base::result<top_look>()>& look);

}  // namespace vmsgr::cli
