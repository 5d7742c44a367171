"""Connections between two programs of one vmsgrd: memory to memory. What each test sees on plain TCP it has to see here
(VMSGR_PLAIN=1 runs the same on kernel sockets, as far as it is not about the daemon).
"""
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from lib import netns, process, vmsgrd
from lib.agents import Agent
from lib.process import Process, wait_until

PLAIN = bool(os.environ.get("VMSGR_PLAIN"))
pytestmark = pytest.mark.skipif(not PLAIN and vmsgrd.why_not() is not None, reason=str(vmsgrd.why_not()))
routed_only = pytest.mark.skipif(PLAIN, reason="about vmsgrd itself")

@pytest.fixture
def daemon():
    where = process.make_dir()
    routes = [vmsgrd.route("v4", address="127.0.0.0/8"), vmsgrd.route("v6", address="::1"),
              vmsgrd.route("any", address="0.0.0.0"),
              vmsgrd.route("own", address="10.77.0.0/16"), vmsgrd.route("all", role="server")]
    d = vmsgrd.Vmsgrd(where, routes=routes, plain=PLAIN)
    if not PLAIN:
        with open(d.config, "a", encoding="ascii") as f:
            f.write("access:\n  mode: 0666\n  uids: [0, 65534]\n")
    d.start()
    agents = []

    def agent(**kw):
        agents.append(Agent(d.prefix(kw.pop("routes", None)), **kw))
        return agents[-1]
    d.agent = agent
    yield d
    for a in agents:
        a.kill()
    d.stop()


def pair(daemon, host="127.0.0.1", to=None, family="AF_INET", **kw):
    """A server and a client with a connection between them, `s` and `c`."""
    server, client = daemon.agent(), daemon.agent(**kw)
    server(f"!l = socket.socket(socket.{family}); l.bind(('{host}', 0)); l.listen(16)")
    port = int(server("l.getsockname()[1]"))
    client(f"!c = socket.socket(socket.{family if ':' in (to or host) else 'AF_INET'}); c.connect(('{to or host}', {port}))")
    server("!s, a = l.accept()")
    return server, client, port


def paths(daemon):
    return {c["path"] for c in daemon.status()["connections"]}


@pytest.mark.parametrize("host, to, family", [
    ("127.0.0.1", "127.0.0.1", "AF_INET"), ("0.0.0.0", "127.0.0.1", "AF_INET"), ("0.0.0.0", "127.3.2.1", "AF_INET"),
    ("::1", "::1", "AF_INET6"), ("::", "::1", "AF_INET6"), ("::", "127.0.0.1", "AF_INET6"),
    ("::", "::ffff:127.0.0.1", "AF_INET6"), ("0.0.0.0", "0.0.0.0", "AF_INET")])
def test_addresses_are_those_that_tcp_shows(daemon, host, to, family):
    server, client, port = pair(daemon, host, to, family)
    if not PLAIN:
        assert paths(daemon) == {"local"}
    # The same connection on kernel sockets, by this process.
    import socket
    with socket.socket(getattr(socket, family)) as listener:
        listener.bind((host, 0))
        listener.listen(1)
        with socket.socket(getattr(socket, family if ":" in to else "AF_INET")) as c:
            c.connect((to, listener.getsockname()[1]))
            s, seen = listener.accept()
            with s:
                expected = [c.getsockname(), c.getpeername(), s.getsockname(), s.getpeername(), seen]
                expected_ports = (c.getsockname()[1], listener.getsockname()[1])
    own = int(client("c.getsockname()[1]"))

    def known(name):
        swap = {expected_ports[0]: own, expected_ports[1]: port}
        return repr((name[0], swap[name[1]], *name[2:]))
    found = [client("c.getsockname()"), client("c.getpeername()"), server("s.getsockname()"), server("s.getpeername()"),
             server("a")]
    assert found == [known(n) for n in expected]


