"""What an OSD's or the daemon's failure looks like from the cluster: as on plain TCP, and as quickly."""
import errno
import os
import re
import resource
import signal
import time

import pytest
from lib import netns
from lib.ends import PLAIN
from lib.process import resident_kib, tail, wait_until
from lib.rig import Objects, Rig

routed = pytest.mark.skipif(PLAIN, reason="about vmsgrd itself")
BOTH = [True] if PLAIN else [False, True]


def marked_down_after(cluster, since, timeout_s=30):
    """Seconds until the monitor published a map with one OSD less up."""
    def times():
        return [t - since for t in cluster.log_times("mon.a", r"osdmap e\d+: 2 total, 1 up") if t > since - 0.01]
    return wait_until(times, timeout_s, "the monitor to mark an OSD down")[0]


@pytest.mark.parametrize("plain", BOTH, ids=lambda plain: "plain" if plain else "routed")
def test_killed_osd_is_gone_and_marked_down_at_once(plain, record_property):
    with Rig(plain=plain) as rig:
        ports = rig.cluster.osd_addresses(1)
        assert all(code == 0 for code, _ in netns.connect_all(ports, rig.netns))
        pid = rig.cluster.osds[1].pid
        if not plain:
            sessions, connections, listeners = rig.holdings(pid)
            assert sessions and connections and len(listeners) == 8
        killed = time.time()
        os.kill(pid, signal.SIGKILL)
        if not plain:
            time.sleep(max(0, killed + 0.1 - time.time()))
            assert rig.holdings(pid) == ([], [], []), "vmsgrd holds something of a process dead for 100 ms"
        answers = netns.connect_all(ports, rig.netns)
        assert all(code == errno.ECONNREFUSED and took < 0.1 for code, took in answers), answers
        answers = netns.connect_all(ports, rig.netns, rig.vmsgrd.prefix())
        assert all(code == errno.ECONNREFUSED and took < 0.1 for code, took in answers), answers
        took = marked_down_after(rig.cluster, killed)
        record_property("marked_down_s", round(took, 3))
        print(f"marked down after {took:.3f} s ({'plain' if plain else 'routed'})")
        assert took < 1.0
        assert int(rig.cluster.bench("write", 1, "-b", "4096")["Total writes made"]) > 0   # the other OSD serves on


def test_killed_osd_comes_back_with_its_data():
    with Rig(objectstore="bluestore") as rig:
        objects = Objects(rig.cluster, rig.dir)
        for n in range(5):
            assert objects.write(f"before-{n}", 300000)
        killed = time.time()
        rig.cluster.osds[1].kill()
        marked_down_after(rig.cluster, killed)
        for n in range(5):
            assert objects.write(f"while-down-{n}", 300000)
        rig.cluster.start_osd(1)
        rig.cluster.wait_up(2)
        rig.cluster.wait_clean()
        assert objects.wrong() == []


def test_stopped_osd_bounds_the_daemons_memory_and_rejoins():
    # One reporter suffices, or with two OSDs nobody is ever marked down for silence.
    with Rig(config="[mon]\nmon osd min down reporters = 1\n") as rig:
        before = 0 if PLAIN else resident_kib(rig.vmsgrd.pid)
        log = os.path.join(rig.dir, "bench.log")
        bench = rig.cluster.start_client("rados", "-p", "test", "bench", "30", "write", "-b", str(4 << 20), "-t", "64",
                                         "--max-objects", "100", log=log)
        time.sleep(2)
        stopped, largest = time.time(), 0
        os.kill(rig.cluster.osds[1].pid, signal.SIGSTOP)
        while time.time() < stopped + 40:
            if not PLAIN:
                largest = max(largest, resident_kib(rig.vmsgrd.pid))
            time.sleep(0.2)
        os.kill(rig.cluster.osds[1].pid, signal.SIGCONT)
        took = marked_down_after(rig.cluster, stopped)
        print(f"marked down after {took:.1f} s of silence; vmsgrd grew by {(largest - before) / 1024:.1f} MiB")
        assert 15 < took < 35
        assert largest - before < 64 << 10, "KiB more than before the OSD was stopped"
        rig.cluster.wait_up(2)
        rig.cluster.wait_clean()
        assert bench.wait(60) == 0, tail(log)
        rig.cluster.check_alive()
        if not PLAIN:
            listening = {item["address"] for item in rig.vmsgrd.status()["listeners"]}
            assert {f"{a}:{p}" for i in (0, 1) for a, p in rig.cluster.osd_addresses(i)} == listening


