"""Encryption between two hosts: a trunk with TLS beside the proxies that do the same for any program, a pair of HAProxy and
one of stunnel, in the same run. Two namespaces with a veth pair between them; the proxies verify both ends, too.
"""
import shutil

from record import CPU, Metric, cpu_metric
from trunk import Trunks
from world import TCP, VMSGR, process

from lib import certificates   # world.py has said where it is

TLS, HAPROXY, STUNNEL = "VMSGR TLS", "HAProxy", "stunnel"
SIZES = (4096, 65536)

# where: what it listens on; to: where it connects; near, far: what TLS needs on either side.
HAPROXY_FILE = """
global
  nbthread 1
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen x
  bind {where} {near}
  server s {to} {far}
"""
STUNNEL_FILE = """
foreground = yes
pid =
cert = {certificate}
key = {key}
CAfile = {ca}
verify = 2
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[x]
client = {client}
accept = {where}
connect = {to}
"""


class Proxies:
    """A pair of them for each server, one on each host."""

    def __init__(self, world, tls):
        self.world, self.tls = world, tls
        self.both = f"{world.dir}/both.pem"
        with open(self.both, "w", encoding="ascii") as out:
            for name in ("certificate", "key"):
                with open(tls[name], encoding="ascii") as f:
                    out.write(f.read())

    def before(self, kind, server, where):
        """(the processes of the way to that server, where a client connects)."""
        target = where.removeprefix("tcp:")
        between, front = f"{target.rpartition(':')[0]}:{self.world.port()}", f"127.0.0.1:{self.world.port()}"
        far = self._start(kind, False, between, target)
        near = self._start(kind, True, front, between)
        return [server, far, near], f"tcp:{front}"

    def _start(self, kind, is_client, where, to):
        path = f"{self.world.dir}/{kind}{where}"
        text = (self._haproxy if kind == HAPROXY else self._stunnel)(is_client, where, to)
        with open(path, "w", encoding="ascii") as f:
            f.write(text)
        argv = ["haproxy", "-db", "-f", path] if kind == HAPROXY else ["stunnel", path]
        return self.world.serve(TCP, argv, port=int(where.rpartition(":")[2]), host=None if is_client else self.world.far)

    def _haproxy(self, is_client, where, to):
        secured = f"ssl verify required crt {self.both} ca-file {self.tls['ca']}"
        return HAPROXY_FILE.format(where=where, to=to, near="" if is_client else secured, far=secured if is_client else "")

    def _stunnel(self, is_client, where, to):
        return STUNNEL_FILE.format(where=where, to=to, client="yes" if is_client else "no", **self.tls)


def encryption(settings, recorder):
    """What encryption between two hosts costs: a trunk with TLS, pairs of HAProxy and stunnel."""
    if settings.plain:
        return
    rivals = [kind for kind in (HAPROXY, STUNNEL) if shutil.which(kind.lower())]
    for kind in (HAPROXY, STUNNEL):
        if kind not in rivals:
            recorder.note("TLS", f"no column: {kind.lower()} is not installed")
    folder = process.make_dir("vk-")
    try:
        ca = certificates.Authority(folder, "ca")
        certified = {name: ca.sign(name) for name in "ab"}
        with Trunks(settings, {VMSGR: {}, TLS: {"tls": certified}}) as world:
            ways = {}
            for variant in (TCP, *world.pairs):
                server, where = world.serve_far(variant)
                ways[variant] = [server], where
            proxies = Proxies(world, certified["a"])
            for kind in rivals:
                ways[kind] = proxies.before(kind, *world.serve_far(TCP))
            _measure(settings, recorder, world, ways, rivals)
    finally:
        process.remove_dir(folder)


def _measure(settings, recorder, world, ways, rivals):
    def run(variant, mode, *words):
        servers, where = ways[variant]
        client = TCP if variant in rivals else variant   # a proxy's client is a plain one
        return world.measure(variant, servers, lambda: world.run_net(client, mode, where, *map(str, words)))

    def stream(variant, size):
        out, cost = run(variant, "stream", "--size", size, "--seconds", settings.seconds / 2)
        seconds_a_write = cost.us_per(out["messages"], out["cpu_s"]) / 1e6
        return {"throughput": out["gigabytes_per_s"], "CPU a GB": seconds_a_write * 1e9 / size}

    def round_trip(variant):
        out, cost = run(variant, "rtt", "--count", max(2000, int(settings.seconds * 4000)))
        return {"p50": out["p50_us"], "p99": out["p99_us"], CPU: cost.us_per(out["messages"], out["cpu_s"])}

    def each(measure, *words):
        return {v: lambda v=v: measure(v, *words) for v in ways}

    for size in SIZES:
        recorder.alternate(f"TLS {size} B writes", each(stream, size), {
            "throughput": Metric("GB/s"), "CPU a GB": Metric("s", higher=False)}, paths=world.path_of, rivals=rivals)
    recorder.alternate("TLS round trip 64 B", each(round_trip), {
        "p50": Metric("us", higher=False), "p99": Metric("us", higher=False), CPU: cpu_metric()}, paths=world.path_of,
        rivals=rivals)