@routed_only
def test_own_addresses_of_the_host_are_local_and_others_are_not(daemon):
    with netns.Netns("local") as ns:
        ns.ip("addr", "add", "10.77.0.5/24", "dev", "lo")
        server, client = daemon.agent(inside=ns), daemon.agent(inside=ns)
        server("!l = socket.create_server(('', 7000))")
        client("!c = socket.create_connection(('10.77.0.5', 7000))")
        server("!s, a = l.accept()")
        assert server("a[0]") == "'10.77.0.5'" and paths(daemon) == {"local"}
        # Another namespace has its own loopback: this listener is not the one that is meant.
        outside = daemon.agent()
        assert outside("socket.create_connection(('127.0.0.1', 7000), 2)").startswith("ConnectionRefusedError")


@routed_only
@pytest.mark.skipif(netns.why_not() is not None, reason=str(netns.why_not()))
@pytest.mark.parametrize("plan", ["shared", "separate"])
def test_other_namespaces_where_addresses_mean_the_same(plan):
    """Hosts of one network that share the control socket: memory to memory, addresses as the network shows them."""
    where = process.make_dir()
    routes = [vmsgrd.route("v4", address="10.99.0.0/24"), vmsgrd.route("v6", address="fd99::/64")]
    with netns.Network(["a", "b", "c"]) as net, vmsgrd.Vmsgrd(
            where, routes=routes, config=f"network_namespaces: {plan}\n") as daemon:
        server, client = Agent(daemon.prefix(), inside=net["b"]), Agent(daemon.prefix(), inside=net["a"])
        try:
            for family, mine, theirs in (("AF_INET", net["a"].address, net["b"].address),
                                         ("AF_INET6", net["a"].address6, net["b"].address6)):
                server(f"!l = socket.create_server(({theirs!r}, 7000), family=socket.{family})")
                client(f"!c = socket.create_connection(({theirs!r}, 7000), 5)")
                server("!s, a = l.accept()")
                assert server("a[0]") == repr(mine)
                assert client("c.getpeername()[:2]") == repr((theirs, 7000))
                assert client("c.getsockname()[:2]") == server("a[:2]")
                client("!c.sendall(b'there')")
                server("!s.sendall(s.recv(100) + b' and back')")
                assert client("c.recv(100)") == "b'there and back'"
                assert paths(daemon) == {"local" if plan == "shared" else "direct"}
                # The same port of another host: nobody listens there.
                assert client(f"socket.create_connection(({net['c'].address!r}, 7000), 2)").startswith(
                    "ConnectionRefusedError")
                client("!c.close()")
                server("!s.close(); l.close()")
        finally:
            server.kill()
            client.kill()
    process.remove_dir(where)


@routed_only
@pytest.mark.parametrize("side", ["client", "server"])
def test_a_route_turns_it_off(daemon, side):
    off = [vmsgrd.route("v4", address="127.0.0.0/8", local="no")]
    server, client = daemon.agent(routes=off if side == "server" else None), daemon.agent(
        routes=off if side == "client" else None)
    server("!l = socket.create_server(('127.0.0.1', 0))")
    port = server("l.getsockname()[1]")
    client(f"!c = socket.create_connection(('127.0.0.1', {port}))")
    server("!s, a = l.accept()")
    assert paths(daemon) == {"direct"}


@routed_only
def test_another_user_that_may_attach_is_served(daemon):
    os.chmod(os.path.dirname(daemon.socket), 0o755)
    server, client, _ = pair(daemon, user=65534)
    client("!c.sendall(b'from nobody')")
    assert server("s.recv(100)") == "b'from nobody'"
    assert paths(daemon) == {"local"}


def test_killed_client_leaves_its_data_then_end_of_file(daemon):
    server, client, _ = pair(daemon)
    client("!c.sendall(b'x' * 100000)")
    client.kill()
    assert server("len(b''.join(iter(lambda: s.recv(65536), b'')))") == "100000"
    assert server("s.recv(1)") == "b''"
    assert server("s.send(b'y')") == "1"
    assert server("s.send(b'y')").startswith("BrokenPipeError")


def test_killed_client_with_unread_data_is_a_reset(daemon):
    server, client, _ = pair(daemon)
    client("!c.sendall(b'before')")
    server("!s.sendall(b'never read')")
    client.kill()
    assert server("s.recv(6)") == "b'before'"
    assert server("s.recv(1)").startswith("ConnectionResetError")
    assert server("s.recv(1)") == "b''"


