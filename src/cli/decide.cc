#include "cli/decide.hh"

#include "conf/words.hh"

namespace vmsgr::cli {

namespace {

bool all_ports(const proto::route& r) { return r.port_first == 0 && r.port_last == 65535; }
bool all_programs(const proto::route& r) { return r.program_text() == "*"; }

}  // namespace

std::string ports_text(const proto::route& r) {
    if (all_ports(r)) {
        return "all";
    }
    auto first = std::to_string(r.port_first);
    return r.port_first == r.port_last ? first : first + "-" + std::to_string(r.port_last);
}

nlohmann::json route_json(const proto::route& r) {
    return {{"name", r.name_text()},
            {"program", r.program_text()},
            {"role", proto::to_text(r.who)},
            {"address", base::to_string(r.addresses)},
            {"ports", std::to_string(r.port_first) + "-" + std::to_string(r.port_last)},
            {"via", proto::to_text(r.way)},
            {"fallback", proto::to_text(r.without_daemon)},
            {"without_trunk", r.way == proto::via::trunk ? nlohmann::json(proto::to_text(r.without_trunk)) : nullptr}};
}

std::string mismatch(const proto::route& r, const asked& a) {
    if (a.program && !r.matches_program(*a.program)) {
        return "program " + conf::quote(*a.program) + " is not " + conf::quote(r.program_text());
    }
    if (r.who != proto::role::any && r.who != a.who) {
        return "it is for the role " + std::string(proto::to_text(r.who)) + ", not " +
               std::string(proto::to_text(a.who));
    }
    bool port_fits = a.any_port || (a.where.port >= r.port_first && a.where.port <= r.port_last);
    if (!port_fits) {
        return "port " + std::to_string(a.where.port) + " is not in " + ports_text(r);
    }
    // What is left is the address, whose rule (wildcard listeners, mapped addresses) only the route knows.
    proto::route bare = r;
    bare.program = {'*'};
    bare.port_first = 0;
    bare.port_last = 65535;
    if (!bare.matches("", a.who, a.where)) {
        base::address shown = a.where;
        auto text = base::to_string(shown);
        return "address " + text.substr(0, text.rfind(':')) + " is not in " + base::to_string(r.addresses);
    }
    return {};
}

std::vector<decision> decisions(const proto::route_table& t, const asked& a) {
    std::vector<decision> out;
    for (const auto& r : t) {
        if (!mismatch(r, a).empty()) {
            continue;
        }
        std::string condition;
        if (!a.program && !all_programs(r)) {
            condition = "for program " + conf::quote(r.program_text());
        }
        if (a.any_port && !all_ports(r)) {
            condition += (condition.empty() ? "for ports " : ", ports ") + ports_text(r);
        }
        out.push_back({&r, condition});
        if (condition.empty()) {
            return out;
        }
    }
    out.push_back({nullptr, ""});
    return out;
}

}  // namespace vmsgr::cli
