"""Benches of Ceph: rados bench against a cluster of two OSDs, and the messenger alone."""
import contextlib
import os

from lib import vmsgrd
from lib.rig import ROUTES, Rig
from programs import number
from record import CPU, Metric, cpu_metric
from world import DIRECT, SOCKMAP, TCP, USLEEP0, VMSGR, World, children_cpu_s, process, sockmap, with_sockmap

OBJECT_4M_MAX = 400        # 1.6 GB on each of two memstores
MEMSTORE = "\n[osd]\nmemstore device bytes = 12884901888\n"
MESSENGER_CONF = """[global]
auth cluster required = none
auth service required = none
auth client required = none
log file =
admin socket =
"""
MESSENGER = {512: (30000, 1.1), 4096: (30000, 1.15), 65536: (15000, 1.3)}   # messages a second of run time, target


class RadosAnswers:
    """What one new cluster was asked, all of it: memstores grow, and a used one is slower than a new one."""

    def __init__(self, settings, cluster, daemons):
        """daemons: the vmsgrd that carry it, whose processor time counts."""
        self.seconds, self.cluster, self.daemons, self.found = settings.ceph_seconds, cluster, daemons, {}
        cluster.bench("write", 1, "-b", "4096")   # warm-up; it removes its objects
        self._ask("4 KiB write", "write", "-b", "4096", "--no-cleanup")
        self._ask("4 KiB random read", "rand")
        self._ask("4 KiB random read, one in flight", "rand", "-t", "1")
        self._ask("4 MiB write", "write", "-b", "4194304", "--no-cleanup", "--max-objects", str(OBJECT_4M_MAX))
        self._ask("4 MiB read", "seq")

    def _ask(self, name, kind, *words):
        pids = [*self.cluster.osd_pids().values(), *(d.pid for d in self.daemons)]
        before = sum(map(process.cpu_s, pids)) + children_cpu_s()
        out = self.cluster.bench(kind, self.seconds, *words)
        spent = sum(map(process.cpu_s, pids)) + children_cpu_s() - before
        done = float(out.get("Total writes made") or out["Total reads made"])
        if done == 0:
            raise process.Failed(f"rados bench {kind} did nothing: {out}")
        found = {"IOPS": float(out["Average IOPS"]), "MB/s": float(out["Bandwidth (MB/sec)"]),
                 "latency": float(out["Average Latency(s)"]) * 1e6, CPU: 1e6 * spent / done}
        wanted = rados_metrics({})
        self.found |= {key: value for what, value in found.items() if (key := f"{name}: {what}") in wanted}


def rados_metrics(goals):
    """The metrics of RadosAnswers. goals: variant -> metric -> its target."""
    units = {"IOPS": True, "MB/s": True, "latency": False, CPU: False}
    metrics = {}
    for name in ("4 KiB write", "4 KiB random read", "4 KiB random read, one in flight", "4 MiB write", "4 MiB read"):
        for what, higher in units.items():
            key = f"{name}: {what}"
            if (what == "MB/s") == name.startswith("4 MiB") or what == CPU:   # the rest says the same twice
                targets = {variant: of[key] for variant, of in goals.items() if key in of}
                metrics[key] = Metric("us" if not higher else what, higher=higher, targets=targets)
    return metrics


def carried_since(daemon, before, ways, at_least=1 << 20):
    """The way by which most bytes went. before: the daemon's totals then."""
    now = daemon.status()["totals"]
    carried = {way: now[f"bytes_{way}"] - before[f"bytes_{way}"] for way in ways}
    if sum(carried.values()) < at_least:
        raise process.Failed(f"vmsgrd carried {sum(carried.values())} bytes of a whole rados bench")
    return max(carried, key=carried.get)


def rados_once(settings, variant, paths):
    plain = settings.plain or variant in (TCP, SOCKMAP)
    rig = Rig(plain=plain, shards=settings.shards, config=MEMSTORE)
    if variant == DIRECT:
        routes = [{**r, "local": "no"} for r in ROUTES]
        rig.vmsgrd = vmsgrd.Vmsgrd(rig.dir, routes=routes, netns=rig.netns, shards=settings.shards, plain=plain)
    with contextlib.ExitStack() as until_end:
        redirected = None
        if variant == SOCKMAP:
            redirected = until_end.enter_context(contextlib.closing(sockmap.Sockmap(rig.dir)))
            rig.cluster.prefixes = {name: redirected.prefix() for name in ("client", "osd.0", "osd.1")}
        until_end.enter_context(rig)
        before = {} if plain else rig.vmsgrd.status()["totals"]
        found = RadosAnswers(settings, rig.cluster, [] if plain else [rig.vmsgrd]).found
        if redirected and redirected.moved() == 0:
            raise process.Failed("sockmap moved nothing")
        if not plain:
            paths[variant] = carried_since(rig.vmsgrd, before, ("local", "direct"))
        return found


def rados(settings, recorder, routed=VMSGR, bench="rados"):
    """rados bench: OSDs and client attached. CPU an operation is that of the OSDs, the client and vmsgrd."""
    goals = {"4 KiB write: IOPS": 1.03, "4 KiB random read: IOPS": 1.03, f"4 KiB write: {CPU}": 0.97,
             f"4 KiB random read: {CPU}": 0.97, "4 KiB random read, one in flight: latency": 0.9,
             "4 MiB write: MB/s": 1.2, "4 MiB read: MB/s": 1.2}
    if routed == DIRECT:
        goals = {"4 KiB write: IOPS": 0.9, "4 KiB random read: IOPS": 0.9}
    paths = {}
    variants = with_sockmap(TCP, routed) if routed == VMSGR else (TCP, routed)
    recorder.alternate(bench, {v: lambda v=v: rados_once(settings, v, paths) for v in variants},
                       rados_metrics({routed: goals}), warm_up=False, paths=paths)


def rados_direct(settings, recorder):
    """The same with vmsgrd in the path twice, as between two hosts. Only when named."""
    rados(settings, recorder, DIRECT, "rados direct")


def messenger(settings, recorder):
    """Ceph's messenger without a cluster: ceph_perf_msgr, with its usleep(0) made free on both sides."""
    with World(settings) as world:
        conf = os.path.join(world.dir, "messenger.conf")
        with open(conf, "w", encoding="ascii") as f:
            f.write(MESSENGER_CONF)
        env = {"CEPH_CONF": conf, "LD_PRELOAD": USLEEP0}

        def measure(variant, size, messages):
            port = world.port()
            where = f"127.0.0.1:{port}"
            server = world.serve(variant, ["ceph_perf_msgr_server", where, "2", "0"], port=port, env=env)
            # One job: a second one's connect can wait for ever for the first one's handshake (a fault of Ceph's).
            argv = ["ceph_perf_msgr_client", where, "1", "16", str(messages), "0", str(size)]
            done, cost = world.measure(variant, [server], lambda: world.run(variant, argv, env=env))
            world.stop(server)
            us = number(rf"Total op {messages} run time (\d+)us", done.stdout + done.stderr, "ceph_perf_msgr_client")
            return {"operations": messages / us * 1e3, CPU: cost.us_per(messages)}

        for size, (rate, target) in MESSENGER.items():
            messages = int(rate * settings.seconds)
            variants = {v: lambda v=v: measure(v, size, messages) for v in (TCP, VMSGR)}
            recorder.alternate(f"messenger {size} B", variants, {
                "operations": Metric("1000/s", targets={VMSGR: target}), CPU: cpu_metric()}, paths=world.path_of)
