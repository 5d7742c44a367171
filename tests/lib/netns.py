"""Network namespaces, held open by a sleeping process each, so that nothing of them can stay behind.

Works as root, and as any user inside `unshare -Urn`: no names under /run/netns are used.
"""
import ipaddress
import re
import subprocess

from .process import Failed, Process, run


def why_not():
    """None, or why network namespaces cannot be made here."""
    done = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"no network namespaces: {done.stderr.strip()} (run as root)"


class Netns:
    """One namespace with lo up. `prefix` before a command runs it inside; it execs, so numbers stay the same."""

    def __init__(self, name):
        self.name = name
        script = "ip link set lo up && echo ready && exec sleep infinity"
        self._holder = Process(["unshare", "-n", "--", "sh", "-c", script], name=f"netns {name}",
                               stdout=subprocess.PIPE)
        if self._holder.stdout.readline() != b"ready\n":
            self._holder.kill()
            raise Failed(why_not() or "no network namespace")

    @property
    def pid(self):
        return self._holder.pid

    @property
    def prefix(self):
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--"]

    def ip(self, *words):
        run(["ip", *words], netns=self)

    def close(self):
        self._holder.kill()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Network:
    """Hosts on one bridge. Each has eth0 with 10.99.0.N/24 and fd99::N/64; hosts by name, N in order from 1. make: of a
    name, what a host is."""

    def __init__(self, names, make=Netns):
        self.switch = Netns("switch")
        self.hosts = {}
        try:
            self.switch.ip("link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0")
            self.switch.ip("link", "set", "br0", "up")
            for n, name in enumerate(names, 1):
                host = make(name)
                self.hosts[name] = host
                port = f"p{n}"
                self.switch.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
                self.switch.ip("link", "set", port, "master", "br0", "up")
                host.ip("addr", "add", f"10.99.0.{n}/24", "dev", "eth0")
                host.ip("addr", "add", f"fd99::{n}/64", "dev", "eth0", "nodad")
                host.ip("link", "set", "eth0", "up")
                host.address = f"10.99.0.{n}"
                host.address6 = f"fd99::{n}"
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name):
        return self.hosts[name]

    def close(self):
        for host in self.hosts.values():
            host.close()
        self.switch.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Socket:
    """One line of ss: state, local and peer as (address, port), owners as [(program, pid, fd)]."""

    def __init__(self, line):
        words = line.split()
        self.state = words[0]
        self.local, self.peer = _endpoint(words[3]), _endpoint(words[4])
        self.owners = [(n, int(p), int(f)) for n, p, f in
                       re.findall(r'\("([^"]*)",pid=(\d+),fd=(\d+)\)', line)]
        self.pids = {pid for _, pid, _ in self.owners}

    def __repr__(self):
        return f"{self.state} {self.local} -> {self.peer} {self.owners}"


def _endpoint(text):
    address, _, port = text.rpartition(":")
    address = address.strip("[]").split("%")[0]
    try:
        mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
        address = str(mapped or address)
    except ValueError:
        pass
    return address, int(port) if port.isdigit() else 0


def tcp_sockets(netns=None, states=("ESTAB",)):
    """TCP sockets of a namespace as `ss -tnp` shows them."""
    done = run(["ss", "-Htanp"], netns=netns)
    found = [Socket(line) for line in done.stdout.splitlines() if line.strip()]
    return [s for s in found if s.state in states] if states else found


CONNECT = """
import socket, sys, time
for where in sys.argv[1:]:
    address, _, port = where.rpartition(':')
    s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET)
    s.settimeout(5)
    began = time.monotonic()
    print(s.connect_ex((address, int(port))), time.monotonic() - began)
    s.close()
"""


def connect_all(endpoints, netns=None, prefix=()):
    """Tries a TCP connect to each (address, port), behind a command prefix: [(errno or 0, seconds)]."""
    words = [f"{address}:{port}" for address, port in endpoints]
    done = run([*prefix, "/usr/bin/python3", "-IS", "-c", CONNECT, *words], netns=netns, timeout_s=60)
    return [(int(code), float(took)) for code, took in map(str.split, done.stdout.splitlines())]
