"""A Ceph cluster from Debian's own binaries, by hand, in a directory of its own: one monitor, one mgr, N OSDs.

Every daemon runs in the foreground as a child of ours, optionally inside a network namespace and behind a command
prefix (`vmsgr run --socket S --`). Needs root, because the binaries and the namespaces do.
"""
import base64
import json
import os
import re
import shutil
import struct
import time
import uuid
from datetime import datetime

from .process import Failed, Process, make_dir, remove_dir, run, run_json, wait_until

OSD_PORTS = "6800-7300"
PROGRAMS = ("ceph-mon", "ceph-mgr", "ceph-osd", "rados", "ceph", "monmaptool")

CONFIG = """\
[global]
fsid = {fsid}
mon host = [v2:{mon}:3300,v1:{mon}:6789]
mon initial members = a
auth cluster required = {auth}
auth service required = {auth}
auth client required = {auth}
keyring = {dir}/keyring
run dir = {dir}
admin socket = {dir}/$name.asok
pid file =
log file = {dir}/log/$name.log
log to stderr = false
err to stderr = true
mon cluster log file = {dir}/log/cluster.log
crash dir = {dir}/crash
heartbeat file =
ms bind port min = 6800
ms bind port max = 7300
ms bind ipv6 = {ipv6}
ms bind ipv4 = {ipv4}
osd pool default size = 2
osd pool default min size = 1
osd pool default pg num = 16
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd class dir = /usr/lib/x86_64-linux-gnu/rados-classes

[mon]
mon data = {dir}/mon.a
mon allow pool delete = true
mon data avail warn = 1
mon warn on pool no redundancy = false
mon warn on insecure global id reclaim allowed = false
auth allow insecure global id reclaim = false
paxos propose interval = 0.1
paxos min wait = 0.01

[mgr]
mgr data = {dir}/mgr.x
mgr initial modules =
mgr stats period = 1
mgr tick period = 1

[osd]
osd data = {dir}/$name
osd objectstore = {objectstore}
memstore device bytes = 4294967296
bluestore block size = 4294967296
bluestore block create = true
osd max object name len = 256
osd max object namespace len = 64
"""


def why_not():
    """None, or what is missing for a cluster."""
    missing = [p for p in PROGRAMS if not shutil.which(p)]
    return f"not installed: {', '.join(missing)}; run tools/setup.sh" if missing else None


def _new_key():
    return base64.b64encode(struct.pack("<hiih", 1, int(time.time()), 0, 16) + os.urandom(16)).decode()


class Host:
    """Where a daemon lives: a namespace (None: ours) and the address it binds to."""

    def __init__(self, netns=None, address="127.0.0.1"):
        self.netns, self.address = netns, address


