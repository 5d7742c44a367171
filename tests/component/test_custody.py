"""Direct connections, sessions and listeners go on when the worker is killed: every byte right, and no error but for
connections that were young."""
import os
import signal
import socket
import threading
import time

import pytest

from lib import process, vmsgrd
from lib.agents import Agent

from test_keeper import worker_after

WIRE = [vmsgrd.route("wire", address="127.0.0.0/8", local="no")]
OLD_S = 0.1   # a connection is in the keeper's hands by then

# The n-th byte of a stream is known to both sides, wherever a piece begins.
STREAM = """
    TABLE = bytes((i * 2654435761 >> 11) & 255 for i in range(1 << 16)) * 2
    def piece(at, n):
        out = b''
        while len(out) < n:
            k = (at + len(out)) % (1 << 16)
            out += TABLE[k:k + min(n - len(out), 1 << 16)]
        return out
    def write(s, total):
        at = 0
        while at < total:
            n = s.send(piece(at, min(random.randrange(1, 70000), total - at)))
            at += n
        s.shutdown(socket.SHUT_WR)
        return at
    def read(s, total):
        at = 0
        while True:
            b = s.recv(random.randrange(1, 100000))
            if not b:
                return at
            if b != piece(at, len(b)):
                return 'wrong bytes behind %d' % at
            at += len(b)
    def both(s, total):
        results = []
        t = threading.Thread(target=lambda: results.append(write(s, total)))
        t.start()
        got = read(s, total)
        t.join()
        return got, results
    """


@pytest.fixture
def daemon(here):
    with vmsgrd.Vmsgrd(here, routes=WIRE) as running:
        yield running


class Killer(threading.Thread):
    """Kills the worker again and again, at random moments. A machine that is so busy that workers are not ready before they are
    killed is given time, as their keeper gives up after some of these in a row (src/keeper/pauses.hh)."""

    def __init__(self, daemon, every_s=0.7):
        super().__init__(daemon=True)
        self.vmsgrd, self.every_s, self.stopped, self.at, self.spared = daemon, every_s, threading.Event(), [], 0
        self.start()

    def run(self):
        while not self.stopped.wait(self.every_s * (0.7 + 0.6 * os.urandom(1)[0] / 255)):
            if self._keeper_loses_patience():
                self.spared += 1
            elif pid := self.vmsgrd.pid:
                os.kill(pid, signal.SIGKILL)
                self.at.append(time.monotonic())

    def _keeper_loses_patience(self):
        text = process.tail(self.vmsgrd.log, 300)
        return max(text.rfind(f"starts in {ms} ms") for ms in (400, 800, 1600)) > text.rfind(" ready:")

    @property
    def kills(self):
        return len(self.at)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.join()


def connect(server, client):
    server("!l = socket.create_server(('127.0.0.1', 0))")
    port = int(server("l.getsockname()[1]"))
    client(f"!c = socket.create_connection(('127.0.0.1', {port}))")
    server("!s, a = l.accept()")
    time.sleep(OLD_S)
    return port


def end_workers_at_once(daemon):
    """Until the keeper waits before it starts the next one."""
    while "starts in 100 ms" not in process.tail(daemon.log, 300):
        if pid := daemon.pid:
            os.kill(pid, signal.SIGSEGV)
        time.sleep(0.002)


def kill_worker(daemon):
    pid = daemon.pid
    os.kill(pid, signal.SIGKILL)
    return worker_after(daemon, pid)


@pytest.fixture
def pair(daemon):
    with Agent(daemon.prefix()) as server, Agent(daemon.prefix()) as client:
        for agent in (server, client):
            agent.run(STREAM)
        connect(server, client)
        yield server, client


def test_an_idle_connection_goes_on(daemon, pair):
    server, client = pair
    for _ in range(3):
        kill_worker(daemon)
        client("!c.sendall(b'ping')")
        assert server("s.recv(4)") == "b'ping'"
        server("!s.sendall(b'pong')")
        assert client("c.recv(4)") == "b'pong'"
        assert {c["role"] for c in daemon.status()["connections"]} == {"client", "server"}
    client("!c.close()")
    assert server("s.recv(1)") == "b''"
    server("!s.close()")
    process.wait_until(lambda: daemon.status()["connections"] == [], 5, "the connections to end")


