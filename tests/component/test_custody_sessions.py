"""Sessions and listeners go on when the worker is killed: no program attaches again, no door is knocked at."""
import os
import signal
import time

import pytest

from lib import process, vmsgrd
from lib.agents import Agent

from test_custody import OLD_S, WIRE, end_workers_at_once, kill_worker
from test_keeper import worker_after

LOCAL = [vmsgrd.route("all", address="127.0.0.0/8")]


class Gap:
    """No worker, and no next one until the end: the keeper is stopped meanwhile."""

    def __init__(self, daemon, seconds=0.3):
        self.keeper, self.worker, self.seconds = daemon.process.pid, daemon.pid, seconds

    def __enter__(self):
        os.kill(self.keeper, signal.SIGSTOP)
        os.kill(self.worker, signal.SIGKILL)
        return self

    def __exit__(self, *_):
        time.sleep(self.seconds)
        os.kill(self.keeper, signal.SIGCONT)


def attached(daemon):
    """What status says of those who are attached, without what counts."""
    status = daemon.status()
    sessions = sorted((s["id"], s["pid"], s["uid"], s["program"], s["connections"]) for s in status["sessions"])
    return sessions, sorted((x["session"], x["pid"], x["fd"], x["address"]) for x in status["listeners"])


@pytest.fixture(params=["direct", "local"])
def daemon(here, request):
    with vmsgrd.Vmsgrd(here, routes=WIRE if request.param == "direct" else LOCAL) as running:
        running.way = request.param
        yield running


@pytest.fixture
def pair(daemon):
    with Agent(daemon.prefix()) as server, Agent(daemon.prefix()) as client:
        server("!l = socket.create_server(('127.0.0.1', 0), backlog=16)")
        client(f"!at = ('127.0.0.1', {int(server('l.getsockname()[1]'))})")
        client("!c = socket.create_connection(at)")
        server("!s, a = l.accept()")
        time.sleep(OLD_S)
        yield server, client


def exchange(server, client):
    client("!d = socket.create_connection(at)")
    server("!t, a = l.accept()")
    client("!d.sendall(b'ping')")
    assert server("t.recv(4, socket.MSG_WAITALL)") == "b'ping'"
    server("!t.close()")
    assert client("d.recv(1)") == "b''"
    client("!d.close()")


def test_nobody_attaches_again(daemon, pair):
    before = attached(daemon)
    for _ in range(3):
        kill_worker(daemon)
        process.wait_until(lambda: attached(daemon) == before, 5, "all to be as it was")
        exchange(*pair)
    sessions = daemon.status()["sessions"]
    assert [s["fell_back"] for s in sessions] == [0] * len(sessions)
    kept = process.tail(daemon.log, 50)
    assert f"{len(before[0])} sessions of an earlier worker go on, 0 end" in kept
    assert "1 listeners of an earlier worker go on, 0 end" in kept


DIRECT = pytest.mark.parametrize("daemon", ["direct"], indirect=True)


@DIRECT
def test_a_thread_that_sleeps_in_accept_sleeps_on(daemon, pair):
    server, client = pair
    server.begin("l.accept()[0].sendall(b'hello')")
    time.sleep(0.1)
    kill_worker(daemon)
    client("!d = socket.create_connection(at)")
    assert server.end() == "None"
    assert client("d.recv(5, socket.MSG_WAITALL)") == "b'hello'"


@DIRECT
def test_a_door_shows_nothing_when_nobody_comes(daemon, pair):
    server, client = pair
    server.begin("select.select([l], [], [], 1)")
    kill_worker(daemon)
    assert server.end() == "([], [], [])"
    server.begin("select.select([l], [], [], 10)[0] == [l]")
    client("!d = socket.create_connection(at)")
    assert server.end() == "True"


def test_what_is_asked_while_there_is_no_worker_waits_for_the_next(daemon, pair):
    server, client = pair
    with Gap(daemon):
        client.begin("socket.create_connection(at).sendall(b'ping')")
        server.begin("l.accept()[0].recv(4, socket.MSG_WAITALL)")
    assert (client.end(), server.end()) == ("None", "b'ping'")
    worker_after(daemon, None)
    with Gap(daemon):
        client.begin("socket.create_server(('127.0.0.1', 0))")
        server.begin("s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8) != b''")
    assert client.end().startswith("<socket") and server.end() == "True"
    sessions = daemon.status()["sessions"]
    assert [s["fell_back"] for s in sessions] == [0] * len(sessions)


@DIRECT
def test_a_port_is_free_when_its_listener_is_closed(daemon, pair):
    server, _ = pair
    kill_worker(daemon)
    for _ in range(5):
        server("!(p := l.getsockname(), s.close(), l.close())")
        server("!l = socket.socket()")
        server("!l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)")
        assert server("l.bind(p)") == "None"
        server("!l.listen()")
    process.wait_until(lambda: len(daemon.status()["listeners"]) == 1, 5, "one listener")


def test_who_ends_meanwhile_leaves_nothing(daemon, pair):
    server, client = pair
    port = int(server("l.getsockname()[1]"))
    with Gap(daemon):
        server.kill()
    worker_after(daemon, None)
    process.wait_until(lambda: daemon.status()["listeners"] == [], 5, "the listener to end")
    process.wait_until(lambda: len(daemon.status()["sessions"]) == 1, 5, "the session to end")
    assert client(f"socket.create_connection(('127.0.0.1', {port}))").startswith("ConnectionRefusedError")
    assert os.listdir(daemon.socket + ".d") == []


@DIRECT
def test_a_child_serves_the_listener_of_a_parent_that_is_gone(daemon, pair):
    server, client = pair
    server("!os._exit(0) if os.fork() else None")   # the child goes on to do what it is told
    kill_worker(daemon)
    exchange(server, client)


def test_limits_are_whole_again(here):
    with vmsgrd.Vmsgrd(here, routes=WIRE, config="limits: {listeners: 4}\n") as daemon:
        with Agent(daemon.prefix()) as one, Agent(daemon.prefix()) as other:
            one("!all = [socket.create_server(('127.0.0.1', 0)) for _ in range(3)]")
            other("!l = socket.create_server(('127.0.0.1', 0))")
            for _ in range(2):
                kill_worker(daemon)
                one("!more = socket.create_server(('127.0.0.1', 0))")
                status = daemon.status()
                assert status["limits"]["listeners_used"] == len(status["listeners"]) == 4
                assert [(u["listeners"], u["sessions"]) for u in status["users"]] == [(4, 3)]   # status asks, too
            one("!more.close()")
            one("![x.close() for x in all]")
            process.wait_until(lambda: len(daemon.status()["listeners"]) == 1, 5, "three listeners to end")
            kill_worker(daemon)
            assert len(daemon.status()["listeners"]) == 1


def test_sessions_on_which_workers_die_are_begun_anew(daemon, pair):
    """What the new workers take over may be why they end: after some of them they take nothing over."""
    server, client = pair
    end_workers_at_once(daemon)
    process.wait_until(lambda: "ended at once" in process.tail(daemon.log, 300) or daemon.way == "local", 10, "an end")
    client("!d = socket.create_connection(at)")   # the door was knocked at
    server("!t, a = l.accept()")
    client("!d.sendall(b'ping')")
    assert server("t.recv(4, socket.MSG_WAITALL)") == "b'ping'"
