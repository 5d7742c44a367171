"""vmsgr drain: the daemon gives direct connections back to the kernel under load and is stopped; no program notices."""
import hashlib
import json
import os
import signal
import socket
import time

import pytest

from lib import process, vmsgrd
from lib.agents import Agent
from lib.loads import ASKS, ECHO

from test_custody import STREAM
from test_custody_programs import Downloads, started

HOST = "127.0.0.1"
WIRE = [vmsgrd.route("wire", address="127.0.0.0/8", local="no")]
PORTS = {"iperf3": 7111, "redis": 7112, "http": 7113}


@pytest.fixture
def daemon(here):
    with vmsgrd.Vmsgrd(here, routes=WIRE) as running:
        yield running


def drain(daemon, *words, timeout_s=30):
    return process.run([vmsgrd.VMSGR, "drain", "--socket", daemon.socket, *words], check=False, timeout_s=timeout_s + 40)


def all_drained(daemon, timeout_s=30):
    done = drain(daemon, "--timeout", timeout_s, timeout_s=timeout_s)
    assert done.returncode == 0, (done.stdout, done.stderr, process.tail(daemon.log))
    assert "nothing is left" in done.stdout
    return done


def left(daemon):
    """The causes, by connection."""
    done = drain(daemon, "--status", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["on"]
    return {c["id"]: c["cause"] for c in said["connections_left"]}


def causes(daemon):
    return set(left(daemon).values())


def order(daemon):
    """Without waiting for its end; each connection that can be is asked."""
    drain(daemon, "--timeout", 0)
    time.sleep(0.3)


def connect(server, client):
    server(f"!l = socket.create_server(({HOST!r}, 0))")
    client(f"!c = socket.create_connection(({HOST!r}, {int(server('l.getsockname()[1]'))}))")
    server("!s, a = l.accept()")


@pytest.fixture
def pair(daemon):
    with Agent(daemon.prefix()) as server, Agent(daemon.prefix()) as client:
        for agent in (server, client):
            agent.run(STREAM)
        connect(server, client)
        yield server, client


def echoes(server, client, word="after"):
    client(f"!c.sendall({word.encode()!r})")
    assert server(f"s.recv({len(word)}, socket.MSG_WAITALL)") == repr(word.encode())
    server(f"!s.sendall({word[::-1].encode()!r})")
    assert client(f"c.recv({len(word)}, socket.MSG_WAITALL)") == repr(word[::-1].encode())


def is_tcp(agent, name):
    """What stands behind the number, by the kernel's word and not the library's."""
    fd, pid = int(agent(f"{name}.fileno()")), agent.process.pid
    inode = os.readlink(f"/proc/{pid}/fd/{fd}")[8:-1]
    with open(f"/proc/{pid}/net/tcp", encoding="ascii") as f:
        return any(line.split()[9] == inode for line in f.readlines()[1:])


def test_an_idle_connection_becomes_the_kernels(daemon, pair):
    server, client = pair
    assert not is_tcp(client, "c") and not is_tcp(server, "s")
    client("!c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)")
    client("!c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 7))")
    server("!s.settimeout(20)")
    echoes(server, client)
    order(daemon)
    echoes(server, client)   # each calls on it
    all_drained(daemon)
    assert is_tcp(client, "c") and is_tcp(server, "s")
    assert daemon.status()["totals"]["given_back"] == 2
    assert client("c.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)") == "1"
    assert client("struct.unpack('ii', c.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))") == "(1, 7)"
    assert server("struct.unpack('ii', s.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0]") == "0"
    assert daemon.stop() == 0
    echoes(server, client)
    client("!c.close()")
    assert server("s.recv(1)") == "b''"


def is_tcp_of(agent):
    """It has a TCP connection, although it is busy."""
    pid = agent.process.pid
    inodes = {os.readlink(f"/proc/{pid}/fd/{n}")[8:-1] for n in os.listdir(f"/proc/{pid}/fd")}
    with open("/proc/net/tcp", encoding="ascii") as f:
        return any(r[3] != "0A" and r[9] in inodes for r in (line.split() for line in f.readlines()[1:]))


READERS = {
    "recv": "got = c.recv(5)",
    "poll": "p = select.poll(); p.register(c, select.POLLIN); p.poll(); got = c.recv(5)",
    "select": "select.select([c], [], []); got = c.recv(5)",
    "epoll": "e = select.epoll(); e.register(c, select.EPOLLIN); e.poll(); got = c.recv(5)",
    "epoll_edges": "c.setblocking(False); e = select.epoll(); e.register(c, select.EPOLLIN | select.EPOLLET); got = b''\n"
                   "while not got:\n"
                   "  e.poll()\n"
                   "  try: got = c.recv(5)\n"
                   "  except BlockingIOError: pass",
    "epoll_once": "e = select.epoll(); e.register(c, select.EPOLLIN | select.EPOLLONESHOT)\n"
                  "e.poll(); got = c.recv(5)",
}


@pytest.mark.parametrize("how", READERS)
def test_who_sleeps_is_asked_and_sleeps_on(daemon, pair, how):
    server, client = pair
    client.begin("!exec(" + repr(READERS[how]) + ", names)")
    time.sleep(0.3)
    order(daemon)
    process.wait_until(lambda: len(left(daemon)) == 1, 10, "the sleeper's connection to go")
    server("!s.sendall(b'hello')")
    all_drained(daemon)
    assert client.end() == "None"
    assert client("got") == "b'hello'" and is_tcp(client, "c")
    assert daemon.stop() == 0
    client("!c.setblocking(True)")
    echoes(server, client)


def test_a_writer_that_waits_goes_on(daemon, pair):
    """Its ring and all buffers are full, and the peer does not read: it goes once the peer does."""
    server, client = pair
    total = 60_000_000
    client.begin(f"write(c, {total})")
    time.sleep(1)
    order(daemon)
    process.wait_until(lambda: causes(daemon) == {"not_sent", "not_read"}, 10, "both ends to be asked")
    server.begin(f"read(s, {total})")
    all_drained(daemon)
    assert (client.end(), server.end()) == (str(total), str(total))
    assert daemon.stop() == 0


def test_streams_both_ways(daemon, pair):
    server, client = pair
    total = 2_000_000_000
    server.begin(f"both(s, {total})")
    client.begin(f"both(c, {total})")
    time.sleep(0.3)
    all_drained(daemon)
    assert is_tcp_of(server) and is_tcp_of(client)
    assert daemon.stop() == 0
    assert [agent.end(120) for agent in (server, client)] == [f"({total}, [{total}])"] * 2


def test_what_is_not_read_keeps_it_until_it_is(daemon, pair):
    server, client = pair
    client("!c.sendall(b'x' * 1000)")
    time.sleep(0.2)
    order(daemon)
    process.wait_until(lambda: "not_read" in causes(daemon), 10, "the reader's end to be left alone")
    client("!c.settimeout(20)")
    client.begin("c.recv(5, socket.MSG_WAITALL)")   # a call
    process.wait_until(lambda: causes(daemon) == {"not_read"}, 10, "the writer's end to go")
    assert server("len(s.recv(400, socket.MSG_WAITALL))") == "400"
    time.sleep(0.5)
    assert causes(daemon) == {"not_read"}
    assert server("len(s.recv(600, socket.MSG_WAITALL))") == "600"
    server("!s.sendall(b'reply')")
    assert client.end() == "b'reply'"
    all_drained(daemon)
    assert daemon.stop() == 0
    echoes(server, client)


@pytest.mark.parametrize("end", ["client", "server"])
def test_half_closed_ones_go(daemon, pair, end):
    server, client = pair
    if end == "client":
        client("!c.shutdown(socket.SHUT_WR)")
        assert server("s.recv(1)") == "b''"
    else:
        server("!s.shutdown(socket.SHUT_WR)")
        assert client("c.recv(1)") == "b''"
    order(daemon)
    giver, taker, out, into = (server, client, "s", "c") if end == "client" else (client, server, "c", "s")
    giver(f"!{out}.sendall(b'still open')")
    assert taker(f"{into}.recv(10, socket.MSG_WAITALL)") == "b'still open'"
    giver(f"!{out}.sendall(b'still open')")
    assert taker(f"{into}.recv(10, socket.MSG_WAITALL)") == "b'still open'"
    assert giver(f"{out}.recv(1)") == "b''"
    all_drained(daemon)
    assert daemon.stop() == 0
    giver(f"!{out}.sendall(b'to the end')")
    giver(f"!{out}.close()")
    assert taker(f"{into}.recv(100, socket.MSG_WAITALL)") == "b'to the end'"


def test_a_forked_relative_goes_by_itself(daemon, pair):
    """Parent and child have it; the child sleeps in recv, the parent makes the first call after the order."""
    server, client = pair
    client.run("""
        up, down = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(up)
            got = c.recv(5, socket.MSG_WAITALL)
            c.sendall(b'child ' + got)
            got = c.recv(5, socket.MSG_WAITALL)
            c.sendall(b'child ' + got)
            os._exit(0)
        os.close(down)
        """)
    time.sleep(0.3)
    order(daemon)
    client("!c.sendall(b'parent')")
    assert server("s.recv(6, socket.MSG_WAITALL)") == "b'parent'"
    server("!s.sendall(b'first')")
    assert server("s.recv(11, socket.MSG_WAITALL)") == "b'child first'"
    all_drained(daemon)
    assert daemon.stop() == 0
    server("!s.sendall(b'again')")
    assert server("s.recv(11, socket.MSG_WAITALL)") == "b'child again'"
    client("!c.sendall(b'parent')")
    assert server("s.recv(6, socket.MSG_WAITALL)") == "b'parent'"
    client("!(os.waitpid(child, 0), c.close())")
    assert server("s.recv(1)") == "b''"


def test_listeners_are_the_kernels_and_nothing_new_is_carried(daemon, pair):
    server, client = pair
    with Agent(daemon.prefix()) as third:
        third(f"!m = socket.create_server(({HOST!r}, 0))")
        third.begin("m.accept()[0].recv(4)")
        time.sleep(0.2)
        order(daemon)
        process.wait_until(lambda: daemon.status()["listeners"] == [], 5, "the listeners to go")
        with socket.create_connection((HOST, port_of(daemon, third))) as plain:
            plain.sendall(b"ping")
            assert third.end() == "b'ping'"
        client(f"!d = socket.create_connection(({HOST!r}, {int(server('l.getsockname()[1]'))}))")
        server("!t, a = l.accept()")
        client("!d.sendall(b'new')")
        assert server("t.recv(3)") == "b'new'"
        assert is_tcp(client, "d") and is_tcp(server, "t")


def test_one_that_waits_to_be_accepted_goes_afterwards(daemon, pair):
    server, client = pair
    client("!d = socket.create_connection(c.getpeername())")
    client("!d.sendall(b'early')")
    process.wait_until(lambda: len(daemon.status()["connections"]) == 4, 5, "it to wait")
    order(daemon)
    echoes(server, client)
    process.wait_until(lambda: "not_accepted" in causes(daemon), 10, "the listener to have one")
    server("!t, a = l.accept()")
    for _ in range(2):
        assert server("t.recv(5, socket.MSG_WAITALL)") == "b'early'"
        client("!d.sendall(b'early')")
        time.sleep(0.5)
    assert server("t.recv(5, socket.MSG_WAITALL)") == "b'early'"
    all_drained(daemon)
    assert is_tcp(server, "t") and daemon.stop() == 0
    server("!t.sendall(b'late')")
    assert client("d.recv(4, socket.MSG_WAITALL)") == "b'late'"


def test_who_attaches_meanwhile_is_the_kernels(daemon, pair):
    server, client = pair
    fd = int(client("c.fileno()"))
    os.kill(client.process.pid, signal.SIGSTOP)
    order(daemon)
    with Agent(daemon.prefix()) as one, Agent(daemon.prefix()) as two:
        connect(one, two)
        echoes(one, two)
        assert is_tcp(one, "s") and is_tcp(two, "c") and daemon.status()["listeners"] == []
        assert explain(daemon, two, int(two("c.fileno()")))["reason"] == "drained"
        said = process.run([vmsgrd.VMSGR, "explain", str(two.process.pid), "--to", f"{HOST}:1", "--socket", daemon.socket]).stdout
        assert "being drained" in said
    stays = explain(daemon, client, fd)
    assert stays["accelerated"] and {"name": "drain", "value": "it stays: its program has not called on it yet"} in stays["facts"]
    assert "is being drained" in process.run([vmsgrd.VMSGR, "status", "--socket", daemon.socket]).stdout
    os.kill(client.process.pid, signal.SIGCONT)


def explain(daemon, agent, fd):
    return process.run_json([vmsgrd.VMSGR, "explain", "--json", str(agent.process.pid), str(fd), "--socket", daemon.socket])


def port_of(daemon, agent):
    """Of its listener m, although it is busy."""
    pid = agent.process.pid
    inodes = {os.readlink(f"/proc/{pid}/fd/{n}")[8:-1] for n in os.listdir(f"/proc/{pid}/fd")
              if os.readlink(f"/proc/{pid}/fd/{n}").startswith("socket:")}
    with open("/proc/net/tcp", encoding="ascii") as f:
        rows = [line.split() for line in f.readlines()[1:]]
    return next(int(r[1].split(":")[1], 16) for r in rows if r[3] == "0A" and r[9] in inodes)


def test_a_drain_that_is_cancelled_was_never_there(daemon, pair):
    server, client = pair
    os.kill(client.process.pid, signal.SIGSTOP)
    order(daemon)
    assert "not_asked" in causes(daemon)
    assert drain(daemon, "--cancel").returncode == 0
    os.kill(client.process.pid, signal.SIGCONT)
    assert "not being drained" in drain(daemon, "--status").stdout
    echoes(server, client)
    assert not is_tcp(client, "c")
    at = f"({HOST!r}, {int(server('l.getsockname()[1]'))})"
    client(f"!e = socket.create_connection({at})")
    server("!l.accept()")   # it learns that it listens by the kernel, and waits for the daemon
    process.wait_until(lambda: daemon.status()["listeners"], 10, "the listener to come back")
    client(f"!d = socket.create_connection(({HOST!r}, {int(server('l.getsockname()[1]'))}))")
    server("!t, a = l.accept()")
    assert not is_tcp(client, "d")


def test_a_program_that_never_answers_holds_up_itself_alone(daemon, pair):
    server, client = pair
    with Agent(daemon.prefix()) as one, Agent(daemon.prefix()) as two:
        connect(one, two)
        os.kill(client.process.pid, signal.SIGSTOP)
        server.begin("s.recv(5, socket.MSG_WAITALL)")
        order(daemon)
        echoes(one, two)
        done = drain(daemon, "--timeout", 3)
        assert done.returncode == 1 and "not_asked" in done.stdout and str(client.process.pid) in done.stdout
        assert "has not called on it" in done.stdout
        assert len(left(daemon)) == 1
        echoes(one, two)
        os.kill(client.process.pid, signal.SIGCONT)
        client("!c.sendall(b'hello')")
        assert server.end() == "b'hello'"
        all_drained(daemon)
        assert daemon.stop() == 0
        echoes(server, client)
        echoes(one, two)


def test_who_is_killed_meanwhile_is_an_end(daemon, pair):
    server, client = pair
    order(daemon)
    client.kill()
    assert server("s.recv(1)") == "b''"
    all_drained(daemon)


def test_a_program_in_plain_mode_stays_and_is_named(daemon, pair):
    server, client = pair
    client("!child = subprocess.Popen(['/usr/bin/env', '-i', '/bin/cat'], stdin=c, stdout=c)")
    echo = "cat"
    server(f"!s.sendall({echo.encode()!r})")
    assert server(f"s.recv({len(echo)}, socket.MSG_WAITALL)") == repr(echo.encode())
    order(daemon)
    server(f"!s.sendall({echo.encode()!r})")
    assert server(f"s.recv({len(echo)}, socket.MSG_WAITALL)") == repr(echo.encode())
    began = time.monotonic()
    done = drain(daemon, "--timeout", 30)
    assert done.returncode == 1 and time.monotonic() - began < 20
    assert "plain" in set(left(daemon).values()) and "without the library" in done.stdout
    server(f"!s.sendall({echo.encode()!r})")
    assert server(f"s.recv({len(echo)}, socket.MSG_WAITALL)") == repr(echo.encode())


def test_only_root_and_the_daemons_user_may(here):
    with vmsgrd.Vmsgrd(here, routes=WIRE, config="access: {mode: 0666}\n") as daemon:
        os.chmod(here, 0o755)
        done = process.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", vmsgrd.VMSGR, "drain", "--socket",
                            daemon.socket], check=False)
        assert done.returncode == 1 and "only root and the daemon's own user" in done.stderr
        assert not daemon.status()["drain"]["on"]


