"""A rival: plain TCP that eBPF moves from socket to socket on one host (redirect.bpf.c). Needs root, bpftool, libbpf-dev
and clang; without them there is no such column, and the bench says so."""
import glob
import json
import os
import shutil
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
BPF_FS = "/sys/fs/bpf"
CLANG = next((c for c in ("clang", "clang-19", "clang-18", "clang-16") if shutil.which(c)), None)


def _cgroup_v2():
    with open("/proc/mounts", encoding="ascii") as f:
        return next((line.split()[1] for line in f if line.split()[2] == "cgroup2"), None)


def why_not():
    """None, or what is missing."""
    if os.geteuid() != 0:
        return "needs root"
    if not shutil.which("bpftool") or not CLANG:
        return "needs bpftool, libbpf-dev and clang"
    if not glob.glob("/usr/include/bpf/bpf_helpers.h"):
        return "needs libbpf-dev"
    return None if _cgroup_v2() else "needs a mounted cgroup2"


def _bpftool(*words):
    return subprocess.run(["bpftool", *words], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


class Sockmap:
    """Programs that are started with prefix() have their connections redirected, until close()."""

    def __init__(self, directory):
        self._pins = os.path.join(BPF_FS, f"vmsgr-bench-{os.getpid()}")
        self._group = os.path.join(_cgroup_v2(), f"vmsgr-bench-{os.getpid()}")
        self._attached = []
        try:
            self._attach(os.path.join(directory, "redirect.o"))
        except BaseException:
            self.close()
            raise

    def _attach(self, object_file):
        if not os.path.ismount(BPF_FS):
            subprocess.run(["mount", "-t", "bpf", "bpf", BPF_FS], check=True)
        headers = glob.glob("/usr/include/*-linux-gnu")
        subprocess.run([CLANG, "-O2", "-g", "-target", "bpf", *(f"-I{h}" for h in headers), "-c",
                        os.path.join(HERE, "redirect.bpf.c"), "-o", object_file], check=True)
        os.makedirs(self._group, exist_ok=True)
        os.makedirs(self._pins, exist_ok=True)
        _bpftool("prog", "loadall", object_file, self._pins, "pinmaps", self._pins)
        for what in (("cgroup", "%s", self._group, "sock_ops", "pinned", f"{self._pins}/on_connection"),
                     ("prog", "%s", "pinned", f"{self._pins}/on_message", "msg_verdict", "pinned",
                      f"{self._pins}/established")):
            _bpftool(*(word.replace("%s", "attach") for word in what))
            self._attached.append(what)

    def prefix(self):
        return ["sh", "-c", f'echo $$ > {self._group}/cgroup.procs; exec "$@"', "sockmap"]

    def moved(self):
        """How many messages went from socket to socket so far."""
        dumped = json.loads(_bpftool("-j", "map", "dump", "pinned", f"{self._pins}/moved"))[0]
        return dumped["formatted"]["value"] if "formatted" in dumped else \
            int.from_bytes(bytes(int(byte, 16) for byte in dumped["value"]), "little")

    def close(self):
        for what in reversed(self._attached):
            subprocess.run(["bpftool", *(word.replace("%s", "detach") for word in what)], check=False)
        self._attached = []
        shutil.rmtree(self._pins, ignore_errors=True)
        for _ in range(2):
            try:
                os.rmdir(self._group)
                return
            except FileNotFoundError:
                return
            except OSError:   # somebody is still in it
                with open(os.path.join(self._group, "cgroup.procs"), encoding="ascii") as f, \
                        open(os.path.join(_cgroup_v2(), "cgroup.procs"), "w", encoding="ascii") as top:
                    for pid in f.read().split():
                        top.write(pid)
                        top.flush()