class CephCluster:
    """prefixes: words before a daemon's command, by name ('mon.a', 'mgr.x', 'osd.0', 'client')."""

    def __init__(self, *, osds=2, host=None, mon_host=None, osd_hosts=None, prefixes=None, objectstore="memstore",
                 cephx=True, config="", osd_nofile=None, directory=None):
        host = host or Host()
        self.mon_host = mon_host or host
        self.osd_hosts = osd_hosts or [host] * osds
        self.client_host = self.mon_host
        self.prefixes = prefixes or {}
        self.osd_nofile = osd_nofile
        self.osds, self.mon, self.mgr = {}, None, None
        self.dir = directory or make_dir("vc-")
        self.conf = os.path.join(self.dir, "ceph.conf")
        self.fsid = str(uuid.uuid4())
        self._objectstore = objectstore
        os.makedirs(os.path.join(self.dir, "log"), exist_ok=True)
        os.makedirs(os.path.join(self.dir, "crash"), exist_ok=True)
        v6 = ":" in self.mon_host.address
        mon = f"[{self.mon_host.address}]" if v6 else self.mon_host.address
        with open(self.conf, "w", encoding="ascii") as f:
            f.write(CONFIG.format(fsid=self.fsid, mon=mon, auth="cephx" if cephx else "none", dir=self.dir,
                                  objectstore=objectstore, ipv6=str(v6).lower(), ipv4=str(not v6).lower()))
            f.write(config)

    # Starting -------------------------------------------------------------------------------------------------

    def start(self, timeout_s=90):
        try:
            self._make_keyrings()
            self._start_mon()
            self._start_mgr()
            ids = range(len(self.osd_hosts))
            mkfs = [self._mkfs_osd(i) for i in ids]
            self.commands([f"osd new {fsid} {i}" for i, fsid in zip(ids, self._osd_fsids)])
            for i, process in zip(ids, mkfs):
                if process.wait(60) != 0:
                    raise Failed(f"ceph-osd --mkfs of osd.{i} failed:\n{self.log_tail(f'osd.{i}')}")
            for i in ids:
                self.start_osd(i)
            self.wait_up(len(self.osd_hosts), timeout_s)
        except BaseException:
            self.stop()
            raise
        return self

    def _make_keyrings(self):
        self._osd_fsids = [str(uuid.uuid4()) for _ in self.osd_hosts]
        everything = 'mon = "allow *"', 'mgr = "allow *"', 'osd = "allow *"', 'mds = "allow *"'
        caps = {"mon.": ['mon = "allow *"'], "client.admin": everything,
                "mgr.x": ['mon = "allow profile mgr"', 'osd = "allow *"', 'mds = "allow *"']}
        for i in range(len(self.osd_hosts)):
            caps[f"osd.{i}"] = ['mon = "allow profile osd"', 'mgr = "allow profile osd"', 'osd = "allow *"']
        with open(os.path.join(self.dir, "keyring"), "w", encoding="ascii") as f:
            for name, lines in caps.items():
                f.write(f"[{name}]\n\tkey = {_new_key()}\n" + "".join(f"\tcaps {line}\n" for line in lines))

    def _argv(self, name, *words):
        return [*self.prefixes.get(name, []), *words, "-c", self.conf]

    def _start_mon(self):
        monmap, mon = os.path.join(self.dir, "monmap"), self.mon_host.address
        mon = f"[{mon}]" if ":" in mon else mon
        run(["monmaptool", "--create", "--fsid", self.fsid, "--addv", "a", f"[v2:{mon}:3300,v1:{mon}:6789]", monmap])
        run(["ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", f"{self.dir}/keyring", "-c", self.conf])
        self.mon = self._daemon("mon.a", self.mon_host, ["ceph-mon", "-f", "-i", "a"])

    def _start_mgr(self):
        os.makedirs(f"{self.dir}/mgr.x", exist_ok=True)
        self.mgr = self._daemon("mgr.x", self.mon_host, ["ceph-mgr", "-f", "-i", "x"])

    def _mkfs_osd(self, i):
        os.makedirs(f"{self.dir}/osd.{i}", exist_ok=True)
        return Process(["ceph-osd", "--mkfs", "-i", str(i), "--osd-uuid", self._osd_fsids[i], "-c", self.conf,
                        "--no-mon-config"], log=f"{self.dir}/log/osd.{i}.out", name=f"mkfs of osd.{i}")

    def start_osd(self, i, prefix=None):
        """Starts osd.i (again), behind `prefix` when given."""
        if prefix is not None:
            self.prefixes[f"osd.{i}"] = prefix
        address = self.osd_hosts[i].address
        self.osds[i] = self._daemon(f"osd.{i}", self.osd_hosts[i],
                                    ["ceph-osd", "-f", "-i", str(i), "--public-addr", address,
                                     "--cluster-addr", address], nofile=self.osd_nofile)
        return self.osds[i]

    def _daemon(self, name, host, words, nofile=None):
        return Process(self._argv(name, *words), log=f"{self.dir}/log/{name}.out", name=name, netns=host.netns,
                       nofile=nofile)

    # Asking ---------------------------------------------------------------------------------------------------

    def client(self, *words, prefix=None, **kw):
        """A client program of the cluster (`rados`, `ceph`), behind prefixes['client'] unless told otherwise."""
        prefix = self.prefixes.get("client", []) if prefix is None else prefix
        kw.setdefault("netns", self.client_host.netns)
        return run([*prefix, words[0], "-c", self.conf, *words[1:]], **kw)

    def start_client(self, *words, log=None, prefix=None):
        prefix = self.prefixes.get("client", []) if prefix is None else prefix
        return Process([*prefix, words[0], "-c", self.conf, *words[1:]], log=log, name=words[0],
                       netns=self.client_host.netns)

    def bench(self, kind, seconds, *words, **kw):
        """rados bench to its end; its output as a dictionary ('Bandwidth (MB/sec)': '31.2' ...)."""
        done = self.client("rados", "-p", "test", "bench", str(seconds), kind, *words, timeout_s=60 + seconds, **kw)
        rows = (line.partition(":") for line in done.stdout.splitlines())
        return {key.strip(): value.strip() for key, _, value in rows if value}

    def ceph(self, *words, timeout_s=30):
        """`ceph WORDS` on plain sockets, as JSON (None when it prints nothing)."""
        done = run(["ceph", "-c", self.conf, "--connect-timeout", "20", *words, "-f", "json"],
                   netns=self.mon_host.netns, timeout_s=timeout_s)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def commands(self, lines, timeout_s=40):
        """Several commands by one `ceph`, whose start is what costs."""
        run(["ceph", "-c", self.conf, "--connect-timeout", "30"], input="\n".join(lines) + "\n",
            netns=self.mon_host.netns, timeout_s=timeout_s)

    def daemon_command(self, name, *words):
        """A command over a daemon's admin socket."""
        return run_json(["ceph", "--admin-daemon", f"{self.dir}/{name}.asok", *words], timeout_s=20)

    def osd_dump(self):
        return {o["osd"]: o for o in self.ceph("osd", "dump")["osds"]}

    def osd_addresses(self, i):
        """(address, port) of each of osd.i's eight listeners, as the OSD map has them."""
        osd = self.osd_dump()[i]
        groups = ("public_addrs", "cluster_addrs", "heartbeat_back_addrs", "heartbeat_front_addrs")
        found = set()
        for group in groups:
            for entry in osd[group]["addrvec"]:
                address, _, port = entry["addr"].rpartition(":")
                found.add((address.strip("[]"), int(port)))
        return sorted(found)

    def osd_pids(self):
        return {i: p.pid for i, p in self.osds.items() if p.alive()}

    def make_pool(self, name="test", pgs=16):
        self.commands([f"osd pool create {name} {pgs} {pgs}", f"osd pool application enable {name} test"])
        self.wait_clean()

    # Waiting --------------------------------------------------------------------------------------------------

    def check_alive(self):
        for p in (self.mon, self.mgr, *self.osds.values()):
            if p and not p.alive():
                raise Failed(f"{p.name} ended with {p.returncode}\n{self.log_tail(p.name)}")

    def wait_up(self, count, timeout_s=60):
        def up():
            stat = self.ceph("osd", "stat")
            return stat["num_up_osds"] == count and stat["num_osds"] >= count
        wait_until(up, timeout_s, f"{count} OSDs up", every_s=0.1)

    def wait_clean(self, timeout_s=60):
        """All placement groups active+clean, as the mgr counts them after the newest change."""
        state = {}

        def clean():
            status = self.ceph("status")
            state.update(status["pgmap"])
            by_state = status["pgmap"].get("pgs_by_state", [])
            wanted = sum(p["pg_num"] for p in self.ceph("osd", "dump")["pools"])
            return wanted and sum(s["count"] for s in by_state if s["state_name"] == "active+clean") == wanted
        try:
            wait_until(clean, timeout_s, "all placement groups active+clean", every_s=0.2)
        except Failed as e:
            raise Failed(f"{e}: {state.get('pgs_by_state')}") from None

    # Logs -----------------------------------------------------------------------------------------------------

    def log_text(self, name):
        try:
            with open(f"{self.dir}/log/{name}.log", encoding="utf-8", errors="replace") as f:
                return f.read()
        except OSError:
            return ""

    def log_tail(self, name, lines=15):
        out = f"{self.dir}/log/{name}.out"
        text = self.log_text(name).splitlines()[-lines:]
        if os.path.exists(out):
            with open(out, encoding="utf-8", errors="replace") as f:
                text += [line for line in f.read().splitlines() if not line.startswith(" ")][:lines]
        return "\n".join(text)

    def log_times(self, name, pattern):
        """Unix times of the log lines that match."""
        found = []
        for line in self.log_text(name).splitlines():
            if re.search(pattern, line):
                stamp = line.split()[0]
                try:
                    found.append(_unix_time(stamp))
                except ValueError:
                    pass
        return found

    # Stopping -------------------------------------------------------------------------------------------------

    def stop(self):
        for process in (*self.osds.values(), self.mgr, self.mon):
            if process:
                process.kill()   # nothing of it is kept: no need to ask
        self.osds, self.mgr, self.mon = {}, None, None
        remove_dir(self.dir)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()


def _unix_time(stamp):
    return datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%S.%f%z").timestamp()


def tcp_between(sockets, pids):
    """TCP connections of which both ends are held by the processes `pids`, by what `ss` shows."""
    ends = {s.local: s.pids & pids for s in sockets if s.pids & pids}
    return [s for s in sockets if s.pids & pids and s.peer in ends]
