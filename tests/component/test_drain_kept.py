"""A drain outlives its worker: that is killed, or another version takes over, while connections go back; none is lost."""
import os
import signal
import time

import pytest

from lib import process, vmsgrd
from lib.agents import Agent
from lib.loads import ASK, ECHO

from test_custody import Killer, OLD_S
from test_custody_steps import DiesAt, ends
from test_drain import WIRE, all_drained, causes, daemon, drain, echoes, is_tcp, is_tcp_of, left, order, pair  # noqa: F401
from test_keeper import worker_after


def kill(daemon):
    pid = daemon.pid
    os.kill(pid, signal.SIGKILL)
    worker_after(daemon, pid)


def the_servers_end_goes(daemon, server):
    """At its next call; the client is stopped, and makes none."""
    order(daemon)
    assert "BlockingIOError" in server("s.recv(1, socket.MSG_DONTWAIT)")
    process.wait_until(lambda: len(left(daemon)) == 1, 10, "the server's end to go")


def the_clients_end_goes(daemon, client):
    """It is asked again where it was not granted, and goes at a call after that."""
    process.wait_until(lambda: client("c.recv(1, socket.MSG_DONTWAIT)") and not left(daemon), 10, "the client's end to go")
    all_drained(daemon)


REPLACE = {"kill": kill, "upgrade": vmsgrd.upgraded}


@pytest.mark.parametrize("how", REPLACE)
def test_the_next_worker_goes_on_with_it(daemon, pair, how):
    server, client = pair
    time.sleep(OLD_S)
    os.kill(client.process.pid, signal.SIGSTOP)
    the_servers_end_goes(daemon, server)
    since = daemon.status()["drain"]["since_s"]
    for _ in range(3):
        REPLACE[how](daemon)
        assert causes(daemon) == {"not_asked"} and daemon.status()["drain"]["since_s"] == since
        assert daemon.status()["listeners"] == []
    os.kill(client.process.pid, signal.SIGCONT)
    the_clients_end_goes(daemon, client)
    assert is_tcp(client, "c") and is_tcp(server, "s")
    assert daemon.stop() == 0
    echoes(server, client)


def test_a_cancel_outlives_it_too(daemon, pair):
    server, client = pair
    time.sleep(OLD_S)
    os.kill(client.process.pid, signal.SIGSTOP)
    order(daemon)
    assert drain(daemon, "--cancel").returncode == 0
    kill(daemon)
    vmsgrd.upgraded(daemon)
    os.kill(client.process.pid, signal.SIGCONT)
    time.sleep(0.5)
    echoes(server, client)
    assert not daemon.status()["drain"]["on"] and not is_tcp(client, "c")


@pytest.mark.parametrize("how", REPLACE)
def test_who_shares_it_gets_it_from_the_next_worker(daemon, pair, how):
    server, client = pair
    client.run("""
        child = os.fork()
        if child == 0:
            for _ in range(2):
                c.sendall(b'child ' + c.recv(5, socket.MSG_WAITALL))
            os._exit(0)
        """)
    time.sleep(0.3)
    os.kill(int(client("child")), signal.SIGSTOP)
    order(daemon)
    echoes(server, client)
    process.wait_until(lambda: causes(daemon) == {"other_holder"}, 10, "the parent to have it")
    for _ in range(2):
        REPLACE[how](daemon)
        assert causes(daemon) == {"other_holder"}
        echoes(server, client, "the parent uses it meanwhile")
    os.kill(int(client("child")), signal.SIGCONT)
    server("!s.sendall(b'first')")
    assert server("s.recv(11, socket.MSG_WAITALL)") == "b'child first'"
    all_drained(daemon)
    assert daemon.stop() == 0
    server("!s.sendall(b'again')")
    assert server("s.recv(11, socket.MSG_WAITALL)") == "b'child again'"
    client("!os.waitpid(child, 0)")
    echoes(server, client)


