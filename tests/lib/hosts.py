"""A Ceph cluster over three hosts in network namespaces: mon (with the mgr and the client), osd0 and osd1."""
from . import ceph, netns, process, trunks, vmsgrd

PROGRAMS = {"mon": ("mon.a", "mgr.x", "client"), "osd0": ("osd.0",), "osd1": ("osd.1",)}


class Hosts:
    """`attached` names the hosts with a vmsgrd, through which those of `programs` run that live there.

    trunk: keys of the `trunk:` section; then each daemon has trunks to the others. `tls`: that section's, by host.
    """

    def __init__(self, attached, *, routes, programs, trunk=None, tls=None, plain=False, config=""):
        self.dir, self.peers = process.make_dir("vh-"), 0 if trunk is None or plain else len(attached) - 1
        self.network = netns.Network(PROGRAMS)
        hosts = {name: ceph.Host(self.network[name], self.network[name].address) for name in PROGRAMS}
        at = {name: f"{hosts[name].address}:{trunks.PORT}" for name in attached}

        def sections(me):
            if trunk is None:
                return ""
            peers = {name: (at[name], [hosts[name].address]) for name in attached if name != me}
            return trunks.trunk_yaml(me, at[me], peers, tls=(tls or {}).get(me), **trunk)
        self.daemons = {name: vmsgrd.Vmsgrd(self.dir, routes=routes, netns=self.network[name], name=name, plain=plain,
                                            shards=1, config=sections(name)) for name in attached}
        self.cluster = ceph.CephCluster(
            mon_host=hosts["mon"], osd_hosts=[hosts["osd0"], hosts["osd1"]], directory=f"{self.dir}/c", config=config,
            prefixes={p: d.prefix() for name, d in self.daemons.items() for p in PROGRAMS[name] if p in programs})

    def __enter__(self):
        try:
            for daemon in self.daemons.values():
                daemon.start()
            for daemon in self.daemons.values() if self.peers else ():
                trunks.wait_up(daemon, self.peers)
            self.cluster.start()
            self.cluster.make_pool()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.cluster.stop()
        for daemon in self.daemons.values():
            daemon.stop()
        self.network.close()
        process.remove_dir(self.dir)
