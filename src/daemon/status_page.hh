// The status page, one file of HTML with its script and style, and the policy under which browsers run nothing else:
// names that it shows are chosen by users. Any thread.
#pragma once

#include <string>
#include <string_view>

namespace vmsgr::daemon {

inline constexpr std::string_view page_type = "text/html; charset=utf-8";

struct status_page {
    std::string html, policy;
};
status_page make_status_page();

}  // namespace vmsgr::daemon
