"""vmsgr ceph: OSDs are switched over under load, verified, switched back; one that does not come back well goes back."""
import json
import os
import threading

import pytest
from lib import vmsgrd
from lib.ends import PLAIN
from lib.process import run
from lib.rig import MON_PORTS, Rig

pytestmark = pytest.mark.skipif(PLAIN, reason="about vmsgrd itself")


class Manager:
    """What systemd does for OSDs: starts them again, with what their drop-in says."""

    def __init__(self, rig):
        self.rig, self.obeys = rig, True
        self.units = os.path.join(rig.dir, "units")
        self.drop_in = os.path.join(rig.dir, "vmsgr.conf")
        self.asked, self.answers = (os.path.join(rig.dir, name) for name in ("asked", "answers"))
        with open(self.drop_in, "w", encoding="ascii"):
            pass
        os.mkfifo(self.asked)
        os.mkfifo(self.answers)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def link(self, osd):
        return os.path.join(self.units, f"ceph-osd@{osd}.service.d/vmsgr.conf")

    def _serve(self):
        while True:
            with open(self.asked, encoding="ascii") as f:
                word = f.read().strip()
            if word == "end":
                return
            osd = int(word)
            on = self.obeys and os.path.exists(self.link(osd))
            self.rig.cluster.osds[osd].stop()
            self.rig.cluster.start_osd(osd, prefix=self.rig.vmsgrd.prefix() if on else [])
            with open(self.answers, "w", encoding="ascii") as f:
                f.write("done\n")

    def end(self):
        with open(self.asked, "w", encoding="ascii") as f:
            f.write("end\n")
        self.thread.join(10)

    def vmsgr(self, word, *words, **how):
        switch = [] if word in ("plan", "verify") else [
            "--units", self.units, "--restart", f"echo $OSD >{self.asked} && read answer <{self.answers}", "--watch", "1"]
        drop_in = ["--drop-in", self.drop_in] if word == "enable" else []
        return run([vmsgrd.VMSGR, "--socket", self.rig.vmsgrd.socket, "ceph", word, "--ceph",
                    f"ceph -c {self.rig.cluster.conf}", *switch, *drop_in, *words], netns=self.rig.netns, check=False,
                   timeout_s=120, **how)


@pytest.fixture(scope="module")
def rig():
    with Rig(objectstore="bluestore") as made:   # which keeps its data when it is restarted
        yield made


@pytest.fixture(scope="module")
def manager(rig):
    made = Manager(rig)
    for osd in rig.cluster.osds:   # as before the packages came
        rig.cluster.osds[osd].stop()
        rig.cluster.start_osd(osd, prefix=[])
    rig.cluster.wait_up(2)
    rig.cluster.wait_clean()
    yield made
    made.end()


def carried(rig):
    return {c["pid"] for c in rig.vmsgrd.status()["connections"]}


def test_plan_is_a_configuration_that_names_the_osds(rig, manager):
    path = os.path.join(rig.dir, "plan.yaml")
    done = manager.vmsgr("plan", "-o", path)
    assert done.returncode == 0, done
    assert run([vmsgrd.VMSGRD, "--config", path, "--check-config"]).returncode == 0
    for osd in rig.cluster.osds:
        for host, port in rig.cluster.osd_addresses(osd):
            tried = run([vmsgrd.VMSGR, "routes", "test", "--routes", path, "--json", "--program", "ceph-osd", f"{host}:{port}"])
            assert json.loads(tried.stdout)["via"] == "local", tried.stdout
    for port in MON_PORTS:
        tried = run([vmsgrd.VMSGR, "routes", "test", "--routes", path, "--json", "--program", "ceph-osd", f"127.0.0.1:{port}"])
        assert json.loads(tried.stdout)["via"] == "posix", tried.stdout


def test_osds_are_switched_over_and_back_under_load(rig, manager):
    bench = rig.cluster.start_client("rados", "-p", "test", "bench", "300", "write", "-b", "4096", "-t", "1",
                                     log=os.path.join(rig.dir, "bench.log"), prefix=rig.vmsgrd.prefix())
    done = manager.vmsgr("verify")
    assert done.returncode == 1 and done.stdout.count("is not attached") == 2, done
    done = manager.vmsgr("enable", "--osd", "0")
    assert done.returncode == 0 and "osd.0: enabled" in done.stdout, done
    assert os.path.islink(manager.link(0)) and not os.path.lexists(manager.link(1))
    done = manager.vmsgr("verify", "--json")
    reports = {r["osd"]: r for r in json.loads(done.stdout)}
    assert done.returncode == 1 and reports[0]["attached"] and not reports[1]["attached"], reports
    done = manager.vmsgr("enable", "--all")
    assert done.returncode == 0 and "osd.0: enabled already" in done.stdout and "osd.1: enabled" in done.stdout, done
    done = manager.vmsgr("verify", "--json")
    for r in json.loads(done.stdout):
        assert r["attached"] and r["carried"] > 0 and r["monitors_on_kernel"] > 0 and r["wrong"] == [], r
    assert done.returncode == 0 and set(rig.cluster.osd_pids().values()) <= carried(rig)
    done = manager.vmsgr("disable", "--all")
    assert done.returncode == 0 and not os.path.lexists(manager.link(0)) and not os.path.lexists(manager.link(1)), done
    assert not set(rig.cluster.osd_pids().values()) & carried(rig)
    assert bench.alive(), "it ends at its first error"
    bench.stop()


def test_an_osd_that_does_not_come_back_well_goes_back(rig, manager):
    manager.obeys = False   # it starts without VMSGR all the same
    try:
        done = manager.vmsgr("enable", "--all", "--timeout", "12")
    finally:
        manager.obeys = True
    assert done.returncode == 1 and "osd.0: it runs without VMSGR" in done.stderr, done
    assert "it was put back and is well; 1 others were not touched" in done.stderr, done
    assert not os.path.lexists(manager.link(0)) and not os.path.lexists(manager.link(1))
    rig.cluster.check_alive()
    rig.cluster.wait_clean(20)


def test_mistakes_are_one_line(rig, manager):
    done = manager.vmsgr("enable")
    assert done.returncode == 2 and "--osd N" in done.stderr, done
    done = manager.vmsgr("enable", "--osd", "77")
    assert done.returncode == 1 and "osd.77 does not run on this host" in done.stderr, done
    done = run([vmsgrd.VMSGR, "ceph", "plan", "--ceph", "no-such-ceph"], check=False)
    assert done.returncode == 1 and "install ceph-common" in done.stderr and done.stderr.count("\n") == 1, done
