"""One host with vmsgrd and a Ceph cluster on it, and what the cluster tests ask of them."""
import hashlib
import os
import random

from . import ceph, netns, process, vmsgrd
from .ends import PLAIN

MON_PORTS = (3300, 6789)
ROUTES = [vmsgrd.route("ceph-osds", address="127.0.0.0/8", ports=ceph.OSD_PORTS)]


class Rig:
    """osds and clients are attached to one vmsgrd; with VMSGR_PLAIN they run on TCP and the rest stays the same."""

    def __init__(self, *, osds=2, plain=PLAIN, shards=2, **options):
        self.plain = plain
        self.dir = process.make_dir("vr-")
        self.netns = netns.Netns("rig")
        self.vmsgrd = vmsgrd.Vmsgrd(self.dir, routes=ROUTES, netns=self.netns, shards=shards, plain=plain)
        prefixes = {name: self.vmsgrd.prefix() for name in ("client", *(f"osd.{i}" for i in range(osds)))}
        self.cluster = ceph.CephCluster(osds=osds, host=ceph.Host(self.netns), prefixes=prefixes,
                                        directory=os.path.join(self.dir, "c"), **options)

    def __enter__(self):
        try:
            self.vmsgrd.start()
            self.cluster.start()
            self.cluster.make_pool()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.cluster.stop()
        self.vmsgrd.stop()
        self.netns.close()
        process.remove_dir(self.dir)

    def sockets(self, *states):
        return netns.tcp_sockets(self.netns, states or ("ESTAB",))

    def holdings(self, pid):
        """What vmsgrd still holds for a process: sessions, connections and listeners."""
        status = self.vmsgrd.status()
        ids = {s["id"] for s in status["sessions"] if s["pid"] == pid}
        return (sorted(ids), [c["id"] for c in status["connections"] if c["pid"] == pid],
                [item["address"] for item in status["listeners"] if item["session"] in ids])


def object_bytes(name, size):
    return random.Random(name).randbytes(size)


class Objects:
    """Objects of known content, so that what was acknowledged can be checked afterwards by hash."""

    def __init__(self, cluster, directory):
        self.cluster, self.directory, self.sums = cluster, directory, {}

    def write(self, name, size, **kw):
        """Puts one object; once rados has said yes it is remembered."""
        data = object_bytes(name, size)
        path = os.path.join(self.directory, f"{name}.in")
        with open(path, "wb") as f:
            f.write(data)
        done = self.cluster.client("rados", "-p", "test", "put", name, path, check=False, **kw)
        os.unlink(path)
        if done.returncode == 0:
            self.sums[name] = hashlib.sha256(data).hexdigest()
        return done.returncode == 0

    def wrong(self, **kw):
        """Names of acknowledged objects that do not read back equal, read through `kw` (prefix=[] for plain)."""
        path, bad = os.path.join(self.directory, "back"), []
        for name, wanted in self.sums.items():
            self.cluster.client("rados", "-p", "test", "get", name, path, **kw)
            with open(path, "rb") as f:
                if hashlib.sha256(f.read()).hexdigest() != wanted:
                    bad.append(name)
        return bad
