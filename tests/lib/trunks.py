"""Two vmsgrd with trunks between them, in the namespaces of a netns.Network; and what harms the link between."""
import ast
import contextlib
import os
import random
import signal

from . import process, trunk_relay, vmsgrd

PORT = 6790
RELAY_PORT = 6791


def trunk_yaml(name, listen, peers, *, tls=None, **keys):
    """The `trunk:` and `trunks:` sections. peers: {name: (where to connect, addresses served)}, or the lines of one as a
    text; listen: or None."""
    lines = ["trunk:", f"  name: {name}"] + ([f'  listen: "{listen}"'] if listen else [])
    lines += [f"  {key}: {value}" for key, value in keys.items()]
    if tls:
        lines += ["  tls:"] + [f"    {key}: {value}" for key, value in tls.items()]
    lines.append("trunks:" if peers else "")
    for name, what in peers.items():
        if isinstance(what, str):
            lines += [f"  - name: {name}", what]
        else:
            connect, addresses = what
            lines += [f"  - name: {name}", f'    connect: "{connect}"', f"    addresses: [{', '.join(addresses)}]"]
    return "\n".join(lines) + "\n"


def sessions(daemon, *, outgoing=True, state="up"):
    return [t for t in daemon.status()["trunks"] if t["outgoing"] == outgoing and t["state"] == state]


@contextlib.contextmanager
def link_down(pair):
    pair.net.switch.ip("link", "set", "p2", "down")
    try:
        yield
    finally:
        pair.net.switch.ip("link", "set", "p2", "up")


def kill_sockets(pair, port=PORT):
    process.run(["ss", "-K", "dport", "=", str(port)], netns=pair.net["a"], check=False)
    process.run(["ss", "-K", "dport", "=", str(port)], netns=pair.net["b"], check=False)


@contextlib.contextmanager
def filtered(host, verdict, what=("tcp dport", "tcp sport")):
    """What comes in to `host` for or from the port of trunks."""
    rules = "".join(f"add rule ip t i {w} {PORT} {verdict}; " for w in what)
    process.run(["nft", f"add table ip t; add chain ip t i {{ type filter hook input priority 0; }}; {rules}"], netns=host)
    try:
        yield
    finally:
        process.run(["nft", "delete table ip t"], netns=host)


class HarmfulRelay:
    """A relay (trunk_relay.py) on `host` before `target`; `at` is where to connect instead. kind: harms nothing before
    begin_faults()."""

    def __init__(self, host, target, faults, *, kind=False):
        self.seed = int(os.environ.get("VMSGR_SEED", random.randrange(1 << 32)))
        print(f"VMSGR_SEED={self.seed}")
        self.at = f"{host.address}:{RELAY_PORT}"
        words = [f"{k}={v}" for k, v in {**faults, "kind": int(kind)}.items()]
        self.process = process.Process(["/usr/bin/python3", trunk_relay.__file__, self.at, target, str(self.seed),
                                        *words], name="relay", netns=host, stdout=-1)
        assert self.process.stdout.readline() == b"ready\n"

    def cut_all(self):
        self.process.signal(signal.SIGUSR2)

    def begin_faults(self):
        self.process.signal(signal.SIGHUP)

    def end_faults(self):
        """What it has done: a count of each fault, and of connections."""
        self.process.signal(signal.SIGUSR1)
        return ast.literal_eval(self.process.stdout.readline().decode())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()


def wait_up(daemon, peers=1, timeout_s=10):
    """Until the daemon has a session with each of its peers, on each shard."""
    process.wait_until(lambda: len(sessions(daemon)) == peers * daemon.status()["daemon"]["shards"], timeout_s,
                       f"trunks of {daemon.name} up")


def routes_by_trunk(without=None, fallback="posix"):
    """Everything of the two networks."""
    return [vmsgrd.route(name, address=address, via="trunk", without_trunk=without, fallback=fallback)
            for name, address in (("v4", "10.99.0.0/24"), ("v6", "fd99::/64"))]


class Pair:
    """Hosts a and b of a network. Everything of 10.99.0.0/24 and fd99::/64 goes by trunk. named=False: no peers are
    configured. more: lines for each peer, by the daemon that gets them; top: lines outside `trunk:`; programs: what is
    started instead of vmsgrd, by daemon."""

    def __init__(self, net, *, tls=None, via=None, shards=1, routes=None, named=True, more=None, top="", memory="256M",
                 programs=None, **keys):
        self.net, self.dir, self.named = net, process.make_dir("vt-"), named
        keys.setdefault("keepalive_ms", 300)
        if not tls:
            keys.setdefault("accept_from", [f"{h.address}/32" for h in net.hosts.values()])
        routes = routes or routes_by_trunk()
        self.daemons = {}
        for me, other in (("a", "b"), ("b", "a")):
            host, peer = net[me], net[other]
            connect = (via or {}).get(me, f"{peer.address}:{PORT}")
            peers = {other: (connect, [peer.address, f'"{peer.address6}"'])} if named else {}
            if named and me in (more or {}):
                peers = {other: f'    connect: "{connect}"\n    addresses: [{peer.address}, "{peer.address6}"]\n{more[me]}'}
            config = trunk_yaml(me, f"{host.address}:{PORT}", peers, tls=(tls or {}).get(me), **keys) + top
            n = shards[me] if isinstance(shards, dict) else shards
            self.daemons[me] = vmsgrd.Vmsgrd(self.dir, routes=routes, netns=host, name=f"vmsgrd-{me}", shards=n,
                                             memory=memory, config=config, program=(programs or {}).get(me))

    def __getitem__(self, name):
        return self.daemons[name]

    def sessions(self, name, **keys):
        return sessions(self[name], **keys)

    def wait_up(self, timeout_s=10):
        for d in self.daemons.values():
            wait_up(d, timeout_s=timeout_s)

    def __enter__(self):
        try:
            for d in self.daemons.values():
                d.start()
            if self.named:
                self.wait_up()
        except BaseException:
            self.close()
            raise
        return self

    def close(self):
        for d in self.daemons.values():
            d.stop()
        process.remove_dir(self.dir)

    def __exit__(self, *_):
        self.close()
