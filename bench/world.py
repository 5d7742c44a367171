"""Where benches run: a namespace with a vmsgrd that carries all of its loopback, and what a measurement cost there."""
import itertools
import json
import os
import resource
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests"))

import sockmap  # noqa: E402
from lib import netns, process, trunks, vmsgrd  # noqa: E402

NET = os.path.join(vmsgrd.BIN, "bench_net")
RING = os.path.join(vmsgrd.BIN, "bench_ring")
ALONE = os.path.join(vmsgrd.BIN, "bench_vmsgrd_alone")   # vmsgrd without a keeper
USLEEP0 = os.path.join(os.path.dirname(vmsgrd.BIN), "lib/libbench_usleep0.so")

LOOPBACK = "127.0.0.0/8"
SPIN_US = 50
NOFILE = 200000
LOCAL_PORTS = "10000 65535"   # a connect a moment leaves its port in TIME_WAIT: the default range is soon used up

# The variants, by how both programs are started. The first of a bench is what the others are compared with.
TCP, UNIX, VMSGR = "TCP", "AF_UNIX", "VMSGR"
RENO = "TCP reno"             # a machine may be set to bbr, which paces: slower here for large writes, faster for small
# Both ends on one processor, where no wake-up has to cross: without, the scheduler decides, and a round trip of plain
# TCP takes 14 or 50 us here by that alone.
TCP_ONE, VMSGR_ONE = "TCP one CPU", "VMSGR one CPU"
SPIN, NO_SPIN = f"VMSGR spin {SPIN_US}", "VMSGR spin 0"
SOCKMAP = "sockmap"           # TCP that eBPF moves from socket to socket, where this machine can
DIRECT = "VMSGR direct"       # local: no, so that vmsgrd stays in the path, twice
NO_KEEPER = "no keeper"       # likewise


def why_not():
    """None, or what is missing before anything can be measured."""
    for path in (NET, RING, ALONE, USLEEP0):
        if not os.path.exists(path):
            return f"{path} is not built; run make (or set VMSGR_BIN)"
    return netns.why_not() or vmsgrd.why_not()


def with_sockmap(*variants):
    return [*variants, SOCKMAP] if sockmap.why_not() is None else list(variants)


def can_spin():
    """Whether `vmsgr run` takes a spin budget."""
    return "--spin-us" in process.run([vmsgrd.VMSGR, "run", "--help"]).stdout


def with_spin(prefix, spin_us):
    return [*prefix[:2], "--spin-us", str(spin_us), *prefix[2:]] if prefix else prefix


def children_cpu_s():
    """CPU seconds of all programs that ran to their end so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def session_cpu_s(server):
    """CPU seconds of a server and of the workers that it forked."""
    return sum(process.cpu_s(pid) for pid in process.guard.members(server.pid, server.start_ticks))


def raise_nofile():
    """As far as this machine lets us; the new limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (NOFILE, max(hard, NOFILE)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, NOFILE), hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Cost:
    """CPU seconds of one measurement: of the servers, of vmsgrd, and of the clients that ended meanwhile."""

    def __init__(self, servers, daemon_pids):
        self._servers, self._daemon_pids = servers, daemon_pids
        self._before = self._look()
        self.servers_s = self.daemon_s = self.clients_s = 0.0

    def _look(self):
        return (sum(session_cpu_s(s) for s in self._servers),
                sum(process.cpu_s(pid) for pid in self._daemon_pids), children_cpu_s())

    def end(self):
        now = self._look()
        self.servers_s, self.daemon_s, self.clients_s = (b - a for a, b in zip(self._before, now))

    def us_per(self, operations, clients_s=None):
        """Microseconds an operation, everybody together. clients_s: what a client says of itself, more exactly."""
        own = self.clients_s if clients_s is None else clients_s
        return 1e6 * (self.servers_s + self.daemon_s + own) / max(operations, 1)


