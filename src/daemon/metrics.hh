// The page of counters in Prometheus' text format, version 0.0.4. Nobody's own is in it: no program, user or
// connection. Labels are shards, routes, reasons and trunks, each of a bounded number. Seastar-free.
#pragma once

#include <string>

#include "daemon/stats.hh"

namespace vmsgr::daemon {

inline constexpr std::string_view metrics_type = "text/plain; version=0.0.4; charset=utf-8";

std::string metrics_text(const stats_reader& from);

}  // namespace vmsgr::daemon
