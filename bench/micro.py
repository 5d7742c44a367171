"""Benches of our own programs (bench_net, bench_ring): streams, round trips, connects, idle connections, the ring."""
import json
import shlex
import subprocess
import time

from record import CPU, Metric, cpu_metric
from world import (NET, NO_SPIN, RENO, RING, SPIN, TCP, TCP_ONE, UNIX, VMSGR, VMSGR_ONE, World, can_spin, process,
                   raise_nofile, with_sockmap)

STREAM_SIZES = (64, 256, 1024, 4096, 16384, 65536, 262144)
STREAM_BENCH = "stream {} B writes"
FILES_A_CONNECTION = 8   # that vmsgrd may hold
RING_CAPACITIES = {"64K": 1 << 16, "256K": 1 << 18, "1M": 1 << 20, "4M": 1 << 22}


def stream(settings, recorder):
    """One writer, one write() a message; one reader with 64 KiB buffers, who measures."""
    targets = {64: {"messages": {VMSGR: 30}}, 65536: {"throughput": {VMSGR: 2.5}}}
    with World(settings) as world:
        servers = {v: world.serve_net(v, "serve") for v in with_sockmap(TCP, RENO, UNIX, VMSGR)}

        def measure(variant, size):
            server, where = servers[variant]
            out, cost = world.measure(variant, [server], lambda: world.run_net(
                variant, "stream", where, "--size", str(size), "--seconds", str(settings.seconds)))
            return {"throughput": out["gigabytes_per_s"], "messages": out["messages_per_s"] / 1e3,
                    CPU: cost.us_per(out["messages"], out["cpu_s"])}

        for size in STREAM_SIZES:
            goal = targets.get(size, {})
            recorder.alternate(STREAM_BENCH.format(size), {v: lambda v=v: measure(v, size) for v in servers}, {
                "throughput": Metric("GB/s", targets=goal.get("throughput")),
                "messages": Metric("1000/s", targets=goal.get("messages")), CPU: cpu_metric()}, paths=world.path_of)


def round_trip(settings, recorder):
    """64 bytes there and back, blocking and by epoll."""
    variants = with_sockmap(TCP, UNIX, VMSGR, TCP_ONE, VMSGR_ONE)
    if can_spin():
        variants += [NO_SPIN, SPIN]
    else:
        recorder.note("round trip", f"{NO_SPIN}, {SPIN}: skipped, `vmsgr run` has no --spin-us")
    count = max(20000, int(settings.seconds * 30000))
    for name, mode, words in (("blocking", "serve", []), ("epoll", "serve-epoll", ["--epoll"])):
        with World(settings) as world:
            servers = {v: world.serve_net(v, mode) for v in variants}

            def measure(variant):
                server, where = servers[variant]
                out, cost = world.measure(variant, [server], lambda: world.run_net(
                    variant, "rtt", where, "--count", str(count), *words))
                return {"p50": out["p50_us"], "p99": out["p99_us"], CPU: cost.us_per(out["messages"], out["cpu_s"])}

            recorder.alternate(f"round trip 64 B {name}", {v: lambda v=v: measure(v) for v in variants}, {
                "p50": Metric("us", higher=False, targets={VMSGR: 0.8, NO_SPIN: 0.8, SPIN: 0.12}),
                "p99": Metric("us", higher=False), CPU: cpu_metric()}, paths=world.path_of)


def connect(settings, recorder):
    """Connect, one request, close; one after the other."""
    with World(settings) as world:
        servers = {v: world.serve_net(v, "serve") for v in with_sockmap(TCP, UNIX, VMSGR)}

        def measure(variant):
            server, where = servers[variant]
            out, cost = world.measure(variant, [server], lambda: world.run_net(
                variant, "connect", where, "--seconds", str(settings.seconds)))
            return {"rate": out["connects_per_s"], CPU: cost.us_per(out["messages"], out["cpu_s"])}

        recorder.alternate("connect request close", {v: lambda v=v: measure(v) for v in servers}, {
            "rate": Metric("1/s", targets={VMSGR: 1.0}), CPU: cpu_metric()}, paths=world.path_of)


