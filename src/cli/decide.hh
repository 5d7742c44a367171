// Why a route matches or does not: the reasons behind proto::route::matches, in words. Single thread.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "proto/routes.hh"

namespace vmsgr::cli {

// What a decision is asked for. Without a program or a port, rules that depend on one are not excluded by it.
struct asked {
    std::optional<std::string> program;
    proto::role who = proto::role::client;
    base::address where;
    bool any_port = false;
};

// Empty: the rule matches. Else the first thing that does not fit.
std::string mismatch(const proto::route& r, const asked& a);

struct decision {
    const proto::route* rule;  // null: no rule, so posix
    std::string condition;     // "for program 'ceph-osd'": empty when it holds in any case
};
// The rules that may win, in order; the last one holds without condition.
std::vector<decision> decisions(const proto::route_table& t, const asked& a);

std::string ports_text(const proto::route& r);
nlohmann::json route_json(const proto::route& r);

}  // namespace vmsgr::cli
