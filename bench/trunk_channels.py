"""Message channels over trunks, two daemons on two hosts (network namespaces): what `vmsgr perf` says by message size, and
what many channels and many peers keep while nothing moves."""
import contextlib
import subprocess
import sys
import time

from record import Metric
from world import netns, process, raise_nofile, vmsgrd

from lib import trunk_peers, trunks   # world.py has said where it is

LOCAL, DIRECT, TRUNK = "local", "TCP", "trunk"
PORTS = {DIRECT: 7500, TRUNK: 7501}
SIZES = (64, 256, 1024, 4096, 16384, 65536)
ROUTES = [vmsgrd.route("direct", address="10.99.0.0/24", ports=str(PORTS[DIRECT])),
          vmsgrd.route("trunk", address="10.99.0.0/24", via="trunk")]


def perf(settings, recorder):
    """`vmsgr perf`, messages one way and there and back by size: through memory, two daemons over TCP, over a trunk."""
    if settings.plain:
        return
    with netns.Network(["a", "b"]) as net, trunks.Pair(net, routes=ROUTES) as pair, contextlib.ExitStack() as servers:
        for port in PORTS.values():
            servers.enter_context(_program(pair, "b", [vmsgrd.VMSGR, "perf", "--serve", f"{net['b'].address}:{port}",
                                                       "--socket", pair["b"].socket]))

        def measure(variant):
            to = [f"{net['b'].address}:{PORTS[variant]}"] if variant in PORTS else []
            before = pair["a"].status()["totals"]["bytes_trunk"]
            out = process.run_json([vmsgrd.VMSGR, "perf", *to, "--sizes", ",".join(map(str, SIZES)), "--seconds",
                                    str(settings.seconds / 3), "--json", "--socket", pair["a"].socket],
                                   netns=net["a"], timeout_s=60)
            by_trunk = pair["a"].status()["totals"]["bytes_trunk"] > before
            if by_trunk != (variant == TRUNK) or out["local"] != (variant == LOCAL):
                raise process.Failed(f"{variant}: the messages went another way")
            found = {}
            for r in out["results"]:
                found[f"{r['bytes']} B"] = r["bytes_per_s"] / 1e9
                found[f"{r['bytes']} B there and back"] = r["round_trip_us"]["p50"]
            return found
        metrics = {f"{size} B": Metric("GB/s") for size in SIZES} | {
            f"{size} B there and back": Metric("us", higher=False) for size in SIZES}
        recorder.alternate("vmsgr perf", {v: lambda v=v: measure(v) for v in (DIRECT, TRUNK, LOCAL)}, metrics)


def _program(pair, name, argv):
    """One that says a line when it is ready, and ends with its standard input."""
    p = process.Process(argv, netns=pair.net[name], name=f"{argv[0]} on {name}", stdin=subprocess.PIPE, stdout=-1)
    if not p.stdout.readline():
        p.kill()
        raise process.Failed(f"{argv} ended before it was ready")
    return p


# Opens or accepts channels, one message on each, and holds them.
HOLD = """
import sys
sys.path.insert(0, sys.argv[1])
from lib.channels import Session
s, what, host, port, many = Session(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]), int(sys.argv[6])
if what == 'serve':
    listener = s.listen(host, port); print('listens', flush=True)
    held = [listener.accept(60000) for _ in range(many)]
    for c in held: assert c.recv(timeout_ms=60000) == b'message'
else:
    held = [s.connect(port, host) for _ in range(many)]
    for c in held: c.send(b'message')
print('open', flush=True)
sys.stdin.read()
"""


def _hold(pair, name, what, host, port, many):
    argv = [sys.executable, "-c", HOLD, f"{process.ROOT}/tests", pair[name].socket, what, host, str(port), str(many)]
    return _program(pair, name, argv)


class Idle:
    """A daemon with nothing to do, for some seconds."""

    def __init__(self, daemon, seconds):
        before = process.cpu_s(daemon.pid)
        time.sleep(seconds)
        self.busy = (process.cpu_s(daemon.pid) - before) / seconds * 100
        self.resident = process.resident_kib(daemon.pid)