def test_blocked_writer_sees_its_reader_killed(daemon):
    server, client, _ = pair(daemon)
    server.begin("s.sendall(b'z' * (64 << 20))")
    time.sleep(0.3)
    client.kill()
    assert server.end().startswith("ConnectionResetError")


def test_killed_at_any_moment_the_other_side_ends(daemon):
    for n in range(12):
        server, client, _ = pair(daemon)
        server.begin("sum(len(b) for b in iter(lambda: s.recv(4096), b''))")
        client.begin("[c.sendall(b'q' * k) for k in range(1, 100000)]")
        time.sleep(0.003 * n)
        client.kill()
        answer = server.end()
        assert answer.isdigit() or answer.startswith("ConnectionResetError"), answer


def test_both_rings_full_does_not_deadlock_where_tcp_would_not(daemon):
    server, client, _ = pair(daemon)
    send = ("[threading.Thread(target={0}.sendall, args=(b'd' * (8 << 20),)).start(), "
            "time.sleep(0.5), sum(len({0}.recv(65536, socket.MSG_WAITALL)) for _ in range(128))][-1]")
    server.begin(send.format("s"))
    client.begin(send.format("c"))
    assert (server.end(), client.end()) == (str(8 << 20), str(8 << 20))


def test_half_a_mebibyte_each_way_before_anybody_reads(daemon):
    server, client, _ = pair(daemon)
    server.begin("(s.sendall(b'd' * (512 << 10)), len(s.recv(512 << 10, socket.MSG_WAITALL)))[1]")
    client.begin("(c.sendall(b'd' * (512 << 10)), len(c.recv(512 << 10, socket.MSG_WAITALL)))[1]")
    assert (server.end(), client.end()) == (str(512 << 10), str(512 << 10))


def test_a_reader_that_stops_holds_nobody_else_up(daemon):
    server, stopped, port = pair(daemon)
    server.begin("(s.settimeout(0.5), s.sendall(b'z' * (64 << 20)))")
    os.kill(stopped.process.pid, signal.SIGSTOP)
    assert server.end().startswith(("TimeoutError", "timeout"))
    other = daemon.agent()
    other(f"!c = socket.create_connection(('127.0.0.1', {port}))")
    server("!t, a = l.accept()")
    began = time.monotonic()
    for _ in range(100):
        server("!t.sendall(b'ping')")
        assert other("c.recv(4)") == "b'ping'"
    assert time.monotonic() - began < 5
    os.kill(stopped.process.pid, signal.SIGCONT)


@routed_only
def test_killed_daemon_is_not_noticed(daemon):
    server, client, port = pair(daemon)
    daemon.kill()
    client("!c.sendall(b'without it')")
    assert server("s.recv(100)") == "b'without it'"
    assert client("c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)") == "None"
    assert client("c.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)") == "1"
    daemon.start()
    server("!s.sendall(b'and with the next')")
    assert client("c.recv(100)") == "b'and with the next'"
    # What comes meanwhile is served by the kernel; then the listener listens again by itself.
    client(f"!d = socket.create_connection(('127.0.0.1', {port}))")
    server("!t, a = l.accept()")
    wait_until(lambda: daemon.status()["listeners"], 5, "the listener to be there again")
    client(f"!e = socket.create_connection(('127.0.0.1', {port}))")
    server("!u, a = l.accept()")
    assert "local" in paths(daemon)
    client("!c.close()")
    assert server("s.recv(1)") == "b''"


@routed_only
def test_what_ended_is_forgotten_and_counted(daemon):
    server, client, port = pair(daemon)
    client("!c.sendall(b'x' * 1000)")
    assert server("len(s.recv(1000, socket.MSG_WAITALL))") == "1000"
    rows = daemon.status()["connections"]
    assert sorted((r["role"], r["bytes_in"], r["bytes_out"]) for r in rows) == [("client", 0, 1000), ("server", 1000, 0)]
    client("!c.close()")
    server("!s.close()")
    status = daemon.status()
    assert status["connections"] == [], "its programs say so at once"
    assert status["totals"]["bytes_local"] == 1000 and status["totals"]["locals_opened"] == 2
    used = status["limits"]["descriptors_used"]
    for _ in range(300):
        client(f"!c = socket.create_connection(('127.0.0.1', {port})); c.close()")
        server("!s, a = l.accept(); s.close()")
    status = daemon.status()
    assert status["totals"]["locals_opened"] == 602 and status["totals"]["diallers_turned_away"] == 0
    assert status["limits"]["descriptors_used"] == used, "the daemon has no part in them"


