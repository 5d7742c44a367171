// What vmsgr ceph plan writes: the routes, and where wanted the trunks, with which this host carries what its OSDs say.
#include <errno.h>

#include <algorithm>
#include <cctype>
#include <set>

#include "cli/ceph.hh"
#include "conf/config.hh"

namespace vmsgr::cli {

namespace {

bool is_one_of(const base::address& a, const std::vector<base::address>& all) {
    return std::ranges::any_of(all, [&](const base::address& b) {
        return a.unmapped().family == b.unmapped().family && a.unmapped().ip == b.unmapped().ip;
    });
}

std::string host_text(const base::address& a) {
    base::prefix p{a.family, uint8_t(a.family == AF_INET ? 32 : 128), a.ip};
    return base::to_string(p);
}

// Addresses in order, each once.
void add_host(std::vector<base::address>& to, const base::address& a) {
    if (!is_one_of(a, to)) {
        to.push_back(a);
    }
}

// Words that routes and trunks may have for names, each once.
class namer {
    std::set<std::string> _taken;
    static constexpr size_t room_for_number = 4;

public:
    std::string name(const std::string& wanted) {
        std::string word;
        for (char c : wanted.substr(0, proto::route_name_bytes - 1 - room_for_number)) {
            word += (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '.') ? c : '-';
        }
        std::string out = word;
        for (unsigned n = 2; !_taken.insert(out).second; ++n) {
            out = word + "-" + std::to_string(n);
        }
        return out;
    }
};

struct remote_host {
    std::string name;
    std::vector<base::address> addresses;
};

std::vector<remote_host> others(const ceph_view& v) {
    std::vector<remote_host> out;
    for (const auto& o : v.osds) {
        for (const auto& a : o.addresses) {
            if (is_one_of(a, v.here)) {
                continue;
            }
            const std::string name = o.host.empty() ? "osd-" + std::to_string(o.id) : o.host;
            auto at = std::ranges::find(out, name, &remote_host::name);
            if (at == out.end()) {
                at = out.insert(out.end(), {name, {}});
            }
            add_host(at->addresses, a);
        }
    }
    return out;
}

class writer {
    const ceph_view& _v;
    const std::string _ports;
    namer _names;
    std::string _text;
    unsigned _routes = 0;

public:
    explicit writer(const ceph_view& v)
        : _v(v), _ports(std::to_string(v.ports.first) + "-" + std::to_string(v.ports.second)) {}

    void line(const std::string& text) { _text += text + "\n"; }
    void route(const std::string& name, const std::string& address, const std::string& ports, const char* rest) {
        ++_routes;
        line("  - {name: " + _names.name(name) + ", address: \"" + address + "\", ports: " + ports + ", " + rest + "}");
    }
    void osds_of(const std::string& name, const std::vector<base::address>& addresses, const char* rest) {
        for (const auto& a : addresses) {
            route(name, host_text(a), _ports, rest);
        }
    }
    // A monitor at a port of OSDs would be taken for one.
    void monitors() {
        for (const auto& m : _v.monitors) {
            for (const auto& a : m.addresses) {
                if (a.port >= _v.ports.first && a.port <= _v.ports.second) {
                    route("mon-" + m.name, host_text(a), std::to_string(a.port), "via: posix");
                }
            }
        }
    }
    unsigned routes() const noexcept { return _routes; }
    std::string take() { return std::move(_text); }
};

void write_trunks(writer& w, const ceph_view& v, const std::vector<remote_host>& hosts,
                  const std::vector<base::address>& mine, unsigned port) {
    auto at = [port](base::address a) {
        a.port = uint16_t(port);
        return base::to_string(a);
    };
    w.line("");
    w.line("# It listens for its peers from its start on: systemctl restart vmsgrd.");
    w.line("trunk:");
    namer names;
    w.line("  name: " + names.name(v.host));
    w.line("  listen: \"" + at(mine.front()) + "\"");
    w.line("  # Encrypted and with proof of who is who: tls: {ca: ..., certificate: ..., key: ..., names: [...]}; see");
    w.line("  # vmsgrd(8). Without it, only the addresses below may connect.");
    w.line("trunks:");
    for (const auto& h : hosts) {
        std::string addresses;
        for (const auto& a : h.addresses) {
            addresses += (addresses.empty() ? "\"" : ", \"") + host_text(a) + "\"";
        }
        w.line("  - {name: " + names.name(h.name) + ", connect: \"" + at(h.addresses.front()) + "\", addresses: [" +
               addresses + "]}");
    }
}

}  // namespace

base::result<std::string> ceph_plan(const ceph_view& v, const ceph_options& c) {
    std::vector<base::address> mine;
    for (const auto& o : v.osds) {
        for (const auto& a : o.addresses) {
            if (is_one_of(a, v.here)) {
                add_host(mine, a);
            }
        }
    }
    const auto hosts = others(v);
    if (mine.empty()) {
        return base::fail(ENOENT, "no OSD of the cluster has an address of this host" +
                                      std::string(v.osds.empty() ? "; it has no OSDs" : ""));
    }
    writer w(v);
    w.line("# Made by 'vmsgr ceph plan': " + std::to_string(v.osds.size()) + " OSDs on " +
           std::to_string(hosts.size() + 1) + " hosts, " + std::to_string(v.monitors.size()) + " monitors.");
    w.line("# The first route that matches wins. Monitors, and all that no route names, stay on the kernel's sockets.");
    w.line("routes:");
    w.monitors();
    w.line(std::string("  # OSDs of this host, and who talks to them here: through shared memory") +
           (c.between == "posix" ? "; from elsewhere by TCP as before." : "."));
    w.osds_of("osds-here", mine, c.between == "direct" ? "via: direct" : "via: local");
    if (c.between == "posix") {
        w.line("  # OSDs of other hosts have no route: what goes to them stays on the kernel's sockets.");
    } else {
        w.line("  # OSDs of other hosts.");
        for (const auto& h : hosts) {
            w.osds_of("osds-" + h.name, h.addresses, c.between == "trunk" ? "via: trunk" : "via: direct");
        }
    }
    if (c.between == "trunk" && !hosts.empty()) {
        write_trunks(w, v, hosts, mine, c.trunk_port);
    }
    if (w.routes() > proto::routes_max) {
        return base::fail(E2BIG, "the cluster needs " + std::to_string(w.routes()) + " routes, and there can be " +
                                     std::to_string(proto::routes_max) +
                                     "; write routes for its networks by hand, one prefix each");
    }
    auto text = w.take();
    if (auto checked = conf::parse_daemon_config(text, "plan"); !checked) {
        return std::unexpected(checked.error());
    }
    return text;
}

}  // namespace vmsgr::cli
