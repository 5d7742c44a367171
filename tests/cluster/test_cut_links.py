"""Links between the hosts of a cluster are cut while a client works: with all traffic on trunks nobody is marked down.

VMSGR_CLUSTER_CUT_ROUNDS: the cuts so many times in each of the two phases, write and read; then also on plain TCP, for
comparison and to prove that they cut: `-s` shows both. Each cut is shorter than the trunks' limit and than osd_heartbeat_grace (20 s):
heartbeats go over the trunks, too, and beyond the grace an OSD that nobody hears is rightly marked down.
"""
import contextlib
import os
import threading
import time

import pytest
from lib import ceph, certificates, hosts, netns, process, vmsgrd
from lib.ends import PLAIN
from lib.rig import Objects

ASKED = os.environ.get("VMSGR_CLUSTER_CUT_ROUNDS")
ROUNDS = int(ASKED or 1)
WAYS = [False] if PLAIN else [True, False] if ASKED else [True]
CUT, PORT = "osd1", "p3"   # the host that is cut off, and its port of the switch
PAUSE_S = 1.5
OUTAGE_MS = 15000
ROUTES = [vmsgrd.route(name, address="10.99.0.0/24", ports=ports, via="trunk")
          for name, ports in (("osds", ceph.OSD_PORTS), ("mon", "3300"), ("mon-v1", "6789"))]
EVERYBODY = [p for programs in hosts.PROGRAMS.values() for p in programs]
# With two OSDs nobody would ever be marked down for silence; and one that is marked down six times in ten minutes leaves.
CONFIG = "[mon]\nmon osd min down reporters = 1\n[osd]\nosd max markdown count = 1000\n"


def killed(network, seconds):
    """Every connection of the host, once a second."""
    for _ in range(int(seconds)):
        process.run(["ss", "-K", "dst", "10.99.0.0/24"], netns=network[CUT], check=False)
        time.sleep(1)


def filtered(verdict):
    def cut(network, seconds):
        chains = "; ".join(f"add chain ip cut {c} {{ type filter hook {c} priority 0; }}; "
                           f"add rule ip cut {c} ip {way} 10.99.0.0/24 meta l4proto tcp {verdict}"
                           for c, way in (("input", "saddr"), ("output", "daddr")))
        process.run(["nft", f"add table ip cut; {chains}"], netns=network[CUT])
        time.sleep(seconds)
        process.run(["nft", "delete table ip cut"], netns=network[CUT])
    return cut


def unplugged(network, seconds):
    network.switch.ip("link", "set", PORT, "down")
    time.sleep(seconds)
    network.switch.ip("link", "set", PORT, "up")


# What is rejected is told to both sides, so the resets themselves pass.
CUTS = [("sockets killed", killed, 3), ("rejected", filtered("tcp flags & rst != rst reject with tcp reset"), 3),
        ("dropped", filtered("drop"), 4), ("link down", unplugged, 6)]


class Cutter(threading.Thread):
    """All cuts, one after the other; `objects` of known content are written beside them."""

    def __init__(self, three, objects, phase):
        super().__init__(daemon=True)
        self.network, self.cluster, self.error, self.down = three.network, three.cluster, None, {}
        self.not_written = 0
        self.start()
        for n in range(1000):
            if not self.is_alive():
                break
            try:
                self.not_written += not objects.write(f"{phase}{n}", 100_000 + n)
            except process.Failed:   # no answer within a minute
                self.not_written += 1
            time.sleep(0.5)
        self.join()
        if self.error:
            raise self.error

    def run(self):
        try:
            for _ in range(ROUNDS):
                for name, cut, seconds in CUTS:
                    time.sleep(PAUSE_S)
                    before = marked_down(self.cluster)
                    cut(self.network, seconds)
                    time.sleep(PAUSE_S)
                    self.down[name] = self.down.get(name, 0) + marked_down(self.cluster) - before
        except BaseException as e:   # shown by who waits
            self.error = e


def marked_down(cluster):
    return len(cluster.log_times("mon.a", r"osd\.\d+ failed \("))


