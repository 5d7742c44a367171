// The daemon's page of counters, as the process beside it shows it (daemon/stats_server.hh): it answers while every
// shard of the daemon is stopped. Single thread.
#pragma once

#include "cli/document.hh"

namespace vmsgr::cli {

// what: "health" (the daemon and its shards) or "status" (also what it carries, as far as the page has it).
base::result<json> ask_stats(const std::string& socket, const char* what);
// The same as it came.
base::result<std::string> ask_stats_text(const std::string& socket, const char* what);

// Some shard is stopped or silent, so that the daemon itself would not answer.
bool is_held(const json& doc);
// An error at once where the shard that answers questions does not run: asked, it would take the whole time limit.
base::result<void> can_answer(const std::string& socket);
// Which shards do not run, a line each.
std::string held_text(const json& doc);

}  // namespace vmsgr::cli
