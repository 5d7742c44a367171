"""A client and a server program, each end routed through vmsgrd or plain, and proof of which it was."""
import itertools
import os

from . import netns as nets
from . import process, vmsgrd

PLAIN = bool(os.environ.get("VMSGR_PLAIN"))   # develop a test on kernel sockets alone
COMBINATIONS = ["pp"] if PLAIN else ["pp", "rp", "pr", "rr"]   # client, server
# d: routed, and through vmsgrd even where the other end is a program of this host; rr is memory to memory.
WAYS = COMBINATIONS if PLAIN else [*COMBINATIONS, "dd"]
ADDRESSES = {"v4": "127.0.0.1", "v6": "::1"}

_ports = itertools.count(20000)


class World:
    """A namespace, a directory and one vmsgrd that routes everything of the loopback addresses."""

    def __init__(self):
        self.dir = process.make_dir("vi-")
        self.netns = nets.Netns("interop")
        routes = [vmsgrd.route("v4", address="127.0.0.0/8"), vmsgrd.route("v6", address="::1/128")]
        self.vmsgrd = vmsgrd.Vmsgrd(self.dir, routes=routes, netns=self.netns, plain=PLAIN,
                                    config="access:\n  mode: 0666\n").start()   # servers become other users
        self._not_local = [dict(route, local="no") for route in routes]

    def prefix(self, letter):
        """Words before a program at this end of a combination."""
        if letter == "p":
            return []
        return self.vmsgrd.prefix(self._not_local if letter == "d" else None)

    def close(self):
        self.vmsgrd.stop()
        self.netns.close()
        process.remove_dir(self.dir)


class Ends:
    """One combination in a world: starts servers and runs clients, each behind its prefix."""

    def __init__(self, world, combination, address):
        self.world, self.combination, self.address = world, combination, address
        self.url_host = f"[{address}]" if ":" in address else address
        self._servers = []
        self._before = self._totals()

    @property
    def client_prefix(self):
        return self.world.prefix(self.combination[0])

    @property
    def server_prefix(self):
        return self.world.prefix(self.combination[1])

    def port(self):
        return next(_ports)

    def path(self, name):
        return os.path.join(self.world.dir, name)

    def serve(self, argv, port=None, env=None, timeout_s=15, user=None):
        """Starts a server; returns once its port is listened on (by whoever holds it). `user`: not as root."""
        name = os.path.basename(argv[0])
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        server = process.Process([*become, *self.server_prefix, *argv],
                                 log=self.path(f"{name}.{len(self._servers)}.log"), netns=self.world.netns, name=name, env=env)
        self._servers.append(server)
        if port:
            server.wait_ready(lambda: self.listened(port), timeout_s, f"listen on port {port}")
        return server

    def listened(self, port):
        return [s for s in nets.tcp_sockets(self.world.netns, ("LISTEN",)) if s.local[1] == port]

    def run(self, argv, **kw):
        return process.run([*self.client_prefix, *argv], netns=self.world.netns, **kw)

    def _totals(self):
        return None if PLAIN else self.world.vmsgrd.status()["totals"]

    def carried_bytes(self):
        """Payload that vmsgrd carried, or handed over between two attached programs, since this began."""
        now = self._totals()
        return sum(now[k] - self._before[k] for k in ("bytes_direct", "bytes_local"))

    def check_carried(self, at_least):
        """With a routed end vmsgrd moved these bytes; with none it saw not one. No fault either way."""
        if PLAIN:
            return
        if self.combination != "pp":
            process.wait_until(lambda: self.carried_bytes() >= at_least, 3,
                               f"vmsgrd to have carried {at_least} bytes, it says {self.carried_bytes()}")
        else:
            assert self.carried_bytes() == 0, "vmsgrd carried something of two plain programs"
        assert self._totals()["faults"] == self._before["faults"], "vmsgrd counted a fault"

    def check_seen(self, at_least):
        """As check_carried, for programs of which one leaves its connection to somebody without the library: between
        two programs that is plain from then on, and nobody counts its bytes."""
        if self.combination != "rr":
            self.check_carried(at_least)
        else:
            assert self._totals()["locals_opened"] > self._before["locals_opened"], "no connection was local"

    def close(self):
        for server in reversed(self._servers):
            server.stop()
        if not PLAIN:
            assert self.world.vmsgrd.process.alive(), "vmsgrd died:\n" + process.tail(self.world.vmsgrd.log)
            process.wait_until(lambda: self._totals()["connections_open"] == 0, 3,
                               "every connection to be gone after the programs ended")
