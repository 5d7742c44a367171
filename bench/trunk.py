"""Trunks: bench_net through two vmsgrd on two hosts, beside the same program with plain TCP between them in the same run.

The hosts are two namespaces with a veth pair between them. A pair of daemons for each packet size, each with an address of
its own; the client belongs to the near one, the server to the far one.
"""
import subprocess
from statistics import median

from record import CPU, Metric, cpu_metric
from world import NET, NO_SPIN, TCP, VMSGR, Cost, World, netns, process, trunks, vmsgrd, with_spin

LINK = "veth0"
STILL = NO_SPIN.removeprefix(VMSGR)
MESSAGES = {64: 25, 4096: 1.0, 65536: 0.8}   # by bytes a write: how many times those of TCP are wanted
PACKETS = {f"{n >> 10}K packets": n for n in (4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10)}
ROUND_TRIP = 1.6
SHARE_BESIDE_SLEEPER = 0.95
PAIRS = 5


class Host:
    def __init__(self, name, address, netns):
        self.name, self.address, self.netns = name, address, netns


class Pair:
    """A client's and a server's daemon with a trunk between them. keys: of the `trunk:` section; `tls` by host."""

    def __init__(self, world, number, keys):
        self.client = Host("a", f"10.98.{number}.1", world.netns)
        self.server = Host("b", f"10.98.{number}.2", world.far)
        peers = {self.client: self.server, self.server: self.client}
        for host in peers:
            host.netns.ip("addr", "add", f"{host.address}/24", "dev", LINK)
        net = f"10.98.{number}.0/24"
        keys = {"accept_from": [net]} | keys
        tls = keys.pop("tls", {})
        self.daemons = {me: vmsgrd.Vmsgrd(
            world.dir, netns=me.netns, name=f"trunk{number}{me.name}", shards=world.settings.shards,
            routes=[vmsgrd.route("trunk", address=net, via="trunk")],
            config=trunks.trunk_yaml(me.name, f"{me.address}:{trunks.PORT}",
                                     {other.name: (f"{other.address}:{trunks.PORT}", [other.address])},
                                     tls=tls.get(me.name), **keys))
            for me, other in peers.items()}

    def start(self):
        for d in self.daemons.values():
            d.start()
        for d in self.daemons.values():
            trunks.wait_up(d)

    def stop(self):
        for d in self.daemons.values():
            d.stop()

    def pids(self):
        return [d.pid for d in self.daemons.values()]

    def carried_bytes(self):
        return self.daemons[self.client].status()["totals"]["bytes_trunk"]


class Trunks(World):
    """pairs: variant -> keys of the trunk section."""

    def __init__(self, settings, pairs):
        super().__init__(settings)
        self.far = netns.Netns("far")
        self.netns.ip("link", "add", LINK, "type", "veth", "peer", "name", LINK, "netns", str(self.far.pid))
        for host in (self.netns, self.far):
            host.ip("link", "set", LINK, "up")
        self.pairs = {variant: Pair(self, n, keys) for n, (variant, keys) in enumerate(pairs.items(), 1)}

    def __enter__(self):
        super().__enter__()
        try:
            for variant, pair in self.pairs.items():
                pair.start()
                for far, host in ((False, pair.client), (True, pair.server)):
                    own = pair.daemons[host].prefix()
                    self._prefixes |= {self.side(variant, far): own,
                                       self.side(still(variant), far): with_spin(own, 0)}
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for pair in self.pairs.values():
            pair.stop()
        super().__exit__()
        self.far.close()

    @staticmethod
    def side(variant, far):
        return f"{variant}, server" if far and variant != TCP else variant

    def pair_of(self, variant):
        return self.pairs.get(variant.removesuffix(STILL))

    def serve_far(self, variant):
        pair = self.pair_of(variant) or self.pairs[VMSGR]
        return self.serve_net(self.side(variant, True), "serve", address=pair.server.address, host=self.far)

    def measure(self, variant, servers, call):
        pair = self.pair_of(variant)
        before = pair.carried_bytes() if pair else 0
        cost = Cost(servers, pair.pids() if pair else [])
        result = call()
        cost.end()
        if pair:
            process.wait_until(lambda: pair.carried_bytes() > before, 5, f"a trunk to have carried what {variant} sent")
            self.path_of[variant] = "trunk"
        return result, cost


