#include "cli/ceph_cluster.hh"

#include <errno.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <stdlib.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "cli/proc.hh"
#include "cli/spawned.hh"

namespace vmsgr::cli {

namespace {

// What comes and goes while an OSD is away for a moment, and is counted otherwise.
constexpr std::string_view passing_checks[] = {"OSD_DOWN",        "OSD_HOST_DOWN", "OSD_ROOT_DOWN",
                                               "PG_AVAILABILITY", "PG_DEGRADED",   "OBJECT_MISPLACED",
                                               "SLOW_OPS",        "OSD_FLAGS",     "OSD_UPGRADE_FINISHED"};

void add_addresses(const json& vec, std::vector<base::address>& to) {
    for (const auto& entry : list_of(vec, "addrvec")) {
        if (const auto a = base::parse_address(text_of(entry, "addr")); a && a->port != 0) {
            to.push_back(*a);
        }
    }
}

std::optional<int> number_in(std::string_view text) {
    int n = 0;
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), n);
    return ec == std::errc{} && end == text.data() + text.size() ? std::optional(n) : std::nullopt;
}

std::vector<std::string> words_of(pid_t pid) {
    std::ifstream in("/proc/" + std::to_string(pid) + "/cmdline");
    std::vector<std::string> out;
    for (std::string word; std::getline(in, word, '\0');) {
        out.push_back(word);
    }
    return out;
}

// -i 3, -i3, --id 3, --id=3
std::optional<int> told_number(const std::vector<std::string>& words) {
    for (size_t i = 1; i < words.size(); ++i) {
        const std::string_view w = words[i];
        if ((w == "-i" || w == "--id") && i + 1 < words.size()) {
            return number_in(words[i + 1]);
        }
        for (const std::string_view form : {"--id=", "-i"}) {
            if (w.starts_with(form) && number_in(w.substr(form.size()))) {
                return number_in(w.substr(form.size()));
            }
        }
    }
    return std::nullopt;
}

}  // namespace

std::string ceph_health::worse_than(const ceph_health& before) const {
    if (osds_up < before.osds_up) {
        return std::to_string(osds_up) + " OSDs are up, it was " + std::to_string(before.osds_up);
    }
    if (groups - clean > before.groups - before.clean) {
        return std::to_string(groups - clean) + " placement groups are not active+clean, it was " +
               std::to_string(before.groups - before.clean);
    }
    for (const auto& check : checks) {
        if (!before.checks.contains(check) && !std::ranges::contains(passing_checks, check)) {
            return "the cluster says " + check + ", which it did not before; see 'ceph health detail'";
        }
    }
    return "";
}

ceph_cluster::ceph_cluster(const std::string& command) {
    std::istringstream in(command);
    for (std::string word; in >> word;) {
        _command.push_back(word);
    }
    if (_command.empty()) {
        _command.emplace_back("ceph");
    }
}

base::result<json> ceph_cluster::ask(std::vector<std::string> words) const {
    std::vector<std::string> all = _command;
    all.insert(all.end(), words.begin(), words.end());
    all.insert(all.end(), {"--format", "json"});
    std::string said = _command.front();
    for (const auto& w : words) {
        said += " " + w;
    }
    const auto done = run_to_end(all, ceph_timeout_ms);
    if (!done) {
        return base::fail(done.error().errnum, done.error().text + "; install ceph-common, or say how with --ceph");
    }
    if (!done->in_time) {
        return base::fail(ETIMEDOUT, "'" + said + "' gave no answer within " + std::to_string(ceph_timeout_ms / 1000) +
                                         " s; are the monitors reachable?");
    }
    if (!done->succeeded()) {
        return base::fail(EIO, "'" + said + "' failed: " + done->last_error_line());
    }
    json doc = json::parse(done->out, nullptr, false);
    if (doc.is_discarded()) {
        return base::fail(EPROTO, "'" + said + "' answered with no JSON");
    }
    return doc;
}

base::result<std::vector<ceph_osd>> ceph_cluster::osds() const {
    const auto map = ask({"osd", "dump"});
    if (!map) {
        return std::unexpected(map.error());
    }
    std::vector<ceph_osd> out;
    for (const auto& entry : list_of(*map, "osds")) {
        ceph_osd o;
        o.id = int(number_of(entry, "osd"));
        o.up = number_of(entry, "up") != 0;
        for (const char* which : {"public_addrs", "cluster_addrs", "heartbeat_back_addrs", "heartbeat_front_addrs"}) {
            add_addresses(object_of(entry, which), o.addresses);
        }
        out.push_back(std::move(o));
    }
    return out;
}

