"""Programs of an untouched Debian 12 (glibc 2.36, GCC 12's libraries) with the libraries of this build.

`make test-older`. The root is made once, in build/roots, by debootstrap: as root, with a network, a minute or two. Tests
enter it with chroot in a mount namespace of their own, in which it has tmpfs where something is written, and the
libraries and the daemon's folder on these: so nothing is ever written to it.
"""
import os
import re
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lib import process, vmsgrd  # noqa: E402
from lib.process import ROOT  # noqa: E402

RELEASE = os.path.dirname(vmsgrd.BIN)
SUITE = "bookworm"
PACKAGES = "redis-server,redis-tools"
USUAL_ARCHIVE = "http://deb.debian.org/debian"
LIBRARIES = "/opt/vmsgr"     # where the root has them


def archive():
    """Debian's archive as this machine's apt knows it."""
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main"]
    done = subprocess.run([*words, f"Codename: {SUITE}"], capture_output=True, text=True, check=False)
    return (done.stdout.split() or [USUAL_ARCHIVE])[0]


def make_root(path):
    """None, or why there is none."""
    if os.path.exists(f"{path}/.made"):
        return None
    if os.geteuid() != 0:
        return "a root of Debian 12 is made and entered by root alone"
    if shutil.which("debootstrap") is None:
        return "debootstrap is not installed; run tools/setup.sh as root"
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    done = subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, path, archive()],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=540)
    if done.returncode != 0:
        return f"debootstrap made no root of Debian 12 (is there a network?): {done.stdout.strip().splitlines()[-1:]}"
    with open(f"{path}/.made", "w", encoding="ascii"):
        return None


class OldRoot:
    def __init__(self, path):
        self.path, self.dir = path, process.make_dir("vo-")
        route = vmsgrd.route("v4", address="127.0.0.0/8", ports="1024-65535")
        self.vmsgrd = vmsgrd.Vmsgrd(self.dir, routes=[route], shards=1).start()
        shown = process.run([vmsgrd.VMSGR, "run", "--socket", self.vmsgrd.socket, "--", "/usr/bin/env"])
        self.routes = re.search(r"^VMSGR_ROUTES=(.*)$", shown.stdout, re.M)[1]
        self.glibc = process.run(self.enter("ldd", "--version", routed=False)).stdout.split("\n")[0].split()[-1]

    def enter(self, *words, routed=True):
        """The words of a program in the root; its number is that of the process that is started with them."""
        script = """set -e
            mount -t proc proc "$1/proc"
            mount -t tmpfs tmpfs "$1/tmp"; mount -t tmpfs tmpfs "$1/opt"; mkdir "$1$3" "$1$4"
            mount --bind "$2" "$1$3"; mount -o remount,bind,ro "$1$3"
            mount --bind "$4" "$1$4"
            root=$1; shift 4; exec chroot "$root" "$@" """
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
        if routed:
            environment += [f"LD_PRELOAD={LIBRARIES}/libvmsgr-preload.so", f"VMSGR_ROUTES={self.routes}",
                            f"VMSGR_SOCKET={self.vmsgrd.socket}"]
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", self.path, f"{RELEASE}/lib",
                LIBRARIES, self.dir, *environment, *words]

    def build(self, source, name, *options):
        """A program that was built here, in the folder that the root shares."""
        path = os.path.join(self.dir, name)
        # -O0: an inlined atoi() is a strtol() of a newer glibc.
        process.run([shutil.which("gcc-14") or "gcc", "-O0", "-D_GNU_SOURCE", source, "-o", path, "-pthread", *options])
        return path

    def close(self):
        self.vmsgrd.stop()
        process.remove_dir(self.dir)


@pytest.fixture(scope="session")
def old():
    if vmsgrd.why_not():
        pytest.fail(vmsgrd.why_not())
    path = os.path.join(ROOT, "build", "roots", SUITE)
    why = make_root(path)
    if why:
        pytest.skip(why)
    made = OldRoot(path)
    yield made
    made.close()
