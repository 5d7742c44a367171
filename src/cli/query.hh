// Questions to the daemon: attaches as a query session, asks, reads the answer. Every step has the same time limit, so
// a stopped daemon gives an error and not a hang. Single thread.
#pragma once

#include <string>

#include "base/error.hh"
#include "proto/control.hh"
#include "proto/routes.hh"

namespace vmsgr::cli {

inline constexpr int query_timeout_ms = 2000;
inline constexpr size_t document_bytes_max = 256u << 20;

// status, routes or drain: the document of the reply.
base::result<std::string> ask_daemon(const std::string& path, proto::kind what, uint32_t flags = 0);
base::result<proto::route_table> ask_routes(const std::string& path);

}  // namespace vmsgr::cli
