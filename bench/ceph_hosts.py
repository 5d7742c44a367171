"""rados bench over three hosts: what carries an OSD's data between them, and what encryption of it costs.

Network namespaces behind one bridge: the client, and two OSDs with a host each. The monitor stays on TCP in all variants.
"""
from ceph_benches import MEMSTORE, RadosAnswers, carried_since, rados_metrics
from world import TCP, process, vmsgrd

from lib import ceph, certificates, hosts   # world.py has said where it is

SECURE, DIRECT, TRUNK, TLS = "TCP, secure", "VMSGR direct", "VMSGR trunk", "VMSGR TLS"
PROGRAMS = ("client", "osd.0", "osd.1")
SECURE_MODE = "".join(f"ms {who} mode = secure\n" for who in ("cluster", "service", "client"))
# Of TCP without encryption; what TLS does is printed beside Ceph's own.
GOALS = {DIRECT: {"4 KiB write: IOPS": 0.92, "4 KiB random read: IOPS": 0.97, "4 MiB write: MB/s": 0.9, "4 MiB read: MB/s": 0.9},
         TRUNK: {"4 KiB write: IOPS": 0.9, "4 KiB random read: IOPS": 0.9, "4 MiB write: MB/s": 0.9, "4 MiB read: MB/s": 0.9}}


def _hosts(variant, certified):
    """The cluster with what lies between its hosts."""
    config = MEMSTORE + (f"\n[global]\n{SECURE_MODE}" if variant == SECURE else "")
    on_trunks = variant in (TRUNK, TLS)
    routes = [vmsgrd.route("ceph-osds", address="10.99.0.0/24", ports=ceph.OSD_PORTS, via="trunk" if on_trunks else "direct")]
    return hosts.Hosts(tuple(hosts.PROGRAMS) if on_trunks or variant == DIRECT else (), routes=routes, programs=PROGRAMS,
                       trunk={} if on_trunks else None, tls=certified if variant == TLS else None, config=config)


def _check_mode(cluster, variant):
    said = cluster.daemon_command("osd.0", "config", "get", "ms_cluster_mode")["ms_cluster_mode"]
    if (said == "secure") != (variant == SECURE):
        raise process.Failed(f"{variant}: Ceph's ms_cluster_mode is {said}")


def rados_hosts(settings, recorder):
    """The same between hosts: direct, trunks, trunks with TLS, and Ceph's own encryption on TCP. Only when named."""
    if settings.plain:
        return
    folder = process.make_dir("vk-")
    paths = {}

    def measure(variant):
        with _hosts(variant, certified) as three:
            _check_mode(three.cluster, variant)
            daemons = list(three.daemons.values())
            before = daemons[0].status()["totals"] if daemons else {}
            found = RadosAnswers(settings, three.cluster, daemons).found
            if daemons:
                paths[variant] = carried_since(daemons[0], before, ("direct", "trunk"))
            return found

    try:
        ca = certificates.Authority(folder, "ca")
        certified = {name: ca.sign(name) for name in hosts.PROGRAMS}
        recorder.alternate("rados between hosts", {v: lambda v=v: measure(v) for v in (TCP, SECURE, DIRECT, TRUNK, TLS)},
                           rados_metrics(GOALS), warm_up=False, paths=paths, rivals=[SECURE])
    finally:
        process.remove_dir(folder)
