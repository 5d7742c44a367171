"""The cluster of `make demo`: everything active+clean, bench without error, and who carried what."""
import pytest
from lib import ceph
from lib.ends import PLAIN
from lib.process import wait_until
from lib.rig import MON_PORTS, Objects, Rig

SIZES = [0, 1, 4096, 1 << 20, 9 << 20]


@pytest.fixture(scope="module")
def rig():
    with Rig() as made:
        yield made


def port(endpoint):
    return int(endpoint.rpartition(":")[2])


def test_rados_bench_runs_without_error(rig):
    wrote = rig.cluster.bench("write", 3, "-b", "65536", "--no-cleanup")
    assert int(wrote["Total writes made"]) > 50
    for kind in ("seq", "rand"):
        read = rig.cluster.bench(kind, 2)
        assert int(read["Total reads made"]) > 50, kind
    small = rig.cluster.bench("write", 2, "-b", "4096")
    assert int(small["Total writes made"]) > 50


def test_objects_read_back_equal_with_and_without_vmsgr(rig):
    objects = Objects(rig.cluster, rig.dir)
    for size in SIZES:
        assert objects.write(f"routed-{size}", size)
        assert objects.write(f"plain-{size}", size, prefix=[])
    assert objects.wrong() == []
    assert objects.wrong(prefix=[]) == []


def test_osds_hold_no_tcp_connection_to_one_another(rig):
    pids = set(rig.cluster.osd_pids().values())
    between = ceph.tcp_between(rig.sockets(), pids)
    if PLAIN:
        assert len(between) >= 6, "the look that must find none with vmsgrd finds them on plain TCP"
    else:
        assert between == []


def test_monitor_stays_on_posix_sockets(rig):
    sockets = [s for s in rig.sockets() if s.peer[1] in MON_PORTS]
    holders = set().union(*(s.pids for s in sockets))
    assert set(rig.cluster.osd_pids().values()) <= holders


@pytest.mark.skipif(PLAIN, reason="asks vmsgrd")
def test_status_shows_the_osds_bytes_and_no_monitor(rig):
    client = rig.cluster.start_client("rados", "-p", "test", "bench", "3", "write", "-b", "65536")
    pids = set(rig.cluster.osd_pids().values())

    def both_carry():
        moved = dict.fromkeys(pids, 0)
        for c in rig.vmsgrd.status()["connections"]:
            if c["pid"] in pids:
                moved[c["pid"]] += c["bytes_in"] + c["bytes_out"]
        return all(n > 1 << 20 for n in moved.values())

    wait_until(lambda: client.pid in {s["pid"] for s in rig.vmsgrd.status()["sessions"]}, 5, "the client to attach")
    wait_until(both_carry, 5, "each OSD to have moved more than 1 MiB through vmsgrd")
    status = rig.vmsgrd.status()
    assert client.wait(30) == 0
    for c in status["connections"]:
        assert not {port(c["local"]), port(c["peer"])} & set(MON_PORTS), c
        assert c["route"] == "ceph-osds" and c["path"] in ("direct", "local"), c
    listening = {port(item["address"]) for item in status["listeners"]}
    for i in rig.cluster.osds:
        assert {p for _, p in rig.cluster.osd_addresses(i)} <= listening
    assert status["totals"]["bytes_direct"] + status["totals"]["bytes_local"] > 10 << 20
    assert status["totals"]["faults"] == 0


def test_all_placement_groups_stay_clean_and_nobody_was_marked_down(rig):
    rig.cluster.check_alive()
    rig.cluster.wait_clean(20)
    assert rig.cluster.log_times("mon.a", r"osd\.\d+ failed|osd\.\d+ marked down") == []