def test_osd_marked_down_by_hand_rebinds_and_rejoins():
    with Rig() as rig:
        before = rig.cluster.osd_dump()[1]
        rig.cluster.ceph("osd", "down", "1")
        wait_until(lambda: rig.cluster.osd_dump()[1]["up_from"] > before["up_from"], 30, "osd.1 to boot again")
        rig.cluster.wait_up(2)
        rig.cluster.wait_clean()
        after = rig.cluster.osd_dump()[1]
        assert after["cluster_addrs"] != before["cluster_addrs"], "osd.1 did not rebind"
        assert re.search(r"wrongly marked me down|map .* wrongly", rig.cluster.log_text("osd.1"))
        assert int(rig.cluster.bench("write", 1, "-b", "4096")["Total writes made"]) > 0
        if not PLAIN:
            listening = {item["address"] for item in rig.vmsgrd.status()["listeners"]}
            assert {f"{a}:{p}" for i in (0, 1) for a, p in rig.cluster.osd_addresses(i)} == listening


@routed   # on plain TCP the fifth EMFILE of accept aborts the OSD (ms max accept failures)
def test_osd_without_free_descriptors_does_not_abort():
    with Rig() as rig:
        pid = rig.cluster.osds[0].pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = {int(n) for n in os.listdir(f"/proc/{pid}/fd")}
        first_free = min(set(range(len(used) + 1)) - used)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free + 2, limits[1]))
        clients = [rig.cluster.start_client("rados", "-p", "test", "bench", "3", "write", "-b", "4096", "-t", "4",
                                            "--run-name", f"client-{n}",
                                            log=os.path.join(rig.dir, f"client-{n}.log")) for n in range(10)]
        time.sleep(6)
        rig.cluster.check_alive()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        for n, client in enumerate(clients):
            assert client.wait(60) == 0, tail(os.path.join(rig.dir, f"client-{n}.log"))
        rig.cluster.check_alive()
        assert int(rig.cluster.bench("write", 1, "-b", "4096")["Total writes made"]) > 0


@routed
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_cluster_outlives_the_daemon_and_attaches_again(number):
    with Rig() as rig:
        objects, log = Objects(rig.cluster, rig.dir), os.path.join(rig.dir, "bench.log")
        for n in range(5):
            assert objects.write(f"before-{n}", 200000)
        bench = rig.cluster.start_client("rados", "-p", "test", "bench", "14", "write", "-b", "65536", log=log)
        time.sleep(2)
        rig.vmsgrd.process.signal(number)
        assert rig.vmsgrd.process.wait(5) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
        for n in range(5):
            assert objects.write(f"without-{n}", 200000), "a client started without the daemon falls back to POSIX"
        rig.cluster.check_alive()
        rig.vmsgrd.start()
        began, pids = time.monotonic(), set(rig.cluster.osd_pids().values())

        def attached():
            status = rig.vmsgrd.status()
            ids = {s["id"] for s in status["sessions"] if s["pid"] in pids}
            return len(ids) == 2 and len([x for x in status["listeners"] if x["session"] in ids]) == 16
        wait_until(attached, 10, "both OSDs to attach again, with eight listeners each")
        print(f"attached again {time.monotonic() - began:.2f} s after vmsgrd was back")
        # Old connections between programs go on without the new daemon's knowledge: these are new ones.
        for n in range(8):
            assert objects.write(f"after-{n}", 200000)
        wait_until(lambda: rig.vmsgrd.carried_bytes() > 1 << 20, 10, "vmsgrd to carry data again")
        assert bench.wait(60) == 0, tail(log)
        rig.cluster.check_alive()
        rig.cluster.wait_up(2)
        rig.cluster.wait_clean()
        assert objects.wrong() == []
        assert objects.wrong(prefix=[]) == []


@routed
def test_cluster_starts_and_works_without_the_daemon():
    rig = Rig()
    rig.vmsgrd.start = lambda: rig.vmsgrd   # never started: every route falls back to POSIX
    with rig:
        objects = Objects(rig.cluster, rig.dir)
        assert objects.write("object", 1 << 20)
        assert objects.wrong() == []
