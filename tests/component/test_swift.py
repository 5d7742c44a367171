"""Every command answers within 100 ms with 5,000 connections open, and while shards are stopped by a debugger.

A busy machine makes everything slow, so what counts is the processor time of the command and of the daemon for it; the time by the
clock must show that nothing waited for a time limit, and is below 100 ms, too, where the machine was free.
"""
import os
import resource
import subprocess
import time

import pytest
from lib import process, vmsgrd

from held import Held

MANY, ANSWER_S, WAITED_S = 5000, 0.1, 1.0
EXPLAIN_ALL_S = 1
ROUTES = [vmsgrd.route("wire", address="127.0.0.0/8", local="no")]
CODE = """
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
held = []
def take():
    while True:
        held.append(listener.accept()[0])
threading.Thread(target=take, daemon=True).start()
held += [socket.create_connection(listener.getsockname()) for _ in range(int(sys.argv[1]))]
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def busy():
    """A daemon that carries MANY ends, all of one program, as far as this machine's limit of descriptors lets it."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
    port = 9849
    config = f"metrics: {{listen: {port}}}\nlimits: {{ring_bytes: 16K}}\nwatchdog_ms: 0\n"
    try:
        with vmsgrd.Vmsgrd(process.make_dir("vw-"), routes=ROUTES, config=config) as daemon:
            with subprocess.Popen([*daemon.prefix(), "/usr/bin/python3", "-c", CODE, str(MANY // 2)], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE) as program:
                assert program.stdout.readline() == b"ready\n"
                yield daemon, program.pid
                program.kill()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def commands(pid):
    fd = max(int(n) for n in os.listdir(f"/proc/{pid}/fd"))
    return [["status"], ["status", "--json"], ["conns"], ["conns", "--json"], ["conns", "--route", "wire"], ["trunks"], ["routes"],
            ["routes", "test", "127.0.0.1:80"], ["explain", pid, fd], ["explain", pid, "--to", "127.0.0.1:80"],
            ["doctor", "true"], ["page"]]


def children_s():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def machine_is_free(probe_s=0.01):
    """So much processor time takes hardly longer by the clock."""
    began, until = time.monotonic(), time.thread_time() + probe_s
    while time.thread_time() < until:
        pass
    return time.monotonic() - began < 1.2 * probe_s


def measured(daemon, words, pids):
    """The best of a few: (processor time of it and of the daemon, time by the clock, how it ended)."""
    best, free_s = (9.0, 9.0, None), []
    for _ in range(5):
        free = machine_is_free()
        own, theirs, began = children_s(), sum(process.cpu_s(p) for p in pids), time.monotonic()
        done = subprocess.run([vmsgrd.VMSGR, "--socket", daemon.socket, *(str(w) for w in words)], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=60)
        took = (children_s() - own + sum(process.cpu_s(p) for p in pids) - theirs, time.monotonic() - began, done)
        best = min(best, took, key=lambda t: t[:2])
        if free and machine_is_free():
            free_s.append(took[1])
    # A single run may have been disturbed between two looks.
    return best if len(free_s) < 3 or min(free_s) < ANSWER_S else (best[0], 9.0, best[2])


def test_with_five_thousand_connections(busy):
    daemon, pid = busy
    # All of them where a process may have 40,000 descriptors (ulimit -Hn); the others are the kernel's.
    assert len(daemon.status()["connections"]) > MANY / 2
    pids = [daemon.pid, vmsgrd.child_of(daemon.process.pid, "vmsgrd-stats")]
    slow = {}
    for words in commands(pid):
        cpu_s, wall_s, done = measured(daemon, words, pids)
        assert done.returncode == 0, (words, done)
        print(words, round(cpu_s, 3), round(wall_s, 3))
        if cpu_s > ANSWER_S or wall_s > 2 * WAITED_S:
            slow[" ".join(map(str, words))] = (round(cpu_s, 3), round(wall_s, 3))
    assert slow == {}


def test_explain_of_all_sockets_of_such_a_program_takes_seconds_and_not_minutes(busy):
    daemon, pid = busy
    before = children_s()
    done = subprocess.run([vmsgrd.VMSGR, "--socket", daemon.socket, "explain", str(pid)], capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) >= MANY and sum("accelerated: vmsgrd carries it" in line for line in lines) > MANY / 4
    assert children_s() - before < EXPLAIN_ALL_S


@pytest.mark.parametrize("which", [[0], [1], [0, 1]], ids=["the first", "another", "all"])
def test_with_stopped_shards(which):
    port = 9850
    with vmsgrd.Vmsgrd(process.make_dir("vw-"), routes=ROUTES, config=f"metrics: {{listen: {port}}}\n") as daemon:
        with subprocess.Popen([*daemon.prefix(), "/usr/bin/python3", "-c", CODE, "1"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as program:
            assert program.stdout.readline() == b"ready\n"
            threads = [s["thread"] for s in daemon.status()["shards"]]
            pids = [daemon.pid, vmsgrd.child_of(daemon.process.pid, "vmsgrd-stats")]
            slow = {}
            with Held([threads[n] for n in which]):
                for words in commands(program.pid):
                    cpu_s, wall_s, done = measured(daemon, words, pids)
                    if 0 in which and words[0] in ("routes", "doctor"):
                        assert done.returncode in (1, 3) and "shard 0 is stopped" in done.stdout + done.stderr, (words, done)
                    else:
                        assert done.returncode == 0, (words, done)
                    if cpu_s > ANSWER_S or wall_s > WAITED_S:
                        slow[" ".join(map(str, words))] = (round(cpu_s, 3), round(wall_s, 3))
            program.kill()
    assert slow == {}
