"""status, conns and explain of real connections through a real daemon."""
import contextlib
import json
import os
import socket
import subprocess
import time

import pytest
from lib import vmsgrd
from lib.agents import Agent

TRAFFIC = os.path.join(os.path.dirname(os.path.abspath(__file__)), "traffic.py")
PYTHON = "/usr/bin/python3"


class Program:
    """One traffic.py, routed or plain."""

    def __init__(self, prefix, *words, python=PYTHON):
        self.process = subprocess.Popen([*prefix, python, TRAFFIC, *(str(w) for w in words)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid

    def says(self):
        return self.process.stdout.readline().split()

    def does(self, *words):
        self.process.stdin.write(" ".join(str(w) for w in words) + "\n")
        self.process.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Pair:
    def __init__(self, server, client, port, listener_fd):
        self.server, self.client, self.port, self.listener_fd = server, client, port, listener_fd
        self.server_fds = [int(w) for w in server.says()[1:]]
        self.client_fds = [int(w) for w in client.says()[1:]]


@pytest.fixture
def pair(daemon):
    with Program(daemon.prefix(), "serve", "127.0.0.1", 0) as server:
        _, port, fd = server.says()
        with Program(daemon.prefix(), "connect", "127.0.0.1", port) as client:
            yield Pair(server, client, int(port), int(fd))


@pytest.fixture
def ask(vmsgr, daemon):
    def ask_json(*words, code=0):
        done = vmsgr(*words, "--json", "--socket", daemon.socket)
        assert done.code == code, done
        return json.loads(done.out)
    return ask_json


@contextlib.contextmanager
def daemon_agents(daemon):
    agents = [Agent(daemon.prefix()) for i in range(2)]
    try:
        yield agents
    finally:
        for a in agents:
            a.kill()


def wait_for(condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.fast
def test_status_has_what_it_promises(ask):
    doc = ask("status")
    assert {"pid", "version", "uptime_s", "shards"} <= set(doc["daemon"])
    assert {"sessions_open", "connections_open", "connections_total", "bytes_direct", "bytes_local", "bytes_trunk",
            "refused", "faults"} <= set(doc["totals"])
    for key in ("sessions", "connections", "listeners"):
        assert isinstance(doc[key], list)


@pytest.mark.fast
def test_connections_are_shown_with_their_bytes(ask, pair, vmsgr, daemon):
    pair.client.does("send", 100_000)
    pair.server.does("receive", 100_000)
    assert pair.client.says() == pair.server.says() == ["done"]
    wait_for(lambda: ask("conns", "--pid", pair.server.pid)[0]["bytes_in"] == 100_000)
    (client,) = ask("conns", "--pid", pair.client.pid)
    (server,) = ask("conns", "--pid", pair.server.pid)
    assert (client["role"], server["role"]) == ("client", "server")
    assert client["peer"] == server["local"] == f"127.0.0.1:{pair.port}"
    assert client["local"] == server["peer"]
    assert client["route"] == server["route"] == "loopback"
    assert (client["bytes_out"], server["bytes_in"]) == (100_000, 100_000)
    assert {"id", "session", "fd", "path", "shard", "state", "opened_s"} <= set(client)
    assert client["fd"] in pair.client_fds
    doc = ask("status")
    assert {s["pid"]: s["program"] for s in doc["sessions"]}[pair.client.pid] == "python3"
    assert f"127.0.0.1:{pair.port}" in [x["address"] for x in doc["listeners"]]
    table = vmsgr("conns", "--pid", pair.client.pid, "--socket", daemon.socket).out
    assert f"> 127.0.0.1:{pair.port}" in table and len(table.splitlines()) == 2
    assert all(len(line) <= 100 for line in table.splitlines())
    overview = vmsgr("status", "--socket", daemon.socket).out
    assert overview.startswith("vmsgrd ") and "python3" in overview
    assert all(len(line) <= 100 for line in overview.splitlines())


@pytest.mark.fast
def test_filters_that_match_nothing_say_so(vmsgr, daemon, pair):
    done = vmsgr("conns", "--route", "none", "--socket", daemon.socket)
    assert (done.code, done.out) == (0, "no connections that match\n")


@pytest.mark.fast
def test_explain_knows_a_carried_connection_and_its_copies(ask, pair, vmsgr, daemon):
    for program, fds in ((pair.client, pair.client_fds), (pair.server, pair.server_fds)):
        for fd in fds:
            found = ask("explain", program.pid, fd)
            assert found["accelerated"] and found["reason"] == "carried", found
            assert found["connection"]["route"] == "loopback"
            assert found["program"] == "python3"
    words = vmsgr("explain", pair.client.pid, pair.client_fds[0], "--socket", daemon.socket).out
    assert words.startswith(f"process {pair.client.pid} (python3), descriptor {pair.client_fds[0]}: accelerated: ")


def test_explain_knows_a_listener(ask, pair):
    found = ask("explain", pair.server.pid, pair.listener_fd)
    assert found["accelerated"] and found["reason"] == "listener", found


def reason_of(ask, program, fd):
    found = ask("explain", program.pid, fd)
    assert not found["accelerated"]
    return found["reason"], found["text"]


@pytest.fixture
def kernel_server():
    def listen(address):
        s = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        servers.append(s)
        return s.getsockname()[1]
    servers = []
    yield listen
    for s in servers:
        s.close()


@pytest.mark.fast
def test_explain_names_the_route_that_says_posix(ask, daemon, kernel_server):
    with Program(daemon.prefix(), "connect", "127.0.0.8", kernel_server("127.0.0.8")) as client:
        fd = client.says()[1]
        assert reason_of(ask, client, fd)[0] == "route_says_posix"
        assert "'kernel'" in reason_of(ask, client, fd)[1]


@pytest.mark.fast
def test_explain_says_when_no_route_matches(vmsgr, ask, daemon, kernel_server, write):
    only_osds = write('routes:\n  - {name: o, program: "ceph-*", via: direct}\n  - {name: p, ports: 9, via: direct}\n')
    other = write('routes:\n  - {name: o, program: "ceph-*", via: direct}\n', "other.yaml")
    port = kernel_server("127.0.0.1")
    for path, reason in ((only_osds, "no_route"), (other, "program_not_routed")):
        prefix = [vmsgrd.VMSGR, "run", "--routes", path, "--socket", daemon.socket, "--"]
        with Program(prefix, "connect", "127.0.0.1", port) as client:
            assert reason_of(ask, client, client.says()[1])[0] == reason


@pytest.mark.fast
def test_explain_says_that_a_connection_fell_back(ask, kernel_server, here, write):
    prefix = [vmsgrd.VMSGR, "run", "--socket", f"{here}/none.sock", "--routes",
              write("routes:\n  - {name: all, via: direct}\n"), "--"]
    with Program(prefix, "connect", "127.0.0.1", kernel_server("127.0.0.1")) as client:
        reason, text = reason_of(ask, client, client.says()[1])
        assert reason == "fell_back" and f"vmsgrd at {here}/none.sock was not there" in text


@pytest.mark.fast
def test_explain_says_what_is_not_vmsgrs(ask, vmsgr, daemon, kernel_server):
    with Program([], "connect", "127.0.0.1", kernel_server("127.0.0.1")) as client:
        fd = client.says()[1]
        assert reason_of(ask, client, fd)[0] == "library_not_loaded"
        assert reason_of(ask, client, 1)[0] == "not_a_socket"
        for words, says in ((("explain", client.pid, 99), "descriptor 99 is not open"),
                            (("explain", 4194304, 1), "there is no process 4194304")):
            vmsgr(*words, "--socket", daemon.socket).refused(1, says)
    mine = type("Me", (), {"pid": os.getpid()})
    for kind, family, reason in ((socket.SOCK_DGRAM, socket.AF_INET, "not_tcp"),
                                 (socket.SOCK_STREAM, socket.AF_UNIX, "not_tcp")):
        with socket.socket(family, kind) as s:
            if family == socket.AF_INET:
                s.bind(("127.0.0.1", 0))
            assert reason_of(ask, mine, s.fileno())[0] == reason


@pytest.mark.fast
def test_explain_without_daemon_tells_what_proc_tells(vmsgr, here, kernel_server):
    with Program([], "connect", "127.0.0.1", kernel_server("127.0.0.1")) as client:
        fd = client.says()[1]
        done = vmsgr("explain", client.pid, fd, "--socket", f"{here}/none.sock")
        assert done.code == 0 and "libvmsgr-preload.so is not loaded" in done.out
        assert "no vmsgrd at" in done.out


def test_explain_of_another_users_process_says_what_to_do(vmsgr, daemon):
    done = vmsgr("explain", os.getpid(), 1, "--socket", "/none", user=65534)
    done.refused(1, "cannot be read", "run as root or as its user")




def test_each_user_sees_what_is_theirs(here):
    """Root and the members of access.observers see all."""
    os.chmod(here, 0o755)
    config = "access:\n  mode: 0666\n  observers: 2005\n"
    with vmsgrd.Vmsgrd(here, routes=[vmsgrd.route("all", address="127.0.0.0/8", local="no")], config=config) as d:
        def as_user(uid):
            return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]

        def seen(uid, what="status"):
            done = subprocess.run([*as_user(uid), vmsgrd.VMSGR, what, "--json", "--socket", d.socket], capture_output=True,
                                  text=True, check=True)
            return json.loads(done.stdout)
        with Program([*as_user(2001), *d.prefix()], "serve", "127.0.0.1", 0) as server:
            _, port, _ = server.says()
            with Program([*as_user(2002), *d.prefix()], "connect", "127.0.0.1", port) as client:
                server.says(), client.says()
                for uid, sides in ((0, {2001, 2002}), (2005, {2001, 2002}), (2001, {2001}), (2002, {2002}), (2003, set())):
                    doc = seen(uid)
                    assert {c["uid"] for c in doc["connections"]} == sides == {s["uid"] for s in doc["sessions"]}
                    assert {x["uid"] for x in doc["listeners"]} == sides & {2001}
                    assert doc["totals"]["sessions_open"] == len(sides)
                    assert doc["shown"]["all"] == (uid in (0, 2005))
                    assert ("faults_by_reason" in doc) == (uid in (0, 2005))
                    assert len(seen(uid, "conns")) == len(doc["connections"])
                text = subprocess.run([*as_user(2003), vmsgrd.VMSGR, "status", "--socket", d.socket], capture_output=True,
                                      text=True, check=True).stdout
                assert "what belongs to user 2003; root and group 2005 see all" in text


def test_processes_that_share_a_connection_show_what_each_has_moved(ask, daemon, vmsgr):
    """A server that forks for each connection, and one that hands it over: the parent's own close tells nothing."""
    with daemon_agents(daemon) as (server, client):
        server.run("l = socket.create_server(('127.0.0.1', 0))")
        port = int(server("l.getsockname()[1]"))
        client.run(f"c = socket.create_connection(('127.0.0.1', {port}))")
        server.run("""
            s, a = l.accept()
            s.sendall(b'greeting')
            child = os.fork()
            if child == 0:
                s.recv(100)
                s.sendall(bytes(1000))
                time.sleep(60)
        """)
        child = int(server("child"))
        server.run("s.close()")
        client.run("c.sendall(b'request')")
        assert client("len(c.recv(1008, socket.MSG_WAITALL))") == "1008"

        def shown():
            rows = [c for c in ask("conns") if c["local"].endswith(f":{port}")]
            return [(c["pid"], c["role"], c["route"] != "", c["bytes_in"], c["bytes_out"]) for c in rows]
        wait_for(lambda: shown() == [(child, "server", True, 7, 1000)])
        assert ask("status")["totals"]["bytes_local"] >= 8 + 1000 + 7
        server.run("os.kill(child, 9); os.waitpid(child, 0)")


def test_a_plain_connection_is_called_so_with_its_cause(daemon, vmsgr):
    with daemon_agents(daemon) as (server, client):
        server.run("l = socket.create_server(('127.0.0.1', 0))")
        port = int(server("l.getsockname()[1]"))
        client.run(f"c = socket.create_connection(('127.0.0.1', {port}))")
        server.run("s, a = l.accept(); p = subprocess.Popen(['/bin/sleep', '60'], pass_fds=[s.fileno()], env={})")
        pid = server("os.getpid()")
        try:
            lines = vmsgr("conns", "--pid", pid, "--socket", daemon.socket).out.splitlines()
            assert any(f":{port} <" in " ".join(line.split()) and "plain (no_preload)" in line for line in lines), lines
        finally:
            server.run("p.kill(); p.wait()")
