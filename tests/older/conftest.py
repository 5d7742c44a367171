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

from lib import process, roots, vmsgrd  # noqa: E402

RELEASE = os.path.dirname(vmsgrd.BIN)
SUITE = "bookworm"
PACKAGES = ("redis-server", "redis-tools")
LIBRARIES = "/opt/vmsgr"     # where the root has them
FIRST_UID = 100000           # as what the host sees root of a container


class UserSpace:
    """A namespace of users, in which root is FIRST_UID of the host, as runtimes of containers make it."""

    def __init__(self):
        self._holder = process.Process(["unshare", "--user", "sh", "-c", "echo ready; exec sleep infinity"], stdout=subprocess.PIPE)
        assert self._holder.stdout.readline() == b"ready\n"
        for file in ("uid_map", "gid_map"):
            with open(f"/proc/{self._holder.pid}/{file}", "w", encoding="ascii") as f:
                f.write(f"0 {FIRST_UID} 65536")

    @property
    def prefix(self):
        return ["nsenter", f"--user=/proc/{self._holder.pid}/ns/user", "--setuid", "0", "--setgid", "0", "--"]

    def close(self):
        self._holder.kill()


class OldRoot:
    def __init__(self, path):
        self.path, self.dir = path, process.make_dir("vo-")
        route = vmsgrd.route("v4", address="127.0.0.0/8", ports="1024-65535")
        self.vmsgrd = vmsgrd.Vmsgrd(self.dir, routes=[route], shards=1,
                                     config=f"access: {{mode: 0666, uids: [0, {FIRST_UID}]}}\n").start()
        shown = process.run([vmsgrd.VMSGR, "run", "--socket", self.vmsgrd.socket, "--", "/usr/bin/env"])
        self.routes = re.search(r"^VMSGR_ROUTES=(.*)$", shown.stdout, re.M)[1]
        self.glibc = process.run(self.enter("ldd", "--version", routed=False)).stdout.split("\n")[0].split()[-1]

    def enter(self, *words, routed=True, users=None):
        """The words of a program in the root; its number is that of the process that is started with them. With a UserSpace it is in
        a container: processes, mounts, IPC and names are its own, too; the network is the host's, as with `--network host`."""
        script = """set -e
            mount -t proc proc "$1/proc"
            mount -t tmpfs tmpfs "$1/tmp"; mount -t tmpfs tmpfs "$1/opt"; mkdir "$1$3" "$1$4"
            mount --bind "$2" "$1$3"; mount -o remount,bind,ro "$1$3"
            mount --bind "$4" "$1$4"
            root=$1; enter=$5; shift 5; exec $enter chroot "$root" "$@" """
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
        if routed:
            environment += [f"LD_PRELOAD={LIBRARIES}/libvmsgr-preload.so", f"VMSGR_ROUTES={self.routes}",
                            f"VMSGR_SOCKET={self.vmsgrd.socket}"]
        spaces = ["--pid", "--fork", "--kill-child", "--ipc", "--uts"] if users else []
        return ["unshare", "--mount", "--propagation", "private", *spaces, "sh", "-c", script, "sh", self.path, f"{RELEASE}/lib",
                LIBRARIES, self.dir, " ".join(users.prefix) if users else "", *environment, *words]

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
    path, why = roots.make(SUITE, SUITE, PACKAGES)
    if why:
        pytest.skip(why)
    made = OldRoot(path)
    yield made
    made.close()
