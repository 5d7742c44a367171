// vmsgr ceph verify: where each connection of this host's OSDs is, beside what the routes say.
#include <algorithm>
#include <cstdio>
#include <unordered_set>

#include "base/source.hh"
#include "cli/ceph.hh"
#include "cli/inquiry.hh"
#include "cli/query.hh"
#include "cli/table.hh"

namespace vmsgr::cli {

namespace {

bool is_monitor(const base::address& a, const std::vector<ceph_monitor>& monitors) {
    return std::ranges::any_of(monitors, [&](const ceph_monitor& m) {
        return std::ranges::any_of(m.addresses, [&](const base::address& b) { return a.unmapped() == b.unmapped(); });
    });
}

// What an OSD's connections are compared with.
struct expected {
    const listed_status& daemon;
    const proto::route_table& routes;
    const std::vector<ceph_monitor>& monitors;
    const std::unordered_set<uint64_t> sockets_of_attached;  // by inode
};

// Those of the programs that the daemon carries for. unread: of these nobody knows, for want of rights.
std::unordered_set<uint64_t> sockets_of_attached(const json& daemon, std::vector<pid_t>& unread) {
    std::unordered_set<uint64_t> out;
    for (const auto& session : list_of(daemon, "sessions")) {
        const auto pid = pid_t(number_of(session, "pid"));
        const auto all = descriptors_of(pid);
        if (all.empty() && process_exists(pid)) {
            unread.push_back(pid);
        }
        for (int fd : all) {
            if (const auto inode = socket_at(pid, fd)) {
                out.insert(*inode);
            }
        }
    }
    return out;
}

// What the routes say of a connection of the kernel's: it should have been carried.
const proto::route* missed(const socket_facts& s, const socket_table& sockets, const expected& e) {
    const auto* r = s.served_here ? e.routes.match("ceph-osd", proto::role::server, s.local)
                                  : e.routes.match("ceph-osd", proto::role::client, s.peer);
    if (r == nullptr || !r->carries()) {
        return nullptr;
    }
    if (r->way == proto::via::local) {  // with a program that is not attached, it is as it should be
        const auto other = sockets.other_end(s);
        return other && e.sockets_of_attached.contains(*other) ? r : nullptr;
    }
    return r;
}

void look_at_descriptor(osd_report& out, process_facts& of, int fd, const expected& e) {
    const auto inode = socket_at(out.pid, fd);
    if (!inode) {
        return;
    }
    const auto v = inquire(of, fd, e.daemon, "");
    if (v.accelerated) {
        if (v.reason == "listener") {
            return;
        }
        ++out.carried;
        if (const auto peer = base::parse_address(text_of(v.connection, "peer"));
            peer && is_monitor(*peer, e.monitors)) {
            out.wrong.push_back("descriptor " + std::to_string(fd) + ": the connection to the monitor at " +
                                base::to_string(*peer) + " is carried");
        }
        return;
    }
    const auto s = of.sockets().look_up(*inode);
    if (s.kind != socket_kind::tcp || s.listening || s.peer.family == 0) {
        return;
    }
    ++out.by_the_kernel;
    out.monitors_plain += is_monitor(s.peer, e.monitors) ? 1u : 0u;
    if (const auto* r = missed(s, of.sockets(), e)) {
        out.wrong.push_back("descriptor " + std::to_string(fd) + ", " + base::to_string(s.local) +
                            (s.served_here ? " from " : " to ") + base::to_string(s.peer) + ": route " +
                            std::string(r->name_text()) + " names it, but it is the kernel's: " + v.text);
    }
}

json as_json(const osd_report& r) {
    return {{"osd", r.id},
            {"pid", r.pid},
            {"attached", r.attached},
            {"carried", r.carried},
            {"kernel", r.by_the_kernel},
            {"monitors_on_kernel", r.monitors_plain},
            {"wrong", r.wrong}};
}

osd_report look_at_osd(int id, pid_t pid, const expected& e) {
    osd_report out{.id = id, .pid = pid, .wrong = {}};
    out.attached = is_attached(e.daemon.rest, pid);
    if (!out.attached) {
        out.wrong.push_back("it is not attached to vmsgrd; see 'vmsgr explain " + std::to_string(pid) + "'");
    }
    const auto all = descriptors_of(pid);
    if (all.empty()) {
        out.wrong.push_back("its descriptors cannot be read; run as root");
    }
    process_facts of(pid, e.daemon);
    for (int fd : all) {
        look_at_descriptor(out, of, fd, e);
    }
    return out;
}

}  // namespace

int run_ceph_verify(const options& o, const ceph_options& c) {
    const auto osds = chosen_osds(c);
    if (osds.empty()) {
        return exit_failure;
    }
    const auto monitors = ceph_cluster(c.command).monitors();
    if (!monitors) {
        return say_error(exit_failure, "ceph verify: " + monitors.error().text);
    }
    const auto daemon = ask_listed_status(o.socket);
    const auto routes = daemon ? ask_routes(o.socket) : std::unexpected(daemon.error());
    if (!routes) {
        return say_error(exit_no_daemon, "ceph verify: " + routes.error().text);
    }
    std::vector<pid_t> unread;
    const expected e{*daemon, *routes, *monitors, sockets_of_attached(daemon->rest, unread)};
    json all = json::array();
    table t{">OSD", ">PID", "ATTACHED", ">CARRIED", ">KERNEL", ">TO MONITORS", "AS THE ROUTES SAY"};
    std::vector<std::string> wrong;
    for (const pid_t pid : unread) {
        wrong.push_back("the descriptors of process " + std::to_string(pid) +
                        ", which is attached, cannot be read; run as root");
    }
    for (const auto& [id, pid] : osds) {
        const auto r = look_at_osd(id, pid, e);
        all.push_back(as_json(r));
        t.row({std::to_string(id), std::to_string(pid), r.attached ? "yes" : "no", std::to_string(r.carried),
               std::to_string(r.by_the_kernel), std::to_string(r.monitors_plain), r.wrong.empty() ? "yes" : "no"});
        for (const auto& text : r.wrong) {
            wrong.push_back("osd." + std::to_string(id) + ": " + text);
        }
    }
    if (o.json) {
        put_json(all);
    } else {
        fputs(t.text().c_str(), stdout);
        for (const auto& text : wrong) {
            puts(text.c_str());
        }
    }
    return wrong.empty() ? exit_ok : exit_failure;
}

}  // namespace vmsgr::cli
