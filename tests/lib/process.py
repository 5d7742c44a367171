"""Processes that never stay behind: each in a session of its own, with a log file, stopped by its number.

Whatever happens to the test run, everything started here ends: `Process` is a context manager, `atexit` stops
what is left, and `guard.py` does it when the run itself is killed. Nothing is ever stopped by name.
"""
import atexit
import json
import os
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from . import guard

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

_guard = None
_live = {}
_dirs = []


class Failed(Exception):
    """A program or a wait did not do what it had to; the text says which, and shows the end of its log."""


def _tell(line):
    global _guard
    if _guard is None:
        _guard = subprocess.Popen([sys.executable, "-I", guard.__file__], stdin=subprocess.PIPE,
                                  stdout=subprocess.DEVNULL, start_new_session=True, text=True, bufsize=1)
    _guard.stdin.write(line + "\n")
    _guard.stdin.flush()


def make_dir(prefix="vm-"):
    """A directory with a short path (unix sockets take 107 characters), removed at the end."""
    path = tempfile.mkdtemp(prefix=prefix, dir="/tmp")
    os.chmod(path, 0o755)
    _dirs.append(path)
    _tell("dir " + path)
    return path


def remove_dir(path):
    shutil.rmtree(path, ignore_errors=True)
    if path in _dirs:
        _dirs.remove(path)
        _tell("undir " + path)


def release_everything():
    """Leaves processes and directories as they are; returns the session numbers and start times to end later."""
    left = [(p.pid, p.start_ticks) for p in _live.values()]
    _tell("release")
    _live.clear()
    _dirs.clear()
    return left


@atexit.register
def stop_everything():
    for process in reversed(list(_live.values())):
        process.kill()
    for path in list(_dirs):
        remove_dir(path)
    if _guard is not None:
        try:
            _guard.stdin.close()
            _guard.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            pass


def _start_ticks(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        return int(f.read().rpartition(")")[2].split()[19])


def tail(path, lines=15):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return "".join(f.readlines()[-lines:])
    except OSError:
        return ""


def free_port():
    """Of 127.0.0.1, for TCP: nobody has it now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_until(condition, timeout_s, what, every_s=0.05):
    """The first true value of condition(); Failed, naming `what`, after timeout_s."""
    until = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= until:
            raise Failed(f"waited {timeout_s} s for {what}")
        time.sleep(every_s)


class Process:
    """A long-running program. argv may start with prefixes that exec (nsenter, vmsgr run)."""

    def __init__(self, argv, *, log=None, env=None, cwd=None, name=None, netns=None, nofile=None, stdin=None,
                 stdout=None):
        self.argv = [str(a) for a in (netns.prefix if netns else []) + list(argv)]
        self.name = name or os.path.basename(argv[0])
        self.log = log
        out = open(log, "ab", buffering=0) if log else subprocess.DEVNULL

        def limits():
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if nofile:
                resource.setrlimit(resource.RLIMIT_NOFILE, nofile)

        try:
            self._popen = subprocess.Popen(
                self.argv, stdin=stdin or subprocess.DEVNULL, stdout=stdout or out, stderr=out, cwd=cwd,
                env={**os.environ, **env} if env else None, start_new_session=True, preexec_fn=limits)
        finally:
            if log:
                out.close()
        self.pid = self._popen.pid
        self.start_ticks = _start_ticks(self.pid)
        _live[self.pid] = self
        _tell(f"session {self.pid} {self.start_ticks}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def stdout(self):
        return self._popen.stdout

    @property
    def stdin(self):
        return self._popen.stdin

    @property
    def returncode(self):
        return self._popen.poll()

    def alive(self):
        return self._popen.poll() is None

    def signal(self, number):
        if self.alive():
            os.kill(self.pid, number)

    def wait(self, timeout_s):
        try:
            code = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} still runs after {timeout_s} s\n{tail(self.log or '')}") from None
        self._ended()
        return code

    def _ended(self):
        if _live.pop(self.pid, None) is not None:
            guard.kill_session(self.pid, self.start_ticks)   # children it left behind
            _tell(f"forget {self.pid}")

    def stop(self, timeout_s=10):
        """SIGTERM, then SIGKILL; returns the exit code."""
        if self.alive():
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            try:
                self._popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return self.kill()
        self._ended()
        return self._popen.returncode

    def kill(self):
        if self.alive():
            self.signal(signal.SIGKILL)
            self._popen.wait()
        self._ended()
        return self._popen.returncode

    def wait_ready(self, condition, timeout_s, what):
        """Waits for condition() while the process lives; a process that ends first is an error with its log."""
        def look():
            if not self.alive():
                raise Failed(f"{self.name} ended with {self.returncode} before {what}\n"
                             f"  {shlex.join(self.argv)}\n{tail(self.log or '')}")
            return condition()
        try:
            return wait_until(look, timeout_s, f"{self.name}: {what}")
        except Failed as e:
            raise Failed(f"{e}\n{tail(self.log or '')}") from None


class Adopted(Process):
    """One that a process of ours has started and left behind, which leads a session of its own. Its exit code is not known."""

    def __init__(self, pid, *, log=None, name=None):   # pylint: disable=super-init-not-called
        self.argv, self.name, self.log, self.pid = [], name or str(pid), log, pid
        self.start_ticks = _start_ticks(pid)
        _live[pid] = self
        _tell(f"session {pid} {self.start_ticks}")

    def alive(self):
        try:
            with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as f:
                words = f.read().rpartition(")")[2].split()
                return words[0] != "Z" and int(words[19]) == self.start_ticks
        except (FileNotFoundError, ProcessLookupError):
            return False

    @property
    def returncode(self):
        return None if self.alive() else 0

    def wait(self, timeout_s):
        wait_until(lambda: not self.alive(), timeout_s, f"the end of {self.name}")
        self._ended()
        return 0

    def stop(self, timeout_s=10):
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout_s)
        except Failed:
            return self.kill()

    def kill(self):
        self.signal(signal.SIGKILL)
        self.wait(10)
        return -signal.SIGKILL


def run(argv, *, netns=None, timeout_s=60, check=True, env=None, input=None, cwd=None, binary=False):
    """Runs a program to its end; gives CompletedProcess. At a timeout the program's whole session is killed."""
    argv = [str(a) for a in (netns.prefix if netns else []) + list(argv)]
    popen = subprocess.Popen(argv, stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=not binary, cwd=cwd,
                             env={**os.environ, **env} if env else None, start_new_session=True)
    ticks = _start_ticks(popen.pid)
    _tell(f"session {popen.pid} {ticks}")
    try:
        out, err = popen.communicate(input, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        guard.kill_session(popen.pid, ticks)
        out, err = popen.communicate()
        raise Failed(f"no end after {timeout_s} s: {shlex.join(argv)}\n{out[-1500:]!s}\n{err[-1500:]!s}") from None
    finally:
        if popen.poll() is None:
            guard.kill_session(popen.pid, ticks)
            popen.wait()
        _tell(f"forget {popen.pid}")
    done = subprocess.CompletedProcess(argv, popen.returncode, out, err)
    if check and popen.returncode != 0:
        raise Failed(f"exit {popen.returncode}: {shlex.join(argv)}\n{out[-1500:]!s}\n{err[-1500:]!s}")
    return done


def run_json(argv, **kw):
    done = run(argv, **kw)
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise Failed(f"no JSON from {shlex.join(done.args)}: {done.stdout[:500]!r}") from None


def resident_kib(pid):
    """Resident memory of a process in KiB (VmRSS)."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
        for line in f:
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    return 0


def cpu_s(pid):
    """User and system CPU seconds of a process so far."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
