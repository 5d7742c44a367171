"""Each system call, each descriptor, each allocation, the Nth for every N, fails: of a program that attaches, listens, connects,
dials, accepts and forks (talk.c), and of the daemon while it serves one. A program sees an error that its call may have, or the kernel's own connection;
never wrong bytes, never an end that nobody sent, never a wait. Afterwards everything is back.
"""
import os
import re
import resource
import shutil
import signal
import subprocess
import time

import pytest

import conftest
import people
from lib.process import wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
RIGHT_OR_FAILED = (0, 1)
# What the library calls, and an error that it can have.
CALLS = [("socketpair", "EMFILE"), ("memfd_create", "ENOMEM"), ("ftruncate", "ENOSPC"), ("mmap", "ENOMEM"), ("socket", "EMFILE"),
         ("connect", "EAGAIN"), ("sendmsg", "ENOBUFS"), ("recvmsg", "ENOMEM"), ("dup3", "EMFILE"), ("accept4", "EMFILE"),
         ("fcntl", "EMFILE"), ("setsockopt", "ENOMEM"), ("getsockopt", "ENOBUFS"), ("getsockname", "ENOBUFS"),
         ("sendto", "ENOBUFS"), ("recvfrom", "ENOMEM"), ("ppoll", "ENOMEM"), ("fstat", "ENOMEM"), ("fstatfs", "ENOMEM")]


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("talk")
    for above in (folder, *folder.parents):
        if str(above).startswith("/tmp/pytest"):
            above.chmod(0o755)
    program = str(folder / "talk")
    subprocess.run([shutil.which("gcc-14") or "gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-fno-builtin", "-o", program,
                    f"{HERE}/talk.c", f"{HERE}/no_memory.c"], check=True)
    return program


@pytest.fixture
def quiet(make_world):
    """A world in which nobody else is at work, so that what is left over shows."""
    world = make_world(shards=1, bystander=False)
    before = held(world)
    yield world
    wait_until(lambda: all(now <= before[what] for what, now in held(world).items()), 15,
               f"everything is back: {before}, and not {held(world)}")
    world.check()


def held(world):
    """Of the daemon, while nobody is attached: the session that asks is closed some time after its answer."""
    time.sleep(0.1)
    descriptors = world.descriptors()
    limits = world.attach().status()["limits"]
    return {"descriptors": descriptors, **{k: v for k, v in limits.items() if k.endswith("_used")}}


def run(world, words, timeout_s=30, allocation=None):
    """allocation: which one fails (no_memory.h)."""
    env = {**os.environ, **({} if allocation is None else {"FAIL_ALLOCATION": str(allocation)})}
    done = subprocess.run(people.as_user(people.ATTACKER, [*world.daemon.prefix(), *words]), capture_output=True, text=True,
                          errors="replace", timeout=timeout_s, check=False, env=env)
    return done.returncode, done.stderr


def calls_since_main(world, talk, name, trace):
    """How many come before main(), and behind it."""
    code, text = run(world, ["strace", "-f", "-qq", "-o", trace, "-e", f"trace={name},getppid", talk, conftest.PLAIN_PORT])
    assert code == 0, text
    with open(trace, encoding="utf-8", errors="replace") as f:
        before, after = re.split(r"getppid\(\)", f.read(), maxsplit=1)
    return before.count(f"{name}("), after.count(f"{name}(")


@pytest.mark.parametrize("memory", [True, False], ids=["with memory", "without memory"])
@pytest.mark.parametrize("name,error", CALLS, ids=[name for name, _ in CALLS])
def test_each_call_of_a_program_fails_once(quiet, talk, tmp_path, name, error, memory):
    """Without memory: no allocation in its calls succeeds, so none is made, not even to say what has failed."""
    tmp_path.chmod(0o777)
    for above in tmp_path.parents:
        if str(above).startswith("/tmp/pytest"):
            above.chmod(0o755)
    trace = str(tmp_path / "trace")
    before, after = calls_since_main(quiet, talk, name, trace)
    outcomes = []
    for n in range(before + 1, before + after + 1):
        code, text = run(quiet, ["strace", "-f", "-qq", "-o", trace, "-e", f"trace={name}", "-e",
                                 f"inject={name}:error={error}:when={n}", talk, conftest.PLAIN_PORT],
                         allocation=None if memory else -1)
        assert code in RIGHT_OR_FAILED, f"{name} number {n - before} of {after} failed: exit code {code}\n{text}"
        outcomes.append(code)
    print(f"{name}: of {after}, {outcomes.count(0)} without anybody noticing, {outcomes.count(1)} told")