def still(variant):
    """The same with programs that do not spin."""
    return variant + STILL


def trunk(settings, recorder):
    """Streams and round trips over a trunk, with packets of several sizes, and beside a reader that sleeps."""
    if settings.plain:
        return
    with Trunks(settings, {VMSGR: {}} | {name: {"packet_bytes": size} for name, size in PACKETS.items()}) as world:
        _streams(settings, recorder, world)
        _round_trips(settings, recorder, world)
        _beside_sleeper(settings, recorder, world)


def _streams(settings, recorder, world):
    servers = {v: world.serve_far(v) for v in (TCP, *world.pairs)}

    def measure(variant, size):
        server, where = servers[variant]
        out, cost = world.measure(variant, [server], lambda: world.run_net(
            variant, "stream", where, "--size", str(size), "--seconds", str(settings.seconds / 2)))
        return {"throughput": out["gigabytes_per_s"], "messages": out["messages_per_s"] / 1e3,
                CPU: cost.us_per(out["messages"], out["cpu_s"])}

    for size, wanted in MESSAGES.items():
        recorder.alternate(f"trunk {size} B writes", {v: lambda v=v, s=size: measure(v, s) for v in servers}, {
            "throughput": Metric("GB/s"), "messages": Metric("1000/s", targets={VMSGR: wanted}), CPU: cpu_metric()},
            warm_up=False, paths=world.path_of)


def _round_trips(settings, recorder, world):
    variants = [TCP, VMSGR, *map(still, world.pairs)]
    servers = {v: world.serve_far(v) for v in variants}
    count = max(2000, int(settings.seconds * 4000))

    def measure(variant):
        server, where = servers[variant]
        out, cost = world.measure(variant, [server], lambda: world.run_net(
            variant, "rtt", where, "--count", str(count)))
        return {"p50": out["p50_us"], "p99": out["p99_us"], CPU: cost.us_per(out["messages"], out["cpu_s"])}

    recorder.alternate("trunk round trip 64 B", {v: lambda v=v: measure(v) for v in variants}, {
        "p50": Metric("us", higher=False, targets={NO_SPIN: ROUND_TRIP}), "p99": Metric("us", higher=False),
        CPU: cpu_metric()}, warm_up=False, paths=world.path_of)


def _beside_sleeper(settings, recorder, world):
    """A stream, and the same one while another channel of its trunk is full because its reader sleeps; in pairs, as the
    speed of a machine changes from one second to the next."""
    (server, where), (_, sleeper_at) = world.serve_far(VMSGR), world.serve_far(VMSGR)

    def stream():
        out, _ = world.measure(VMSGR, [server], lambda: world.run_net(
            VMSGR, "stream", where, "--size", "4096", "--seconds", str(settings.seconds / PAIRS)))
        return out["gigabytes_per_s"]

    def beside():
        argv = [*world.prefix(VMSGR), NET, "stall", sleeper_at, "--size", "4096"]
        with process.Process(argv, netns=world.netns, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             log=f"{world.dir}/stall.log") as sleeper:
            if not sleeper.stdout.readline():
                raise process.Failed(f"the program that sleeps ended\n{process.tail(sleeper.log)}")
            return stream()

    def measure():
        pairs = [(stream(), beside()) for _ in range(PAIRS)]
        return {"alone": median(a for a, _ in pairs), "beside": median(b for _, b in pairs),
                "beside / alone": median(b / a for a, b in pairs)}

    recorder.alternate("trunk, a reader sleeps", {VMSGR: measure}, {
        "alone": Metric("GB/s"), "beside": Metric("GB/s"),
        "beside / alone": Metric("x", absolute=True, targets={VMSGR: SHARE_BESIDE_SLEEPER})}, warm_up=False,
        paths=world.path_of)