# Prints how many of them failed.
STORM = """
for i in $(seq {programs}); do {one} >/dev/null & started+=($!); done
for p in "${{started[@]}}"; do wait $p || failed=$((failed + 1)); done
echo $((failed))
"""


def starts(settings, recorder):
    """500 programs that start at once, each with ten connects, one request on each."""
    programs, each = (50 if settings.quick else 500), 10

    def measure(variant):
        with World(settings) as world:
            server, where = world.serve_net(variant, "serve-epoll")
            one = shlex.join([*world.prefix(variant), NET, "connect", where, "--times", str(each)])

            def storm():
                begin = time.monotonic()
                done = process.run(["bash", "-c", STORM.format(programs=programs, one=one)], netns=world.netns)
                return time.monotonic() - begin, int(done.stdout)
            (took_s, failed), cost = world.measure(variant, [server], storm)
            return {"time": took_s, "failed": failed, "CPU a program": cost.us_per(programs) / 1e3}

    recorder.alternate(f"{programs} starts at once", {v: lambda v=v: measure(v) for v in (TCP, VMSGR)}, {
        "time": Metric("s", higher=False), "CPU a program": Metric("ms", higher=False),
        "failed": Metric("programs", higher=False, worst=True, targets={TCP: 0, VMSGR: 0})}, warm_up=False)


class Memory:
    """KiB now: what programs have resident, memory shared among them counted once; and the kernel's slab."""

    def __init__(self, pids):
        self.resident = mapped = 0
        for pid in pids:
            rollup = _kib(f"/proc/{pid}/smaps_rollup")
            self.resident += rollup["Pss"]
            mapped += rollup.get("Pss_Shmem", 0)
        system = _kib("/proc/meminfo")
        self.unmapped = system["Shmem"] - mapped   # memfds that somebody holds without mapping them
        self.slab = system["Slab"]


def _kib(path):
    found = {}
    with open(path, encoding="ascii", errors="replace") as f:
        for line in f:
            name, _, rest = line.partition(":")
            if rest.endswith("kB\n"):
                found[name] = int(rest.split()[0])
    return found


def idle(settings, recorder):
    """Many open connections on which nothing moves, both ends in programs of the same variant: what they keep in
    memory, what vmsgrd does about them, and how a busy connection fares beside them."""
    many, files = settings.connections, raise_nofile()
    if files < FILES_A_CONNECTION * many:
        recorder.note("idle", f"{files} descriptors a process are all that is allowed here (RLIMIT_NOFILE); with "
                      f"{FILES_A_CONNECTION} for each connection vmsgrd takes {files // FILES_A_CONNECTION}")

    def measure(variant):
        with World(settings) as world:
            _, where = server = world.serve_net(variant, "serve-epoll")
            argv = [NET, "idle", where, "--connections", str(many), "--count", "20000"]
            client = process.Process([*world.prefix(variant), *argv], netns=world.netns, stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, log=f"{world.dir}/idle.log")
            with client:
                alone = _answer(client)["alone_p50_us"]
                pids = [server[0].pid, client.pid] + ([world.daemon.pid] if world.daemon.pid else [])
                busy_alone = _busy_percent(world, settings)
                before = Memory(pids)
                opened = _answer(client, go=True)["opened_per_s"]
                time.sleep(1)
                after = Memory(pids)
                busy = _busy_percent(world, settings)
                if variant == VMSGR and not settings.plain:
                    there = world.daemon.status()["totals"]["connections_open"]
                    if there < many:
                        raise process.Failed(f"vmsgrd has {there} connections open instead of {many}")
                beside = _answer(client, go=True)["beside_p50_us"]
        resident = after.resident - before.resident + max(0, after.unmapped - before.unmapped)
        return {"memory": resident / many, "kernel slab": (after.slab - before.slab) / many, "vmsgrd busy": busy,
                "vmsgrd busy alone": busy_alone, "opening": opened, "round trip alone": alone,
                "round trip beside": beside, "beside / alone": beside / alone}

    recorder.alternate(f"{many} idle", {v: lambda v=v: measure(v) for v in (TCP, VMSGR)}, {
        "memory": Metric("KiB each", higher=False, absolute=True, targets={VMSGR: 64}),
        "kernel slab": Metric("KiB each", higher=False),
        "vmsgrd busy": Metric("% CPU", higher=False, absolute=True, targets={VMSGR: 1.0}),
        "vmsgrd busy alone": Metric("% CPU", higher=False),   # with one connection open
        "opening": Metric("1/s"),
        "round trip alone": Metric("us", higher=False), "round trip beside": Metric("us", higher=False),
        "beside / alone": Metric("x", higher=False)}, warm_up=False)