SECONDS = 14


def test_a_loaded_daemon_is_drained_and_stopped(here):
    with open(os.path.join(here, "data"), "wb") as f:
        data = os.urandom(16 << 20)
        f.write(data)
    with vmsgrd.Vmsgrd(here, routes=WIRE, memory="256M") as daemon:
        iperf3 = started(daemon, here, "iperf3", PORTS["iperf3"], "iperf3", "-s", "-1", "-B", HOST, "-p", PORTS["iperf3"])
        started(daemon, here, "redis", PORTS["redis"], "redis-server", "--port", PORTS["redis"], "--bind", HOST,
                "--save", "", "--appendonly", "no", "--dir", here)
        started(daemon, here, "http", PORTS["http"], "/usr/bin/python3", "-m", "http.server", "--bind", HOST, PORTS["http"])
        with Agent(daemon.prefix()) as server, Agent(daemon.prefix()) as client:
            server(f"!HOST = {HOST!r}")
            server.run(ECHO)
            client(f"!AT = ({HOST!r}, {int(server('l.getsockname()[1]'))})")
            client.run(ASKS)
            bench = process.Process([*daemon.prefix(), "redis-benchmark", "-h", HOST, "-p", str(PORTS["redis"]), "-c", "20",
                                     "-l", "-q", "-t", "set,get", "-n", "1000000000", "-d", "256"],
                                    log=os.path.join(here, "bench.log"))
            moving = process.Process([*daemon.prefix(), "iperf3", "-c", HOST, "-p", PORTS["iperf3"], "-J", "--bidir",
                                      "-t", SECONDS - 4], log=os.path.join(here, "iperf3.json"))
            until = time.monotonic() + SECONDS
            downloads = Downloads(daemon.prefix(), f"http://{HOST}:{PORTS['http']}/data", os.path.join(here, "got"),
                                  hashlib.sha256(data).hexdigest(), until)
            client.begin(f"asks({SECONDS - 2})")
            time.sleep(3)
            before = daemon.status()
            assert len(before["connections"]) > 240 and before["totals"]["bytes_direct"] > 100 << 20
            began = time.monotonic()
            order(daemon)
            # iperf3 looks by select and accepts without O_NONBLOCK: told that its listener is the kernel's, it sleeps there.
            socket.create_connection((HOST, PORTS["iperf3"])).close()
            all_drained(daemon)
            took_s = time.monotonic() - began
            given_back = daemon.status()["totals"]["given_back"]
            print(f"\n{given_back} connections were given back in {took_s:.1f} s")
            assert given_back > 240 and daemon.status()["totals"]["faults"] == 0
            assert daemon.stop() == 0
            assert int(client.end(SECONDS + 30)) > SECONDS
            downloads.join(60)
            assert downloads.failed == [] and downloads.young == [] and downloads.good > 2
            assert bench.alive(), process.tail(bench.log)
            bench.kill()
            assert (moving.wait(30), iperf3.wait(30)) == (0, 0), process.tail(moving.log)
            with open(moving.log, encoding="ascii") as f:
                end = json.loads(f.read())["end"]
            assert min(end["sum_received"]["bytes"], end["sum_received_bidir_reverse"]["bytes"]) > 100 << 20


def test_local_connections_stay_and_need_no_daemon(here):
    with vmsgrd.Vmsgrd(here, routes=[vmsgrd.route("all", address="127.0.0.0/8")]) as daemon, \
            Agent(daemon.prefix()) as server, Agent(daemon.prefix()) as client:
        connect(server, client)
        echoes(server, client)
        all_drained(daemon)
        assert not is_tcp(client, "c")
        assert daemon.stop() == 0
        echoes(server, client)
