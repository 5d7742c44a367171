"""The packages of `make deb` on machines with a fresh Debian 13 and its systemd: `make test-packages`.

The root is made once, in build/roots. Each machine is that root under an overlay of its own, which is gone after the test. What
they wrote into their journals is in build/test-logs afterwards.
"""
import glob
import os
import shutil
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lib import netns, process, roots  # noqa: E402
from machines import Machine  # noqa: E402

SUITE = "trixie"
PACKAGES = ("ceph-osd", "ceph-mon", "ceph-mgr", "ceph-common", "iproute2", "procps", "prometheus", "systemd")
DEBS = os.path.join(process.ROOT, "build/packages")
LOGS = os.path.join(process.ROOT, "build/test-logs")


@pytest.fixture(scope="session")
def debs():
    """Their paths in a machine."""
    found = sorted(glob.glob(f"{DEBS}/*.deb"))
    if not found:
        pytest.skip("no packages in build/packages; run make deb")
    return [f"/debs/{os.path.basename(p)}" for p in found if "-dbgsym_" not in p]


@pytest.fixture(scope="module")
def boot():
    """Starts machines: boot("name", ...) gives them, on one network."""
    if netns.why_not():
        pytest.skip(netns.why_not())
    base, why = roots.make("trixie-ceph", SUITE, (), PACKAGES)
    if why:
        pytest.skip(why)
    folder, networks = os.path.join(process.ROOT, "build/roots/machines"), []   # not /tmp, which may itself be an overlay
    shutil.rmtree(folder, ignore_errors=True)

    def start(*names):
        networks.append(netns.Network(names, make=lambda name: Machine(name, base, folder, DEBS)))
        return list(networks[-1].hosts.values())
    yield start
    os.makedirs(LOGS, exist_ok=True)
    for network in networks:
        for machine in network.hosts.values():
            with open(f"{LOGS}/machine-{machine.name}.log", "w", encoding="utf-8") as f:
                f.write(machine.journal())
        network.close()
    shutil.rmtree(folder, ignore_errors=True)


def installed(machine):
    """Packages of ours that it has."""
    shown = machine.run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n").stdout
    return {line.split()[0] for line in shown.splitlines() if line.endswith(" installed") and "vmsgr" in line}


def install(machine, debs):
    machine.apt("install", "--no-install-recommends", *debs)
    assert {"vmsgr", "vmsgr-preload", "vmsgr-ceph", "libvmsgr0"} <= installed(machine)


def newer(machine, debs):
    """The same packages with a later version, made in the machine."""
    machine.sh("""mkdir -p /tmp/newer
        for deb; do
            dpkg-deb -R "$deb" /tmp/newer/tree
            sed -i -e 's/^Version: .*/&+newer/' -e 's/(= \\([^)]*\\))/(= \\1+newer)/' /tmp/newer/tree/DEBIAN/control
            dpkg-deb -b -Znone /tmp/newer/tree "/tmp/newer/$(basename "$deb")"; rm -r /tmp/newer/tree
        done""", *debs, timeout_s=120)
    return [f"/tmp/newer/{os.path.basename(d)}" for d in debs]
