// A Ceph cluster as its monitors and this host's processes show it: asked by the `ceph` command, so with whatever
// keyring and version is there. Single thread; each question may take as long as ceph_timeout_ms.
#pragma once

#include <sys/types.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/address.hh"
#include "cli/document.hh"

namespace vmsgr::cli {

inline constexpr int ceph_timeout_ms = 30'000;

struct ceph_osd {
    int id = 0;
    bool up = false;
    std::vector<base::address> addresses;  // of its listeners, all of them
    std::string host;  // by its own word; empty where it never said, or was not asked
};

struct ceph_monitor {
    std::string name;
    std::vector<base::address> addresses;
};

// How well it is, in what a restart of an OSD may change.
struct ceph_health {
    std::string status;  // HEALTH_OK, HEALTH_WARN, HEALTH_ERR
    std::set<std::string> checks;
    unsigned osds_up = 0;
    uint64_t groups = 0, clean = 0;  // placement groups; of these active+clean

    // What is worse now than it was; empty: nothing.
    std::string worse_than(const ceph_health& before) const;
};

class ceph_cluster {
    std::vector<std::string> _command;

public:
    // command: "ceph", or words before what is asked, such as "ceph -c /etc/ceph/b.conf" or "cephadm shell -- ceph".
    explicit ceph_cluster(const std::string& command);

    base::result<std::vector<ceph_osd>> osds() const;
    base::result<void> name_hosts(std::vector<ceph_osd>& osds) const;
    base::result<std::vector<ceph_monitor>> monitors() const;
    base::result<ceph_health> health() const;
    // Ports at which OSDs may listen: by configuration, and by what `osds` do.
    base::result<std::pair<uint16_t, uint16_t>> ports(const std::vector<ceph_osd>& osds) const;
    // The cluster keeps all data available without it. Error: why not.
    base::result<void> may_stop(int osd) const;

private:
    base::result<json> ask(std::vector<std::string> words) const;
};

// The OSDs that run on this host, by their numbers: each process named ceph-osd that was told one.
std::map<int, pid_t> local_osds();
// The addresses of this host's interfaces, port 0.
std::vector<base::address> local_addresses();

}  // namespace vmsgr::cli