def arenas_of(agent):
    return int(agent("sum('vmsgr-arena' in line for line in open('/proc/self/maps'))"))


@routed_only
def test_short_connections_use_the_memory_of_those_before(daemon):
    server, client, port = pair(daemon)
    client("!c.close()")
    server("!s.close()")
    for i in range(200):
        client(f"!c = socket.create_connection(('127.0.0.1', {port})); c.sendall(b'%d' % ({i} * 111))")
        server("!s, a = l.accept()")
        assert server("s.recv(100)") == repr(b"%d" % (i * 111))
        assert client("c.getsockname()") == server("a")
        server("!s.sendall(b'answer'); s.close()")
        assert client("c.recv(100), c.recv(100)") == "(b'answer', b'')"
        client("!c.close()")
    assert arenas_of(server) == arenas_of(client) == 1


@routed_only
def test_memory_is_not_shared_with_a_relative_that_accepts_too(daemon):
    """What existed at a fork takes no new connection: the child has a mapping of it."""
    server, client, port = pair(daemon)
    before = server("[line.split()[0] for line in open('/proc/self/maps') if 'vmsgr-arena' in line]")
    server("!child = os.fork() or time.sleep(20) or os._exit(0)")
    client(f"!d = socket.create_connection(('127.0.0.1', {port})); d.sendall(b'x')")
    server("!t, a = l.accept()")
    assert server("t.recv(1)") == "b'x'"
    assert arenas_of(server) == 2, "the one from before the fork, and a new one"
    assert server("[line.split()[0] for line in open('/proc/%d/maps' % child) if 'vmsgr-arena' in line]") == before
    server("!t.close(); s.close(); os.kill(child, 9)")
    client("!d.close(); c.close()")
    client(f"!d = socket.create_connection(('127.0.0.1', {port}))")
    server("!t, a = l.accept(); t.close()")
    assert arenas_of(server) == 1, "the old one goes with its last connection"


@routed_only
def test_limits_of_the_daemon_do_not_concern_who_dials(daemon):
    daemon.stop()
    with open(daemon.config, "a", encoding="ascii") as f:
        f.write("limits:\n  connections: 8\n")
    daemon.start()
    server, client = daemon.agent(), daemon.agent()
    server("!l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(100)")
    port = int(server("l.getsockname()[1]"))
    client(f"!cs = [socket.create_connection(('127.0.0.1', {port})) for _ in range(30)]")
    server("!l.settimeout(10); ss = [l.accept()[0] for _ in range(30)]")
    client("![c.sendall(b'%02d' % i) for i, c in enumerate(cs)]")
    assert server("[s.recv(2) for s in ss]") == repr([b"%02d" % i for i in range(30)])
    assert daemon.status()["totals"]["connections_open"] == 0 and len(daemon.status()["connections"]) == 60


@pytest.mark.parametrize("limit", ["connections: 8", "connections_per_session: 4"])
def test_connections_beyond_a_limit_are_the_kernels_and_none_is_lost(daemon, limit):
    """From programs that VMSGR does not carry: the daemon accepts, and passes on what it has no room for."""
    daemon.stop()
    with open(daemon.config, "a", encoding="ascii") as f:
        f.write(f"limits:\n  {limit}\n")
    daemon.start()
    server = daemon.agent()
    server("!l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen(100)")
    port = int(server("l.getsockname()[1]"))
    clients = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(30)]
    for i, c in enumerate(clients):
        c.sendall(b"%02d" % i)
    server("!l.settimeout(10); ss = [l.accept()[0] for _ in range(30)]")
    assert server("sorted(s.recv(2) for s in ss)") == repr([b"%02d" % i for i in range(30)])
    server("![s.sendall(b'ok') for s in ss]")
    assert {c.recv(2) for c in clients} == {b"ok"}
    for c in clients:
        c.close()
    totals = daemon.status()["totals"]
    assert totals["refused"] == 0 and totals["accepts_passed_on"] > 0


if __name__ == "__main__":
    sys.exit(pytest.main([__file__]))