def bench_seconds():
    return int(ROUNDS * sum(s + 2 * PAUSE_S for _, _, s in CUTS)) + 1


def bench(three, kind, objects, *words):
    """rados bench while links are cut: what it says, and how often OSDs were marked down, by cut."""
    log = f"{three.dir}/{kind}.log"
    client = three.cluster.start_client("rados", "-p", "test", "bench", str(bench_seconds()), kind, "-t", "16", *words,
                                        log=log)
    cutter = Cutter(three, objects, kind)
    assert client.wait(120) == 0, process.tail(log)
    with open(log, encoding="utf-8") as f:
        lines = f.read().splitlines()
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines) if value}
    # The table has a line a second: running and finished operations so far.
    done = [int(w[3]) for w in map(str.split, lines) if len(w) == 8 and w[0].isdigit()]
    still, longest = 0, 0
    for a, b in zip(done, done[1:]):
        still = still + 1 if a == b else 0
        longest = max(longest, still)
    return {"ops/s": float(said["Average IOPS"]), "MB/s": float(said["Bandwidth (MB/sec)"]), "no progress for s": longest,
            "slowest s": float(said["Max latency(s)"]), "marked down": cutter.down,
            "objects not written": cutter.not_written}


@contextlib.contextmanager
def three_hosts(trunk):
    tls = {}
    directory = process.make_dir("vca-")
    if trunk:
        ca = certificates.Authority(directory, "ca")
        others = {name: ", ".join(n for n in hosts.PROGRAMS if n != name) for name in hosts.PROGRAMS}
        tls = {name: {**ca.sign(name), "names": f"[{others[name]}]"} for name in hosts.PROGRAMS}
    with hosts.Hosts(hosts.PROGRAMS if trunk else (), routes=ROUTES, programs=EVERYBODY, config=CONFIG, tls=tls,
                     trunk={"outage_ms": OUTAGE_MS}) as three:
        yield three
    process.remove_dir(directory)


def check_all_is_on_trunks(three):
    own = {h.address for h in three.network.hosts.values()}
    for i, pid in three.cluster.osd_pids().items():
        assert [s for s in netns.tcp_sockets(three.network[f"osd{i}"]) if pid in s.pids and s.peer[0] in own] == []
    for name, daemon in three.daemons.items():
        status = daemon.status()
        sessions = [t for t in status["trunks"] if t["outgoing"]]
        assert len(sessions) == 2 and status["totals"]["bytes_trunk"] > 1 << 20 and status["totals"]["faults"] == 0, name
        far = [c for c in status["connections"] if c["path"] == "direct" and c["peer"].rpartition(":")[0] in
               own - {three.network[name].address}]
        assert far == [], f"{name} has connections to other hosts that go by themselves"


@pytest.mark.parametrize("trunk", WAYS, ids=lambda trunk: "trunk" if trunk else "plain")
@pytest.mark.skipif(certificates.why_not() is not None, reason=certificates.why_not() or "")
def test_cuts_of_a_link_under_load(trunk, record_property):
    with three_hosts(trunk) as three:
        cluster = three.cluster
        objects = Objects(cluster, three.dir)
        before = {i: o["up_from"] for i, o in cluster.osd_dump().items()}
        figures = {"write": bench(three, "write", objects, "-b", "65536", "--no-cleanup"),
                   "rand": bench(three, "rand", objects)}
        for kind, f in figures.items():
            print(f"\n{'trunks' if trunk else 'plain TCP'}, {kind}: {f}")
            record_property(kind, str(f))
        cluster.check_alive()
        cluster.wait_up(2)
        cluster.wait_clean(60)
        assert objects.wrong() == [] and len(objects.sums) >= 4
        after = {i: o["up_from"] for i, o in cluster.osd_dump().items()}
        down = marked_down(cluster)
        if trunk:
            assert down == 0 and after == before
            assert all(f["objects not written"] == 0 for f in figures.values())
            assert sum(t["replayed"] for d in three.daemons.values() for t in d.status()["trunks"]) > 0
            check_all_is_on_trunks(three)
        else:
            assert down > 0, "these cuts do nothing to plain TCP: they prove nothing of trunks"