def test_what_lies_in_both_rings_is_there(daemon, pair):
    server, client = pair
    client("!c.setblocking(False)")
    client.run("""
        sent = 0
        try:
            while True: sent += c.send(piece(sent, 50000))
        except BlockingIOError: pass
        """)
    kill_worker(daemon)
    sent = int(client("sent"))
    client("!c.shutdown(socket.SHUT_WR)")
    assert server(f"read(s, {sent})") == str(sent)


def test_a_blocked_reader_and_a_blocked_writer_are_woken(daemon, pair):
    server, client = pair
    total = 40_000_000
    server.begin(f"read(s, {total})")
    time.sleep(0.2)
    kill_worker(daemon)
    client.begin(f"write(c, {total})")
    time.sleep(0.3)
    kill_worker(daemon)
    assert (client.end(), server.end()) == (str(total), str(total))


@pytest.mark.parametrize("end", ["c.shutdown(socket.SHUT_WR)", "c.close()"])
def test_an_end_while_there_is_no_worker_is_an_end(daemon, pair, end):
    server, client = pair
    os.kill(daemon.pid, signal.SIGKILL)
    client("!c.sendall(b'last words')")
    client("!" + end)
    assert server("s.recv(100, socket.MSG_WAITALL)") == "b'last words'"
    assert server("s.recv(1)") == "b''"


def test_half_closed_before_it_stays_half_closed(daemon, pair):
    server, client = pair
    client("!c.shutdown(socket.SHUT_WR)")
    assert server("s.recv(1)") == "b''"
    kill_worker(daemon)
    server("!s.sendall(b'still open')")
    assert client("c.recv(10)") == "b'still open'"
    server("!s.close()")
    assert client("c.recv(1)") == "b''"


def test_a_reset_meanwhile_is_a_reset(daemon, pair):
    server, client = pair
    os.kill(daemon.pid, signal.SIGKILL)
    client("!c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))")
    client("!c.close()")
    assert server("s.recv(1)").startswith("ConnectionResetError")


def test_a_killed_program_is_noticed(daemon, pair):
    server, client = pair
    os.kill(daemon.pid, signal.SIGKILL)
    client.kill()
    assert server("s.recv(1)") == "b''"


def test_streams_both_ways_while_workers_are_killed(daemon, pair):
    server, client = pair
    total = 1_500_000_000
    with Killer(daemon) as killer:
        server.begin(f"both(s, {total})")
        client.begin(f"both(c, {total})")
        said = [agent.end(200) for agent in (server, client)]
    assert said == [f"({total}, [{total}])"] * 2, process.tail(daemon.log, 40)
    assert killer.kills >= 1, killer.kills


def test_a_peer_without_vmsgr_sees_nothing(daemon):
    with socket.create_server(("127.0.0.1", 0)) as l, Agent(daemon.prefix()) as client:
        client.run(STREAM)
        client(f"!c = socket.create_connection(('127.0.0.1', {l.getsockname()[1]}))")
        s, _ = l.accept()
        time.sleep(OLD_S)
        with Killer(daemon):
            for _ in range(400):
                client("!c.sendall(b'ping')")
                s.settimeout(10)
                assert s.recv(4) == b"ping"
                s.sendall(b"pong")
                assert client("c.recv(4)") == "b'pong'"
        s.close()
        assert client("c.recv(1)") == "b''"


def test_urgent_bytes_are_in_their_place(daemon, pair):
    server, client = pair
    server("!s.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)")
    os.kill(daemon.pid, signal.SIGKILL)
    client("!(c.sendall(b'abc'), c.send(b'!', socket.MSG_OOB), c.sendall(b'def'))")
    assert server("s.recv(3, socket.MSG_WAITALL) + s.recv(1) + s.recv(3, socket.MSG_WAITALL)") == "b'abc!def'"


def test_connections_on_which_workers_die_are_reset_at_last(daemon, pair):
    """What the new workers take over may be why they end: after some of them they take nothing over."""
    server, client = pair
    end_workers_at_once(daemon)
    assert client("c.recv(1)").startswith("ConnectionResetError")
    worker_after(daemon, None)
    assert "and the workers that did so ended at once" in process.tail(daemon.log, 300)
    connect(server, client)
    client("!c.sendall(b'ping')")
    assert server("s.recv(4)") == "b'ping'"


def test_a_keeper_that_ends_with_its_worker_resets(daemon, pair):
    """Nobody is left who could carry it: never an end of file."""
    server, client = pair
    daemon.process.kill()
    for agent, name in ((server, "s"), (client, "c")):
        assert agent(f"{name}.recv(1)").startswith("ConnectionResetError")
