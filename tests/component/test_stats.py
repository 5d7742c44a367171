"""The page of counters: what vmsgr tells while every shard of the daemon is stopped, and to whom."""
import json
import os
import signal
import socket
import time

import pytest
from lib import process, vmsgrd

from held import Held
from test_views import Program

ROUTES = [vmsgrd.route("wire", address="127.0.0.0/8", local="no")]
ANSWER_S = 0.1
OTHER_USER = 2001


@pytest.fixture(scope="module")
def daemon():
    with vmsgrd.Vmsgrd(process.make_dir("vs-"), routes=ROUTES, config="access: {mode: 0666}\n") as running:
        os.chmod(os.path.dirname(running.socket), 0o755)
        yield running


@pytest.fixture
def pair(daemon):
    with Program(daemon.prefix(), "serve", "127.0.0.1", 0) as server:
        _, port, _ = server.says()
        with Program(daemon.prefix(), "connect", "127.0.0.1", port) as client:
            server.says(), client.says()
            yield server, client


def threads(daemon):
    return [s["thread"] for s in daemon.status()["shards"]]


def timed(vmsgr, daemon, *words, **how):
    """The answer, and how long it took: the best of a few, as the machine may be busy."""
    best, done = 9.0, None
    for _ in range(5):
        began = time.monotonic()
        done = vmsgr(*words, "--socket", daemon.socket, **how)
        best = min(best, time.monotonic() - began)
    return done, best


def test_each_command_answers_while_all_shards_are_held(vmsgr, daemon, pair):
    server, client = pair
    client.does("send", 1234)
    server.does("receive", 1234)
    client.says(), server.says()
    with Held(threads(daemon)):
        for words in (["status"], ["conns"], ["trunks"], ["status", "--json"]):
            done, took_s = timed(vmsgr, daemon, *words)
            assert done.code == 0 and took_s < ANSWER_S, (words, took_s, done)
        text = vmsgr("status", "--socket", daemon.socket).out
        assert "shard 0 is stopped, by a debugger" in text and "shard 1 is stopped" in text
        doc = json.loads(done.out)
    assert doc["partial"] is True and [s["state"] for s in doc["shards"]] == ["stopped", "stopped"]
    rows = {c["pid"]: c for c in doc["connections"]}
    assert rows[client.pid]["bytes_out"] == 1234 and rows[client.pid]["route"] == "wire"
    assert rows[server.pid]["bytes_in"] == 1234 and rows[server.pid]["role"] == "server"
    assert rows[client.pid]["peer"] == rows[server.pid]["local"]
    assert {s["pid"] for s in doc["sessions"]} >= {client.pid, server.pid}
    assert "python" in {s["program"][:6] for s in doc["sessions"]}
    again = daemon.status()
    assert "partial" not in again and all(s["state"] == "running" for s in again["shards"])


def test_it_answers_while_the_whole_daemon_is_stopped(vmsgr, daemon):
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        done, took_s = timed(vmsgr, daemon, "status")
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    assert done.code == 0 and took_s < ANSWER_S and "is stopped" in done.out, (took_s, done)


def test_one_held_shard_is_named(vmsgr, daemon):
    with Held(threads(daemon)[1:]):
        text = vmsgr("status", "--socket", daemon.socket).out
    assert "shard 1 is stopped" in text and "shard 0 is stopped" not in text


def test_a_daemon_that_is_stopped_under_the_question(vmsgr, daemon, here):
    """The page said that it runs, then no answer came: a control socket that nobody serves, beside the real page."""
    silent, path = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET), f"{here}/control"
    with silent:
        silent.bind(path)
        silent.listen()
        os.symlink(daemon.socket + ".stats", path + ".stats")
        done = vmsgr("status", "--socket", path)
        assert done.code == 0 and "did not answer in time" in done.out and "page of counters" in done.out, done
        lines = vmsgr("top", "--socket", path, "--interval", "0.1").out.splitlines()
        assert lines[0].startswith("vmsgrd "), lines


def test_another_user_sees_nothing_of_it(vmsgr, daemon, pair):
    with Held(threads(daemon)):
        done = vmsgr("status", "--json", "--socket", daemon.socket, user=OTHER_USER)
    doc = json.loads(done.out)
    assert doc["connections"] == [] and doc["sessions"] == [] and doc["trunks"] == []
    assert doc["shown"]["all"] is False and "refused" not in doc["totals"], doc["totals"]


def test_rows_are_used_again(daemon):
    for _ in range(3):
        with Program(daemon.prefix(), "serve", "127.0.0.1", 0) as server:
            _, port, _ = server.says()
            with Program(daemon.prefix(), "connect", "127.0.0.1", port) as client:
                server.says(), client.says()
    process.wait_until(lambda: daemon.status()["connections"] == [], 5, "connections to end")
    with Held(threads(daemon)):
        assert ask(daemon, b"status\n")["connections"] == []


def ask(daemon, question):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        s.connect(daemon.socket + ".stats")
        s.sendall(question)
        text = b""
        while piece := s.recv(65536):
            text += piece
    return json.loads(text) if text else None


def stats_pid(daemon):
    return vmsgrd.child_of(daemon.process.pid, "vmsgrd-stats")


def test_who_reads_the_page_cannot_write_it_and_holds_nothing_else(daemon):
    pid = stats_pid(daemon)
    with open(f"/proc/{pid}/maps", encoding="ascii") as f:
        shared = [line.split() for line in f if line.split()[1].endswith("s")]
    assert [(m[1], "vmsgr-stats" in m[5]) for m in shared] == [("r--s", True)], shared

    def holds():
        try:
            return [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")]
        except FileNotFoundError:   # closed while it was looked at
            return []

    def sockets():
        return [n for n in holds() if n.startswith("socket:")]

    # The client of the test before has ended; the process may not have seen it yet.
    process.wait_until(lambda: len(sockets()) == 1, 5, "its clients to end")
    assert len(holds()) in range(1, 9), holds()


def test_silent_and_foolish_clients_keep_nobody_waiting(daemon):
    held = [socket.socket(socket.AF_UNIX) for _ in range(100)]
    try:
        for s in held:
            s.connect(daemon.socket + ".stats")
        assert ask(daemon, b"health\n")["daemon"]["pid"] == daemon.process.pid
        assert ask(daemon, b"nonsense\n") is None
        assert ask(daemon, b"x" * 70) is None
        assert ask(daemon, b"health\nmore\n")["daemon"]["pid"] == daemon.process.pid
    finally:
        for s in held:
            s.close()


def test_it_ends_with_its_daemon(here):
    with vmsgrd.Vmsgrd(here, routes=ROUTES) as daemon:
        pid = stats_pid(daemon)
        daemon.process.kill()
        gone = lambda: not os.path.exists(f"/proc/{pid}/exe") or not os.path.exists(f"/proc/{pid}/fd/0")  # noqa: E731
        process.wait_until(gone, 5, "its process to end")
    with vmsgrd.Vmsgrd(here, routes=ROUTES) as again:   # what the killed one left is replaced
        assert ask(again, b"health\n")["daemon"]["pid"] == again.process.pid
