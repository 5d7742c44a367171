// What the parts of `vmsgr ceph` share. Single thread.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "cli/ceph_cluster.hh"
#include "cli/cli.hh"
#include "proto/routes.hh"

namespace vmsgr::cli {

struct ceph_options {
    std::string command = "ceph";  // how the cluster is asked
    // plan
    std::string between = "posix";  // how OSDs of other hosts are reached: a proto::via
    std::string output;
    unsigned trunk_port = 6790;
    // enable, disable, verify
    std::vector<int> osds;
    bool all = false;
    std::string units = "/etc/systemd/system";
    std::string drop_in = "/usr/share/vmsgr-ceph/ceph-osd@.service.d/vmsgr.conf";
    // reset-failed, as the unit starts three times in half an hour and not again, whoever asks.
    std::string restart = "systemctl daemon-reload && { systemctl reset-failed ceph-osd@$OSD 2>/dev/null; systemctl "
                          "restart ceph-osd@$OSD; }";
    unsigned timeout_s = 300, watch_s = 10;
};

// The configuration for this host that plan writes, as YAML; pure, so that it can be tested.
struct ceph_view {
    std::vector<ceph_osd> osds;
    std::vector<ceph_monitor> monitors;
    std::pair<uint16_t, uint16_t> ports;
    std::vector<base::address> here;  // addresses of this host
    std::string host;  // its name, for a trunk
};
base::result<std::string> ceph_plan(const ceph_view& v, const ceph_options& c);

// One OSD's connections beside what the routes say. Empty `wrong`: as they should be.
struct osd_report {
    int id = 0;
    pid_t pid = 0;
    bool attached = false;
    unsigned carried = 0, by_the_kernel = 0, monitors_plain = 0;
    std::vector<std::string> wrong;
};

int run_ceph_verify(const options& o, const ceph_options& c);
// on: each gets the drop-in, else it loses it; one after the other, and back again where the cluster gets worse.
int run_ceph_switch(const options& o, const ceph_options& c, bool on);

// The OSDs that were named, or with --all those of this host; empty, with a complaint on stderr, where one is not here.
std::map<int, pid_t> chosen_osds(const ceph_options& c);

}  // namespace vmsgr::cli
