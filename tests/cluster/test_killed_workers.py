"""The worker of each host is killed, or stopped, in turn while clients work: the cluster does not notice.

VMSGR_CLUSTER_KILL_S: how long workers are killed, instead of 30 s.
"""
import os
import signal
import threading
import time

import pytest
from lib import ceph, hosts, netns, process, vmsgrd
from lib.ends import PLAIN
from lib.rig import Objects

KILLS_S = int(os.environ.get("VMSGR_CLUSTER_KILL_S", 30))
EVERY_S = 5
WATCHDOG_MS = 2000   # the daemon's own default
REPLACED_S = 3.0
STOP_EVERY_S = REPLACED_S + 0.5
STOPS_S = 3 * STOP_EVERY_S + 0.5
ROUTES = [vmsgrd.route("ceph-osds", address="10.99.0.0/24", ports=ceph.OSD_PORTS)]
# With two OSDs nobody would ever be marked down for silence.
CONFIG = "[mon]\nmon osd min down reporters = 1\n"


class InTurn(threading.Thread):
    """Does something to the worker of one host after the other, until `until`; how long each was without one."""

    def __init__(self, three, number, until, every_s):
        super().__init__(daemon=True)
        self.three, self.number, self.until, self.every_s = three, number, until, every_s
        self.took_s, self.error = {name: [] for name in three.daemons}, None
        self.start()

    def run(self):
        try:
            while True:
                for name, daemon in self.three.daemons.items():
                    next_at = time.monotonic() + self.every_s
                    if next_at > self.until:
                        return
                    self.took_s[name].append(replaced(daemon, self.number))
                    time.sleep(max(0, next_at - time.monotonic()))
        except BaseException as e:   # shown by who waits
            self.error = e

    def result(self):
        self.join()
        if self.error:
            raise self.error
        return self.took_s


def replaced(daemon, number):
    """Seconds until another worker answers."""
    pid, began = daemon.pid, time.monotonic()
    os.kill(pid, number)

    def another():
        if daemon.pid in (None, pid):
            return False
        status = daemon.status()
        return not status.get("partial") and status["daemon"]["worker_pid"] not in (None, pid)
    process.wait_until(another, 20, "another worker", every_s=0.05)
    return time.monotonic() - began


def bench(three, kind, seconds, number, every_s, objects, *words):
    """rados bench, and objects of known content beside it, while workers are taken away."""
    log = f"{three.dir}/{kind}.log"
    client = three.cluster.start_client("rados", "-p", "test", "bench", str(int(seconds)), kind, "-t", "16", *words,
                                        log=log)
    until = time.monotonic() + seconds
    taking = InTurn(three, number, until, every_s)
    not_written = 0
    while taking.is_alive():
        not_written += not objects.write(f"{kind}{len(objects.sums)}", 300_000 + len(objects.sums))
        time.sleep(0.5)
    took_s = taking.result()
    assert client.wait(60) == 0, process.tail(log)
    with open(log, encoding="utf-8") as f:
        assert "rror" not in f.read(), process.tail(log, 50)
    assert not_written == 0
    assert all(took_s.values()), took_s
    return took_s


@pytest.mark.skipif(PLAIN, reason="about vmsgrd itself")
def test_workers_of_each_host_are_killed_and_stopped_in_turn(record_property):
    programs = ("osd.0", "osd.1", "client")
    with hosts.Hosts(tuple(hosts.PROGRAMS), routes=ROUTES, programs=programs, config=CONFIG) as three:
        cluster = three.cluster
        objects = Objects(cluster, three.dir)
        began, before = time.time(), {i: o["up_from"] for i, o in cluster.osd_dump().items()}
        keepers = {name: d.process.pid for name, d in three.daemons.items()}
        killed = bench(three, "write", KILLS_S, signal.SIGKILL, EVERY_S, objects, "-b", "65536", "--no-cleanup")
        check_direct(three)
        stopped = bench(three, "rand", STOPS_S, signal.SIGSTOP, STOP_EVERY_S, objects)
        print(f"\nseconds until another worker answered; killed: {killed}, stopped: {stopped}")
        record_property("killed", str(killed))
        record_property("stopped", str(stopped))
        assert all(WATCHDOG_MS / 2000 < t < REPLACED_S for times in stopped.values() for t in times), stopped
        cluster.check_alive()
        cluster.wait_up(2)
        cluster.wait_clean(20)
        assert len(objects.sums) > 6 and objects.wrong() == []
        down = cluster.log_times("mon.a", r"osd\.\d+ (failed|marked down)|osdmap e\d+: 2 total, [01] up")
        assert [t for t in down if t > began] == []
        assert {i: o["up_from"] for i, o in cluster.osd_dump().items()} == before, "an OSD booted again"
        for name, daemon in three.daemons.items():
            said = daemon.status()["daemon"]
            assert said["pid"] == keepers[name]
            assert said["worker_restarts"] == len(killed[name]) + len(stopped[name])


def check_direct(three):
    """All that lies between OSDs and client goes through the daemons."""
    own = {h.address for h in three.network.hosts.values()}
    for i, pid in three.cluster.osd_pids().items():
        name = f"osd{i}"
        ports = range(*map(int, ceph.OSD_PORTS.split("-")))
        assert [s for s in netns.tcp_sockets(three.network[name])
                if pid in s.pids and s.peer[0] in own and s.peer[1] in ports] == [], name
        status = three.daemons[name].status()
        assert [c for c in status["connections"] if c["path"] == "direct"] and status["totals"]["faults"] == 0, name