base::result<void> ceph_cluster::name_hosts(std::vector<ceph_osd>& osds) const {
    const auto about = ask({"osd", "metadata"});
    if (!about) {
        return std::unexpected(about.error());
    }
    std::map<uint64_t, std::string> hosts;
    for (const auto& m : *about) {
        hosts[number_of(m, "id")] = m.contains("hostname") ? text_of(m, "hostname") : "";
    }
    for (auto& o : osds) {
        o.host = hosts[uint64_t(o.id)];
    }
    return {};
}

base::result<std::vector<ceph_monitor>> ceph_cluster::monitors() const {
    const auto map = ask({"mon", "dump"});
    if (!map) {
        return std::unexpected(map.error());
    }
    std::vector<ceph_monitor> out;
    for (const auto& entry : list_of(*map, "mons")) {
        ceph_monitor m{text_of(entry, "name"), {}};
        add_addresses(object_of(entry, "public_addrs"), m.addresses);
        out.push_back(std::move(m));
    }
    return out;
}

base::result<ceph_health> ceph_cluster::health() const {
    const auto doc = ask({"status"});
    if (!doc) {
        return std::unexpected(doc.error());
    }
    ceph_health out;
    const auto& health = object_of(*doc, "health");
    out.status = text_of(health, "status");
    for (const auto& [name, check] : object_of(health, "checks").items()) {
        if (!check.value("muted", false)) {
            out.checks.insert(name);
        }
    }
    out.osds_up = unsigned(number_of(object_of(*doc, "osdmap"), "num_up_osds"));
    const auto& groups = object_of(*doc, "pgmap");
    out.groups = number_of(groups, "num_pgs");
    for (const auto& state : list_of(groups, "pgs_by_state")) {
        const auto name = text_of(state, "state_name");
        out.clean += name.starts_with("active+clean") ? number_of(state, "count") : 0;  // +scrubbing, too
    }
    return out;
}

base::result<std::pair<uint16_t, uint16_t>> ceph_cluster::ports(const std::vector<ceph_osd>& osds) const {
    uint16_t bounds[2] = {6800, 7300};
    const char* const names[] = {"ms_bind_port_min", "ms_bind_port_max"};
    for (int i = 0; i < 2; ++i) {
        const auto value = ask({"config", "get", "osd", names[i]});
        if (!value) {
            return std::unexpected(value.error());
        }
        const auto text = value->is_string() ? value->get<std::string>() : value->dump();
        if (const auto n = number_in(text); n && *n > 0 && *n <= UINT16_MAX) {
            bounds[i] = uint16_t(*n);
        }
    }
    for (const auto& o : osds) {
        for (const auto& a : o.addresses) {
            bounds[0] = std::min(bounds[0], a.port);
            bounds[1] = std::max(bounds[1], a.port);
        }
    }
    return std::pair(bounds[0], bounds[1]);
}

base::result<void> ceph_cluster::may_stop(int osd) const {
    const auto answer = ask({"osd", "ok-to-stop", std::to_string(osd)});
    return answer ? base::result<void>() : std::unexpected(answer.error());
}

std::map<int, pid_t> local_osds() {
    std::map<int, pid_t> out;
    std::error_code ec;
    for (const auto& entry : std::filesystem::directory_iterator("/proc", ec)) {
        const auto pid = number_in(entry.path().filename().string());
        if (pid && program_of(*pid) == "ceph-osd") {
            if (const auto id = told_number(words_of(*pid))) {
                out.emplace(*id, *pid);
            }
        }
    }
    return out;
}

std::vector<base::address> local_addresses() {
    std::vector<base::address> out;
    ifaddrs* all = nullptr;
    if (::getifaddrs(&all) != 0) {
        return out;
    }
    for (const auto* i = all; i != nullptr; i = i->ifa_next) {
        if (i->ifa_addr != nullptr) {
            const socklen_t size = i->ifa_addr->sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
            if (const auto a = base::from_sockaddr(i->ifa_addr, size)) {
                out.push_back(*a);
            }
        }
    }
    ::freeifaddrs(all);
    return out;
}

}  // namespace vmsgr::cli
