"""Three hosts in network namespaces: the monitor, and two OSDs each beside a vmsgrd of its own, over veth."""
import pytest
from lib import ceph, hosts, netns, vmsgrd
from lib.ends import PLAIN
from lib.rig import MON_PORTS, Objects

ROUTES = [vmsgrd.route("ceph-osds", address="10.99.0.0/24", ports=ceph.OSD_PORTS)]


@pytest.mark.parametrize("attached", [("osd0", "osd1"), ("osd0",), ("mon", "osd0", "osd1")],
                         ids=["both_osds", "osd1_without_vmsgr", "osds_and_client"])
def test_cluster_over_three_hosts_works(attached):
    with hosts.Hosts(attached, routes=ROUTES, programs=("osd.0", "osd.1", "client"), plain=PLAIN) as three:
        cluster = three.cluster
        objects = Objects(cluster, three.dir)
        for size in (0, 1, 4096, 5 << 20):
            assert objects.write(f"o{size}", size)
        wrote = cluster.client("rados", "-p", "test", "bench", "2", "write", "-b", "65536", "--no-cleanup")
        assert "Total writes made" in wrote.stdout
        cluster.client("rados", "-p", "test", "bench", "1", "rand")
        assert objects.wrong() == []
        if not PLAIN:
            check_who_carried(three)
        cluster.check_alive()
        cluster.wait_clean(20)
        assert cluster.log_times("mon.a", r"osd\.\d+ failed") == []


def check_who_carried(three):
    pids = three.cluster.osd_pids()
    for i, name in enumerate(("osd0", "osd1")):
        osd_tcp = [s for s in netns.tcp_sockets(three.network[name]) if pids[i] in s.pids]
        between = [s for s in osd_tcp if s.peer[0] in {three.network[h].address for h in ("osd0", "osd1")}]
        assert [s for s in osd_tcp if s.peer[1] in MON_PORTS], "the monitor stays on POSIX sockets"
        daemon = three.daemons.get(name)
        if not daemon:
            assert between, f"{name} without VMSGR has its own TCP connections"
            continue
        assert between == [], f"{name}'s OSD holds TCP connections to the other OSD itself"
        status = daemon.status()
        assert status["totals"]["bytes_direct"] > 1 << 20, f"vmsgrd of {name}"
        assert status["totals"]["faults"] == 0
        assert not [c for c in status["connections"] if int(c["peer"].rpartition(":")[2]) in MON_PORTS]