class World:
    def __init__(self, settings, program=None):
        """program: another than vmsgrd, and no sockmap, of which there is one."""
        self._with_sockmap = program is None and sockmap.why_not() is None
        self.settings = settings
        self.dir = process.make_dir("vb-")
        self.netns = netns.Netns("bench")
        self.daemon = vmsgrd.Vmsgrd(self.dir, routes=[vmsgrd.route("all", address=LOOPBACK)], netns=self.netns,
                                    shards=settings.shards, plain=settings.plain, program=program)
        self._ports, self._servers, self._prefixes = itertools.count(5000), [], {TCP: [], UNIX: [], RENO: []}
        self.sockmap = None
        self.path_of = {}     # variant -> local or direct, as vmsgrd counted it

    def __enter__(self):
        try:
            script = f"echo {LOCAL_PORTS} > /proc/sys/net/ipv4/ip_local_port_range"
            process.run(["sh", "-c", script], netns=self.netns)
            self.daemon.start()
            own = self.daemon.prefix()
            no_local = self.daemon.prefix(routes=[vmsgrd.route("all", address=LOOPBACK, local="no")])
            one = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
            self._prefixes |= {TCP_ONE: one, VMSGR_ONE: [*one, *own]}
            self._prefixes |= {VMSGR: own, SPIN: with_spin(own, SPIN_US), NO_SPIN: with_spin(own, 0),
                               DIRECT: no_local, NO_KEEPER: no_local}
            if self._with_sockmap:
                self.sockmap = sockmap.Sockmap(self.dir)
                self._prefixes[SOCKMAP] = self.sockmap.prefix()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for server in reversed(self._servers):
            server.stop()
        if self.sockmap:
            self.sockmap.close()
        self.daemon.stop()
        self.netns.close()
        process.remove_dir(self.dir)

    def prefix(self, variant):
        return self._prefixes[variant]

    def port(self):
        return next(self._ports)

    def serve(self, variant, argv, *, port=None, path=None, env=None, stdout=None, host=None):
        """Starts a server; returns once it listens on its port, or its unix socket is there. host: its namespace."""
        name, host = f"{os.path.basename(argv[0])}.{len(self._servers)}", host or self.netns
        server = process.Process([*self.prefix(variant), *argv], netns=host, name=name, env=env, stdout=stdout,
                                 log=os.path.join(self.dir, name + ".log"))
        self._servers.append(server)
        if port is not None:
            server.wait_ready(lambda: any(s.local[1] == port for s in netns.tcp_sockets(host, ("LISTEN",))), 30,
                              f"listening on port {port}")
        if path is not None:
            server.wait_ready(lambda: os.path.exists(path), 30, f"listening on {path}")
        return server

    def serve_net(self, variant, mode, address="127.0.0.1", host=None):
        """bench_net as a server; (the server, its endpoint)."""
        port = self.port()
        if variant == UNIX:
            path = os.path.join(self.dir, f"u{port}")
            return self.serve(variant, [NET, mode, f"unix:{path}"], path=path), f"unix:{path}"
        where = f"tcp:{address}:{port}"
        own = ["--congestion", "reno"] if variant == RENO else []
        return self.serve(variant, [NET, mode, where, *own], port=port, host=host), where

    def stop(self, server):
        self._servers.remove(server)
        server.stop()

    def run(self, variant, argv, *, timeout_s=120, **kw):
        return process.run([*self.prefix(variant), *argv], netns=self.netns, timeout_s=timeout_s, **kw)

    def run_net(self, variant, *words):
        """One line of JSON from a client of bench_net."""
        return json.loads(self.run(variant, [NET, *words]).stdout)

    def measure(self, variant, servers, call):
        """What call() returns, and its Cost. A variant that was not carried in its way is a failure, not a number."""
        if variant in (TCP, UNIX, RENO, TCP_ONE, SOCKMAP) or self.settings.plain:
            before = self.sockmap.moved() if variant == SOCKMAP else 0
            cost = Cost(servers, [])
            result = call()
            cost.end()
            if variant == SOCKMAP and self.sockmap.moved() == before:
                raise process.Failed("sockmap moved nothing")
            return result, cost
        before = self.daemon.status()["totals"]
        keeper = self.daemon.process.pid
        cost = Cost(servers, {keeper, self.daemon.pid or keeper})
        result = call()
        cost.end()
        carried = {}

        def counted():
            now = self.daemon.status()["totals"]
            carried.update({way: now[f"bytes_{way}"] - before[f"bytes_{way}"] for way in ("local", "direct")})
            return sum(carried.values()) > 0
        process.wait_until(counted, 5, f"vmsgrd to have carried what {variant} sent")
        self.path_of[variant] = max(carried, key=carried.get)
        return result, cost