# setsockopt: SO_LINGER becomes the program's own, which is when it is granted and nobody has it; sendmsg: the answer.
@pytest.mark.parametrize("call, nth", [("getpeername", 1), ("setsockopt", 1), ("fcntl", 1), ("sendmsg", 1)])
def test_a_kill_at_any_step_of_giving_it_back(here, call, nth):
    with vmsgrd.Vmsgrd(here, routes=WIRE, shards=1) as daemon, Agent(daemon.prefix()) as server, \
            Agent(daemon.prefix()) as client:
        server("!l = socket.create_server(('127.0.0.1', 0))")
        client(f"!c = socket.create_connection(('127.0.0.1', {int(server('l.getsockname()[1]'))}))")
        client("!c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 7))")
        server("!s, a = l.accept()")
        time.sleep(OLD_S)
        os.kill(client.process.pid, signal.SIGSTOP)
        the_servers_end_goes(daemon, server)
        with DiesAt(daemon.pid, call, nth):
            os.kill(client.process.pid, signal.SIGCONT)
            client.begin("c.send(b'first')")
            process.wait_until(lambda: ends(daemon) == 1, 5, "the worker to die", every_s=0.005)
        assert client.end() == "5" and server("s.recv(5, socket.MSG_WAITALL)") == "b'first'"
        worker_after(daemon, None)
        echoes(server, client)
        the_clients_end_goes(daemon, client)
        assert is_tcp(client, "c") and daemon.stop() == 0
        echoes(server, client)
        assert client("struct.unpack('ii', c.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))") == "(1, 7)"
        client("!c.close()")
        assert server("s.recv(1)") == "b''"


# Each is used a hundred times a second or less, so that going back takes its time.
SLOWLY = ASK + """
    idle = [socket.create_connection(AT, timeout=30) for _ in range(200)]
    over = threading.Event()
    def asks():
        n = 0
        while not over.is_set():
            for i, c in enumerate(idle):
                ask(c, n, i)
                time.sleep(0.01)
                n += 1
        return n
    """


@pytest.mark.parametrize("how", REPLACE)
def test_no_connection_is_lost_while_workers_are_replaced(here, how):
    with vmsgrd.Vmsgrd(here, routes=WIRE, memory="256M") as daemon, Agent(daemon.prefix()) as server, \
            Agent(daemon.prefix()) as client:
        server("!HOST = '127.0.0.1'")
        server.run(ECHO)
        client(f"!AT = ('127.0.0.1', {int(server('l.getsockname()[1]'))})")
        client.run(SLOWLY)
        client("!asked = []")
        client("!t = threading.Thread(target=lambda: asked.append(asks())); t.start()")
        time.sleep(0.5)
        assert len(daemon.status()["connections"]) == 400
        drain(daemon, "--timeout", 0)
        if how == "kill":
            with Killer(daemon, every_s=0.5) as killer:
                time.sleep(4)
            assert killer.kills >= 5
            worker_after(daemon, None)
        else:
            for _ in range(4):
                vmsgrd.upgraded(daemon)
        all_drained(daemon)
        assert daemon.status()["totals"]["faults"] == 0 and daemon.stop() == 0
        time.sleep(1)
        client("!(over.set(), t.join(60))")
        assert int(client("asked[0]")) > 400


@pytest.mark.parametrize("how", REPLACE)
def test_a_writer_that_is_held_up_by_one_goes_with_the_next(daemon, pair, how):
    """The server's ring is full, and it does not read; then it does, while workers are replaced. The client's end may have gone."""
    server, client = pair
    total = 2_000_000_000
    time.sleep(OLD_S)
    client.begin(f"both(c, {total})")
    server("!sent = []")
    server(f"!w = threading.Thread(target=lambda: sent.append(write(s, {total}))); w.start()")
    time.sleep(1)
    order(daemon)
    for _ in range(2):
        assert causes(daemon) & {"not_read", "not_sent"}, left(daemon)
        REPLACE[how](daemon)
    server.begin(f"read(s, {total})")
    REPLACE[how](daemon)
    all_drained(daemon)
    assert is_tcp_of(server) and is_tcp_of(client)
    assert daemon.stop() == 0
    assert (client.end(120), server.end(120)) == (f"({total}, [{total}])", str(total))
    assert server("(w.join(60), sent)[1]") == f"[{total}]"
