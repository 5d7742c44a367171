"""vmsgrd and vmsgr as built: the daemon with a configuration of its own, and the prefix that attaches programs."""
import os
import re
import signal

from .process import ROOT, Adopted, Failed, Process, run, run_json, tail

BIN = os.environ.get("VMSGR_BIN", os.path.join(ROOT, "build/release/bin"))
VMSGR = os.path.join(BIN, "vmsgr")
VMSGRD = os.path.join(BIN, "vmsgrd")


def why_not():
    """None, or what to do before vmsgrd can be used."""
    for path in (VMSGRD, VMSGR):
        if not os.access(path, os.X_OK):
            return f"{path} is not built; run make (or set VMSGR_BIN)"
    return None


def route(name, *, address=None, ports=None, program="*", role="any", via="direct", fallback="posix",
          local=None, without_trunk=None):
    """One routing rule as configuration and --routes take it."""
    return {"name": name, "program": program, "role": role, "address": address, "ports": ports, "via": via,
            "fallback": fallback, "local": local, "without_trunk": without_trunk}


def routes_yaml(routes):
    lines = ["routes:"]
    for r in routes:
        lead = "  - "
        for key, value in r.items():
            if value is not None:
                text = f'"{value}"' if key in ("program", "address") else str(value)
                lines.append(f"{lead}{key}: {text}")
                lead = "    "
    return "\n".join(lines) + "\n"


def child_of(pid, name):
    """The newest child with this name; None: there is none."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        children = f.read().split()
    for child in reversed(children):
        try:
            with open(f"/proc/{child}/comm", encoding="ascii") as f:
                if f.read() == name + "\n":
                    return int(child)
        except (FileNotFoundError, ProcessLookupError):   # before and after open()
            continue
    return None


def descendants(pid):
    """Children of a process, their children, and so on."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            children = [int(c) for c in f.read().split()]
    except FileNotFoundError:
        return []
    return [d for c in children for d in (c, *descendants(c))]


def injected(*rules):
    """Words before vmsgrd --upgrade, under which its processes are killed or stopped as they make their nth call."""
    return ["strace", "-f", "-qq", "-o", "/dev/null", *[w for r in rules for w in ("-e", f"inject={r}")]]


def upgraded(daemon):
    """How long the pause was in ms, as the new one says it."""
    done = daemon.upgrade()
    assert done.returncode == 0, (done.stdout, done.stderr, tail(daemon.log, 90))
    return int(re.search(r"the pause was (\d+) ms", done.stdout)[1])


class Vmsgrd:
    """One daemon. With plain=True nothing is started, and programs get an empty prefix: the same test on TCP."""

    def __init__(self, directory, *, routes, netns=None, name="vmsgrd", shards=2, memory="256M", plain=False,
                 config="", before=(), program=None):
        """before: words in front of vmsgrd's own, which exec it. program: another than vmsgrd."""
        self.plain, self.netns, self.name = plain, netns, name
        self.socket = os.path.join(directory, f"{name}.sock")
        self.config = os.path.join(directory, f"{name}.yaml")
        self.log = os.path.join(directory, f"{name}.log")
        self.process, self.routes_files, self.before, self.program = None, 0, list(before), program or VMSGRD
        if not plain:
            with open(self.config, "w", encoding="ascii") as f:
                f.write(f"socket: {self.socket}\nshards: {shards}\nmemory: {memory}\n{routes_yaml(routes)}{config}")

    def start(self):
        if self.plain:
            return self
        if why_not():
            raise Failed(why_not())
        self.process = Process([*self.before, self.program, "--config", self.config], log=self.log, name=self.name, netns=self.netns)
        self.process.wait_ready(self._answers, 20, "answer on its control socket")
        return self

    def _answers(self):
        if not os.path.exists(self.socket):
            return False
        done = run([VMSGR, "status", "--json", "--socket", self.socket], check=False, timeout_s=10)
        return done.returncode == 0

    @property
    def pid(self):
        """Of the worker, in which everything happens; process.pid is its keeper's, to which signals go."""
        return child_of(self.process.pid, "vmsgrd-worker") if self.process else None

    def upgrade(self, *words, before=(), timeout_s=30):
        """vmsgrd --upgrade. If it has succeeded, `process` is the new keeper, and the one before has ended in order."""
        done = run([*before, self.program, "--upgrade", "--config", self.config, *words], check=False, netns=self.netns,
                   timeout_s=timeout_s)
        if done.returncode == 0:
            pid = int(re.match(r"vmsgrd \S+ \(pid (\d+)\) has taken over", done.stdout)[1])
            old, self.process = self.process, Adopted(pid, log=self.log, name=self.name)
            if old.wait(5) != 0:
                raise Failed(f"the old vmsgrd ended with {old.returncode}")
        return done

    def prefix(self, routes=None):
        """Words before a program that attach it to this daemon; they exec, so its number stays. Without routes: its."""
        if self.plain:
            return []
        own = []
        if routes is not None:
            self.routes_files += 1
            own = ["--routes", f"{self.config}.routes{self.routes_files}"]
            with open(own[1], "w", encoding="ascii") as f:
                f.write(routes_yaml(routes))
        return [VMSGR, "run", "--socket", self.socket, *own, "--"]

    def status(self):
        return run_json([VMSGR, "status", "--json", "--socket", self.socket], timeout_s=10)

    def carried_bytes(self):
        totals = {} if self.plain else self.status()["totals"]
        return totals.get("bytes_direct", 0) + totals.get("bytes_local", 0) + totals.get("bytes_trunk", 0)

    def kill(self):
        if self.process:
            self.process.signal(signal.SIGKILL)
            self.process.kill()

    def stop(self):
        """SIGTERM; the exit code, 0 in plain mode."""
        if self.plain or not self.process:
            return 0
        process, self.process = self.process, None
        return process.stop()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()
