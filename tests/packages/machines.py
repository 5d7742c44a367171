"""Machines as an operator has them: a fresh Debian, started by its own systemd, in namespaces."""
import os
import subprocess

from lib import netns, process

# $1: the root below, $2: this machine's folder, $3: its name, $4: the folder of packages, $5: its cgroup.
# /proc/sys and /sys are read-only: what systemd sets at a start would be set for the whole machine.
BOOT = """set -e
    root=$2/root
    echo 0 >"$5/cgroup.procs"
    exec unshare --net --mount --pid --fork --uts --ipc --cgroup --kill-child --propagation private sh -c '
        set -e
        mount -t overlay overlay -o lowerdir="$1",upperdir="$2/upper",workdir="$2/work" "$2/root"
        cd "$2/root"
        mount -t proc proc proc; mount --bind proc/sys proc/sys; mount -o remount,bind,ro proc/sys
        mount -t sysfs -o ro sysfs sys; mount -t cgroup2 cgroup2 sys/fs/cgroup
        mount -t tmpfs -o mode=755 tmpfs dev; mkdir dev/pts dev/shm
        for d in null zero full random urandom tty; do : >dev/$d; mount --bind /dev/$d dev/$d; done
        mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts; ln -s pts/ptmx dev/ptmx
        mount -t tmpfs -o mode=1777 tmpfs dev/shm
        mount -t tmpfs -o mode=755 tmpfs run; mount -t tmpfs -o mode=1777 tmpfs tmp
        mkdir -p debs old; mount --bind -o ro "$4" debs
        rm -f usr/sbin/policy-rc.d                          # here, packages start what they bring
        ln -sf /dev/null etc/systemd/system/timers.target   # nothing begins by itself
        hostname "$3"; echo "$3" >etc/hostname
        ip link set lo up
        pivot_root . old; umount -l /old; rmdir /old
        echo ready
        exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=basic.target
    ' sh "$@" """


def _cgroups():
    """Where the kernel's second version of control groups is."""
    with open("/proc/mounts", encoding="utf-8") as f:
        return next((line.split()[1] for line in f if line.split()[2] == "cgroup2"), None)


class Machine(netns.Netns):
    """debs: the folder of packages, in it as /debs. What it writes is gone with it."""

    def __init__(self, name, base, folder, debs):   # pylint: disable=super-init-not-called
        self.name, self.folder, self.log = name, f"{folder}/{name}", f"{folder}/{name}.log"
        above = _cgroups()
        if above is None:
            raise process.Failed("no cgroup2 is mounted, which systemd needs")
        self._cgroup = f"{above}/vmsgr-test-{os.getpid()}-{name}"
        os.mkdir(self._cgroup)
        for part in ("upper", "work", "root"):
            os.makedirs(f"{self.folder}/{part}")
        self._holder = process.Process(["sh", "-c", BOOT, "sh", base, self.folder, name, debs, self._cgroup], name=f"machine {name}",
                                       stdout=subprocess.PIPE, log=self.log)
        try:
            if self._holder.stdout.readline() != b"ready\n":
                raise process.Failed(f"{name}: {process.tail(self.log)}")
            self._holder.wait_ready(lambda: self.state("basic.target") == "active", 60, "basic.target")
        except BaseException:
            self.close()
            raise

    def _entering(self, *spaces):
        at = f"/proc/{self.pid}"
        files = {"pid": "pid_for_children"}
        return ["nsenter", *(f"--{s}={at}/ns/{files.get(s, s)}" for s in spaces), f"--mount={at}/ns/mnt", f"--root={at}/root", "--wd=/",
                "--", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "TERM=dumb"]

    @property
    def prefix(self):
        return self._entering("net", "pid", "uts", "ipc", "cgroup")

    def apt(self, *words):
        """With the network of who runs the test, in which the archive is."""
        return process.run([*self._entering("pid", "uts", "ipc", "cgroup"), "apt-get", "-y", "-q", *words], timeout_s=600)

    def run(self, *words, **how):
        return process.run(words, netns=self, **how)

    def sh(self, script, *words, **how):
        return self.run("sh", "-ec", script, "sh", *words, **how).stdout

    def systemctl(self, *words, **how):
        return self.run("systemctl", *words, **how)

    def state(self, unit):
        return self.systemctl("is-active", unit, check=False).stdout.strip()

    def show(self, unit, *properties):
        shown = self.systemctl("show", unit, *(f"-p{p}" for p in properties)).stdout
        return dict(line.split("=", 1) for line in shown.splitlines())

    def journal(self, *words):
        return self.run("journalctl", "--no-pager", "-o", "short-precise", *words, check=False).stdout

    def path(self, inside):
        return f"/proc/{self.pid}/root{inside}"

    def write(self, path, text, mode="w"):
        with open(self.path(path), mode, encoding="utf-8") as f:
            f.write(text)

    def close(self):
        self._holder.kill()   # and with it all that it has started
        for at, _, _ in os.walk(self._cgroup, topdown=False):
            process.wait_until(lambda at=at: _removed(at), 20, f"an empty {at}")


def _removed(folder):
    try:
        os.rmdir(folder)
    except OSError:
        return False
    return True
