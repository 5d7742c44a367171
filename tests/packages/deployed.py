"""A Ceph cluster as its documents say by hand: Debian's units, /etc/ceph, a monitor and a manager on the first machine."""
import json
import re
import uuid

from lib import process

CONFIG = """\
[global]
fsid = {fsid}
mon host = [v2:{mon}:3300,v1:{mon}:6789]
mon initial members = {name}
public network = 10.99.0.0/24
osd pool default pg autoscale mode = off

[mon]
paxos propose interval = 0.1
paxos min wait = 0.01

[mgr]
mgr initial modules =
mgr stats period = 1
mgr tick period = 1

[osd]
osd mclock profile = high_recovery_ops
bluestore block size = 4294967296
osd memory target = 939524096
"""

MONITOR = """
    umask 077
    ceph-authtool -C /tmp/mon.keyring --gen-key -n mon. --cap mon 'allow *'
    ceph-authtool -C /etc/ceph/ceph.client.admin.keyring --gen-key -n client.admin \
        --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' --cap mds 'allow *'
    ceph-authtool /tmp/mon.keyring --import-keyring /etc/ceph/ceph.client.admin.keyring
    monmaptool --create --fsid {fsid} --addv {name} '[v2:{mon}:3300,v1:{mon}:6789]' /tmp/monmap
    chown ceph: /tmp/mon.keyring /tmp/monmap
    install -d -o ceph -g ceph /var/lib/ceph/mon/ceph-{name} /var/lib/ceph/mgr/ceph-{name}
    ceph-mon --mkfs -i {name} --monmap /tmp/monmap --keyring /tmp/mon.keyring --setuser ceph --setgroup ceph
    systemctl start ceph-mon@{name}
    ceph auth get-or-create mgr.{name} mon 'allow profile mgr' osd 'allow *' mds 'allow *' -o /var/lib/ceph/mgr/ceph-{name}/keyring
    chown -R ceph: /var/lib/ceph/mgr/ceph-{name}
    systemctl start ceph-mgr@{name}
"""

OSD = """
    umask 027
    data=/var/lib/ceph/osd/ceph-{n}
    install -d -o ceph -g ceph $data
    ceph osd new {uuid} {n}
    ceph auth get-or-create osd.{n} mon 'allow profile osd' mgr 'allow profile osd' osd 'allow *' -o $data/keyring
    chown ceph: $data/keyring
    ceph-osd --mkfs -i {n} --osd-uuid {uuid} --setuser ceph --setgroup ceph
    systemctl start ceph-osd@{n}
"""


class Cluster:
    def __init__(self, machines, osds_each):
        self.machines, self.first = machines, machines[0]
        self.osds = {n: m for n, m in enumerate(m for m in machines for _ in range(osds_each))}
        said = {"fsid": uuid.uuid4(), "mon": self.first.address, "name": self.first.name}
        for m in machines:
            m.write("/etc/ceph/ceph.conf", CONFIG.format(**said))
            m.write("/etc/hosts", "127.0.0.1 localhost\n" + "".join(f"{x.address} {x.name}\n" for x in machines))
        self.first.sh(MONITOR.format(**said), timeout_s=120)
        with open(self.first.path("/etc/ceph/ceph.client.admin.keyring"), encoding="utf-8") as f:
            admin = f.read()
        for m in machines[1:]:
            m.write("/etc/ceph/ceph.client.admin.keyring", admin)
        for n, m in self.osds.items():
            m.sh(OSD.format(n=n, uuid=uuid.uuid4()), timeout_s=120)
        self.first.sh("ceph osd pool create test 16 16 && ceph osd pool application enable test test")
        self.wait_well()

    def ceph(self, *words):
        return json.loads(self.first.run("ceph", *words, "-f", "json").stdout)

    def wait_well(self, timeout_s=120):
        """Every OSD up, every placement group active+clean."""
        def well():
            status = self.ceph("status")
            groups = status["pgmap"]
            clean = sum(s["count"] for s in groups.get("pgs_by_state", []) if s["state_name"].startswith("active+clean"))
            return status["osdmap"]["num_up_osds"] == len(self.osds) and clean == groups["num_pgs"] > 0
        process.wait_until(well, timeout_s, "a cluster that is well", every_s=0.5)

    def osds_of(self, machine):
        return [n for n, m in self.osds.items() if m is machine]

    def pid(self, n):
        """Of osd.N, as its machine numbers it."""
        return int(self.osds[n].show(f"ceph-osd@{n}", "MainPID")["MainPID"])


class Bench:
    """rados bench, which ends at its first error. Its rows say each second what was written."""

    def __init__(self, machine):
        self.log = f"{machine.folder}/bench.log"
        # Few objects, so that an OSD that was away for a moment has what it missed soon.
        words = ["rados", "-p", "test", "bench", "3600", "write", "-b", "4096", "-O", "1048576", "-t", "1"]
        self.process = process.Process(words, netns=machine, name="rados bench", log=self.log)

    def check(self, step):
        assert self.process.alive(), f"{step}: rados bench has ended\n{process.tail(self.log)}"

    def rows(self):
        """(second, writes so far)"""
        row = re.compile(r"^ +(\d+) +\d+ +\d+ +(\d+) ")
        return [(int(m[1]), int(m[2])) for m in map(row.match, process.tail(self.log, 10000).splitlines()) if m]

    def second(self):
        return next((second for second, _ in reversed(self.rows())), 0)

    def pauses(self, least_s=2):
        """{second: how many seconds nothing was written from then on}"""
        found, since, rows = {}, 0, self.rows()
        for before, (second, written) in zip(rows, rows[1:]):
            since = since if written == before[1] else second
            if second - since >= least_s:
                found[since] = second - since
        return found

    def stop(self):
        self.process.kill()