def test_each_allocation_of_a_program_fails_once(quiet, talk):
    """And all of them at once. Then there is memory again, and everything works."""
    code, text = run(quiet, [talk, conftest.PLAIN_PORT, "again"], allocation=0)
    assert code == 0, text
    count = int(re.search(r"allocations: (\d+)", text)[1])
    outcomes = []
    for n in [-1, *range(2, count + 2)]:   # talk's own is the first
        code, text = run(quiet, [talk, conftest.PLAIN_PORT, "again"], allocation=n)
        assert code in RIGHT_OR_FAILED, f"allocation {n} of {count} failed: exit code {code}\n{text}"
        outcomes.append(code)
    print(f"of {count} allocations, {outcomes.count(0)} without anybody noticing, {outcomes.count(1)} told")


def test_each_descriptor_of_a_program_is_the_last(quiet, talk):
    outcomes = []
    for n in range(40):
        code, text = run(quiet, [talk, conftest.PLAIN_PORT, n])
        assert code in RIGHT_OR_FAILED, f"{n} descriptors: exit code {code}\n{text}"
        outcomes.append(code)
        if outcomes[-5:] == [0] * 5:
            break
    assert outcomes[-1] == 0 and 1 in outcomes, outcomes
    print(f"outcomes with 0 to {len(outcomes) - 1} descriptors: {outcomes}")


def test_each_descriptor_of_the_daemon_is_the_last(quiet, talk):
    """While it has so many left, a program is served or left to the kernel; it sees nothing else."""
    pid = quiet.daemon.pid
    limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    outcomes = []
    try:
        for n in range(16):
            open_now = max(int(fd) for fd in os.listdir(f"/proc/{pid}/fd")) + 1
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_now + n, limit[1]))
            began = time.monotonic()
            code, text = run(quiet, [talk, conftest.PLAIN_PORT])
            assert code in RIGHT_OR_FAILED, f"{n} descriptors: exit code {code}\n{text}"
            assert time.monotonic() - began < 10
            outcomes.append(code)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
            time.sleep(0.1)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
    print(f"outcomes with 0 to {len(outcomes) - 1} descriptors: {outcomes}")
    assert outcomes[-1] == 0


# What the daemon calls for a program, and an error that it can have. Not epoll_ctl: Seastar's own ends the process.
DAEMON_CALLS = [*((name, error) for name, error in CALLS if name not in ("dup3", "ppoll")), ("getpeername", "ENOBUFS"),
                ("ioctl", "ENOMEM"), ("shutdown", "ENOTCONN"), ("bind", "EADDRINUSE"),
                ("listen", "EADDRINUSE")]


class Tampering:
    """strace on the daemon, from its return on."""

    def __init__(self, pid, trace, *words):
        self.process = subprocess.Popen(["strace", "-f", "-qq", "-o", trace, *words, "-p", str(pid)])
        wait_until(lambda: all(self._traced(pid, task) for task in os.listdir(f"/proc/{pid}/task")), 10, "strace is there")

    @staticmethod
    def _traced(pid, task):
        try:
            with open(f"/proc/{pid}/task/{task}/status", encoding="ascii", errors="replace") as f:
                return "TracerPid:\t0\n" not in f.read()
        except FileNotFoundError:
            return True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(10)


@pytest.mark.parametrize("name,error", DAEMON_CALLS, ids=[name for name, _ in DAEMON_CALLS])
def test_each_call_of_the_daemon_fails_once(quiet, talk, tmp_path, name, error):
    """While it serves a program, which sees an error, the kernel's own connection, or nothing of it."""
    pid, trace = quiet.daemon.pid, str(tmp_path / "trace")
    with Tampering(pid, trace, "-e", f"trace={name}"):
        assert run(quiet, [talk, conftest.PLAIN_PORT]) == (0, "")
        time.sleep(0.2)
    with open(trace, encoding="utf-8", errors="replace") as f:
        count = f.read().count(f"{name}(")
    outcomes = []
    for n in range(1, count + 1):
        with Tampering(pid, trace, "-e", f"trace={name}", "-e", f"inject={name}:error={error}:when={n}"):
            code, text = run(quiet, [talk, conftest.PLAIN_PORT])
            assert code in RIGHT_OR_FAILED, f"{name} number {n} of {count} failed: exit code {code}\n{text}"
            assert quiet.daemon.pid == pid, f"{name} number {n} of {count} failed, and the daemon has ended"
            outcomes.append(code)
    print(f"{name}: of {count}, {outcomes.count(0)} without anybody noticing, {outcomes.count(1)} told")