def idle_channels(settings, recorder):
    """1,000 channels over one trunk, then nothing: vmsgrd's memory and processor time, at once and a minute later."""
    if settings.plain:
        return
    many, wait, look = 1000, *((5, 2) if settings.quick else (50, 10))
    raise_nofile()

    def measure():
        with netns.Network(["a", "b"]) as net, trunks.Pair(net, routes=ROUTES, keepalive_ms=1000) as pair:
            at = net["b"].address, PORTS[TRUNK]
            before = {n: Idle(pair[n], look) for n in "ab"}
            with _hold(pair, "b", "serve", *at, many) as server:
                began = time.monotonic()
                with _hold(pair, "a", "open", *at, many):
                    server.stdout.readline()
                    took = time.monotonic() - began
                    there = sum(t["channels"] for t in pair["a"].status()["trunks"])
                    if there != many:
                        raise process.Failed(f"{there} channels are on trunks instead of {many}")
                    time.sleep(1)
                    first = {n: Idle(pair[n], look) for n in "ab"}
                    time.sleep(wait)
                    last = {n: Idle(pair[n], look) for n in "ab"}
        found = {"opening": many / took}
        for n, side in (("a", "opens"), ("b", "accepts")):
            found[f"memory, who {side}"] = (first[n].resident - before[n].resident) / many
            found[f"memory, who {side}, later"] = (last[n].resident - before[n].resident) / many
            found[f"busy, who {side}"] = first[n].busy
            found[f"busy, who {side}, later"] = last[n].busy
            found[f"busy before, who {side}"] = before[n].busy
        return found
    metrics = {"opening": Metric("1/s")}
    for side in ("opens", "accepts"):
        for when in ("", ", later"):
            metrics[f"memory, who {side}{when}"] = Metric("KiB each", higher=False)
            metrics[f"busy, who {side}{when}"] = Metric("% CPU", higher=False)
        metrics[f"busy before, who {side}"] = Metric("% CPU", higher=False)
    recorder.alternate(f"{many} channels idle on a trunk", {TRUNK: measure}, metrics, warm_up=False)


AIO_A_SHARD = 1024


def _shards_left():
    found = []
    for name in ("aio-max-nr", "aio-nr"):
        with open(f"/proc/sys/fs/{name}", encoding="ascii") as f:
            found.append(int(f.read()))
    return (found[0] - found[1]) // (AIO_A_SHARD + 64)


def idle_peers(settings, recorder):
    """100 peers, as many as fit a vmsgrd each with one shard and 64 MiB, joined with one vmsgrd by a session each way."""
    if settings.plain:
        return
    many, wait, look = (10, 5, 2) if settings.quick else (100, 50, 10)
    real = min(many // 2 if settings.quick else many, _shards_left() - 2)
    recorder.note("idle_peers", f"{real} of {many} peers are a vmsgrd each, the others are held by a program in Python: "
                  f"Seastar takes {AIO_A_SHARD} of fs.aio-max-nr for each shard")

    def measure():
        with netns.Network(["a", "b"]) as net, contextlib.ExitStack() as stack:
            folder = process.make_dir("vt-")
            stack.callback(process.remove_dir, folder)
            addresses = [f"10.99.0.{100 + i}" for i in range(many)]
            for address in addresses:
                net["b"].ip("addr", "add", f"{address}/24", "dev", "eth0")
            keys = {"keepalive_ms": 1000, "accept_from": ["10.99.0.0/24"]}

            def start(name, host, peers, address):
                config = trunks.trunk_yaml(name, f"{address}:{trunks.PORT}", peers, **keys)
                return stack.enter_context(vmsgrd.Vmsgrd(folder, routes=ROUTES[1:], netns=host, name=name, shards=1,
                                                         memory="64M", config=config))
            centre = start("centre", net["a"], {f"p{i}": (f"{address}:{trunks.PORT}", [address])
                                                for i, address in enumerate(addresses)}, net["a"].address)
            before = Idle(centre, look)
            began = time.monotonic()
            back = {"centre": (f"{net['a'].address}:{trunks.PORT}", [net["a"].address])}
            everyone = [start(f"p{i}", net["b"], back, address) for i, address in enumerate(addresses[:real])]
            held = process.Process([sys.executable, trunk_peers.__file__, net["a"].address, str(trunks.PORT),
                                    *addresses[real:]], netns=net["b"], name="trunk_peers", stdin=subprocess.PIPE,
                                   log=f"{folder}/trunk_peers.log")
            stack.enter_context(held)

            def up():
                states = [t for t in centre.status()["trunks"] if t["state"] == "up"]
                return len(states) == 2 * many
            process.wait_until(up, 60, f"{2 * many} sessions", every_s=0.5)
            took = time.monotonic() - began
            time.sleep(1)
            first = Idle(centre, look)
            time.sleep(wait)
            last = Idle(centre, look)
            peer = process.resident_kib(everyone[0].pid)
        return {"memory": (first.resident - before.resident) / many,
                "memory, later": (last.resident - before.resident) / many, "busy before": before.busy,
                "busy": first.busy, "busy, later": last.busy, "all up": took, "memory of a peer's vmsgrd": peer / 1024}
    recorder.alternate(f"{many} trunk peers idle", {TRUNK: measure}, {
        "memory": Metric("KiB a peer", higher=False), "memory, later": Metric("KiB a peer", higher=False),
        "busy before": Metric("% CPU", higher=False), "busy": Metric("% CPU", higher=False),
        "busy, later": Metric("% CPU", higher=False), "all up": Metric("s", higher=False),
        "memory of a peer's vmsgrd": Metric("MiB", higher=False)}, warm_up=False)