def half_idle(settings, recorder):
    """1,000 connections on each of which a message a second goes out and comes back: nobody stays awake for them."""
    many = 1000
    raise_nofile()

    def measure(variant):
        with World(settings) as world:
            server, where = world.serve_net(variant, "serve-epoll")
            argv = [NET, "seldom", where, "--connections", str(many), "--seconds", str(max(2, settings.seconds))]
            client = process.Process([*world.prefix(variant), *argv], netns=world.netns, stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, log=f"{world.dir}/seldom.log")
            with client:
                _answer(client)
                out, cost = world.measure(variant, [server], lambda: _answer(client, go=True))
            return {"p50": out["p50_us"], "p99": out["p99_us"], CPU: cost.us_per(out["messages"], out["cpu_s"])}

    recorder.alternate(f"{many} half idle", {v: lambda v=v: measure(v) for v in with_sockmap(TCP, VMSGR)}, {
        "p50": Metric("us", higher=False), "p99": Metric("us", higher=False), CPU: cpu_metric({VMSGR: 1.0})})


def _busy_percent(world, settings):
    """What vmsgrd uses of a processor while nothing moves."""
    if not world.daemon.pid:
        return 0.0
    began, cpu = time.monotonic(), process.cpu_s(world.daemon.pid)
    time.sleep(max(2.0, settings.seconds * 2.5))
    return 100 * (process.cpu_s(world.daemon.pid) - cpu) / (time.monotonic() - began)


def _answer(client, go=False):
    if go:
        client.stdin.write(b"\n")
        client.stdin.flush()
    line = client.stdout.readline()
    if not line:
        raise process.Failed(f"the client with the idle connections ended\n{process.tail(client.log)}")
    return json.loads(line)


def ring(settings, recorder):
    """The bare ring between two threads, by capacity, beside what one memcpy and one shared cache line can do."""
    if settings.plain:
        return
    seconds = settings.seconds / 4

    def value(what, capacity=1 << 20):
        return json.loads(process.run([RING, what, str(capacity), str(seconds)]).stdout)["value"]

    def bare():
        copied = value("memcpy")
        return {"bulk": copied, "round trip": value("line"), "one by one": copied * 1e3 / 64,
                "batches of 16": copied * 1e3 / 64}

    def of(capacity):
        return {"bulk": value("bulk", capacity), "round trip": value("rtt", capacity),
                "one by one": value("single", capacity) / 1e6, "batches of 16": value("batch", capacity) / 1e6}

    recorder.alternate("bare ring", {"memcpy, cache line": bare} | {
        name: lambda c=capacity: of(c) for name, capacity in RING_CAPACITIES.items()}, {
            "bulk": Metric("GB/s", targets={"1M": 0.15}), "round trip": Metric("us", higher=False, targets={"1M": 4}),
            "one by one": Metric("million/s"), "batches of 16": Metric("million/s")})
