"""vmsgrd --upgrade with trunks: what channels carry goes on, on both sides, plain and with TLS.
VMSGR_UPGRADES: how many in a row."""
import contextlib
import os
import signal
import statistics
import time

import pytest

from lib import certificates, process, trunks, vmsgrd
from lib.agents import Agent
from lib.loads import BEATS, CONNECTS, ECHO, longest_pauses_ms
from test_cuts import all_whole, start_streams
from test_streams import ask, serve

UPGRADES = int(os.environ.get("VMSGR_UPGRADES", "10"))
PAUSE_MS = 250   # the median of the longest pauses

def tls_of(directory):
    ca = certificates.Authority(directory, "ca")
    return {"a": {**ca.sign("a"), "names": "[b]"}, "b": {**ca.sign("b"), "names": "[a]"}}


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
def test_streams_and_idle_connections_go_on(own_net, directory, secured):
    to = own_net["b"].address
    with trunks.Pair(own_net, tls=tls_of(directory) if secured else None, shards=2) as p, serve(p, "b", 7301), \
            Agent(p["b"].prefix(), inside=own_net["b"]) as server, Agent(p["a"].prefix(), inside=own_net["a"]) as client:
        server(f"!l = socket.create_server(('{to}', 7302))")
        client(f"!c = socket.create_connection(('{to}', 7302))")
        server("!s, a = l.accept()")
        streams = start_streams(p, count=6, seconds=8, port=7301)
        process.wait_until(lambda: p["a"].status()["totals"]["bytes_trunk"] > 3_000_000, 10, "streams run")
        for daemon in (p["a"], p["b"], p["b"], p["a"]):
            vmsgrd.upgraded(daemon)
            time.sleep(0.5)
            client("!c.sendall(b'ping')")
            assert server("s.recv(4)") == "b'ping'"
            server("!s.sendall(b'pong')")
            assert client("c.recv(4)") == "b'pong'"
            client(f"!d = socket.create_connection(('{to}', 7302), timeout=20)")
            server("!t, a = l.accept()")
            server("!t.sendall(b'news')")
            assert client("d.recv(4)") == "b'news'"
            client("!d.close()")
            assert server("t.recv(1)") == "b''"
            server("!t.close()")
        assert all(t["state"] == "up" for t in p.sessions("a"))
        all_whole(streams)
        client("!c.close()")
        assert server("s.recv(1)") == "b''"
        server("!s.close()")
        process.wait_until(lambda: not any(t["channels"] for d in p.daemons.values() for t in d.status()["trunks"]), 10,
                           "no channel is left")
        assert ask(p, "a", to, 7301, "echo", 1_000_000)["same"]


def test_relays_go_on(own_net, directory):
    """To programs that are not attached, on the host that is upgraded: an echo, one that never reads, and a half-closed one."""
    to = own_net["b"].address
    with trunks.Pair(own_net, tls=tls_of(directory), shards=2) as p, serve(p, "b", 7301, attached=False), \
            Agent([], inside=own_net["b"]) as server, Agent(p["a"].prefix(), inside=own_net["a"]) as client:
        server.run(f"""
            l = socket.create_server(('{to}', 7302))
            data = random.Random(1).randbytes(3_000_000)
            def exactly(s, n):
                got = b''
                while len(got) < n and (more := s.recv(1 << 16)):
                    got += more
                return got
            """)
        client.run(f"""
            data = random.Random(1).randbytes(3_000_000)
            c = socket.create_connection(('{to}', 7302))
            c.setblocking(False)
            sent = 0
            def fill():
                global sent
                until = time.monotonic() + 1
                while time.monotonic() < until and sent < len(data):
                    try:
                        sent += c.send(data[sent:])
                    except BlockingIOError:
                        time.sleep(0.01)
            fill()
            half = socket.create_connection(('{to}', 7302))
            half.sendall(b'question')
            half.shutdown(socket.SHUT_WR)
            """)
        server.run("""
            s, a = l.accept()
            h, a = l.accept()
            """)
        assert server("exactly(h, 9)") == "b'question'"
        streams = start_streams(p, count=4, seconds=6, port=7301)
        process.wait_until(lambda: p["a"].status()["totals"]["bytes_trunk"] > 3_000_000, 10, "streams run")
        for _ in range(3):
            vmsgrd.upgraded(p["b"])
            time.sleep(0.7)
            assert [t["state"] for t in p.sessions("a")] == ["up"] * 2
        client("!threading.Thread(target=lambda: (c.setblocking(True), c.sendall(data[sent:]), c.shutdown(1))).start()")
        assert server("(exactly(s, len(data)) == data, s.recv(1))") == "(True, b'')"
        server("!h.sendall(b'answer'); h.close()")
        assert client("(half.recv(100), half.recv(1))") == "(b'answer', b'')"
        server("!s.sendall(b'done'); s.close()")
        assert client("(c.recv(100), c.recv(1))") == "(b'done', b'')"
        all_whole(streams)


@pytest.mark.parametrize("rule, handed_over", [("epoll_create1:signal=KILL:when=1", False),
                                               ("getsockopt:signal=KILL:when=1", True)],
                         ids=["before it has anything", "while it takes over"])
def test_a_new_one_that_is_killed_costs_no_channel(own_net, rule, handed_over):
    with trunks.Pair(own_net, shards=2) as p, serve(p, "b", 7301):
        streams = start_streams(p, count=6, seconds=6, port=7301)
        process.wait_until(lambda: p["a"].status()["totals"]["bytes_trunk"] > 3_000_000, 10, "streams run")
        for name in ("a", "b"):
            done = p[name].upgrade(before=vmsgrd.injected(rule))
            assert done.returncode != 0, done
            assert ("another vmsgrd takes over" in process.tail(p[name].log, 200)) == handed_over
        vmsgrd.upgraded(p["a"])
        all_whole(streams)


def test_connects_that_wait_for_their_answer_get_it(own_net):
    """The peer's daemon stands still meanwhile."""
    to = own_net["b"].address
    with trunks.Pair(own_net) as p, Agent(p["b"].prefix(), inside=own_net["b"]) as server, \
            Agent(p["a"].prefix(), inside=own_net["a"]) as client:
        server(f"!l = socket.create_server(('{to}', 7302))")
        worker = p["b"].pid
        os.kill(worker, signal.SIGSTOP)
        client.begin(f"socket.create_connection(('{to}', 7302), timeout=20).getpeername()")
        time.sleep(0.2)
        vmsgrd.upgraded(p["a"])
        os.kill(worker, signal.SIGCONT)
        assert client.end() == repr((to, 7302))
        server("!s, a = l.accept()")


@pytest.mark.timed
def test_ten_in_a_row_under_load(own_net, directory):
    """On each host in turn, with TLS: streams, connects all the time, idle connections that are asked, and a 1 kHz echo."""
    hosts, seconds = ("a", "b"), 3 * UPGRADES + 6
    with trunks.Pair(own_net, tls=tls_of(directory), shards=2) as p, contextlib.ExitStack() as ended:
        def agent(name):
            return ended.enter_context(Agent(p[name].prefix(), inside=own_net[name]))
        servers, clients, beats = {n: agent(n) for n in hosts}, {n: agent(n) for n in hosts}, {n: agent(n) for n in hosts}
        ended.enter_context(serve(p, "b", 7301))
        for n in hosts:
            servers[n](f"!HOST = {own_net[n].address!r}")
            servers[n].run(ECHO)
        for n, peer in (("a", "b"), ("b", "a")):
            at = (own_net[peer].address, int(servers[peer]("l.getsockname()[1]")))
            clients[n](f"!AT = {at}")
            clients[n].run(CONNECTS)
            beats[n](f"!c = socket.create_connection({at})")
            beats[n].run(BEATS)
        streams = start_streams(p, count=4, seconds=seconds, port=7301)
        began = time.monotonic()
        for n in hosts:
            clients[n](f"!t = threading.Thread(target=connects, args=({seconds},)); t.start()")
            clients[n].begin(f"asks({seconds})")
            beats[n].begin(f"beat({seconds})")
        times, said = [], []
        for i in range(UPGRADES):
            time.sleep(max(0.0, began + 2 + 3 * i - time.monotonic()))
            at = time.monotonic()
            said.append(vmsgrd.upgraded(p[hosts[i % 2]]))
            times.append((at, time.monotonic() + 0.5))
        for n in hosts:
            assert clients[n].end(seconds + 40).isdigit() and beats[n].end(60).isdigit()
            clients[n]("t.join(40)")
            assert clients[n]("(failed[:5], young[:5])") == "([], [])" and int(clients[n]("made")) > 2 * seconds
        pauses = [max(pair) for pair in zip(*(longest_pauses_ms(beats[n], times) for n in hosts))]
        print("longest pause at each upgrade, ms:", [round(ms) for ms in pauses], "median", round(statistics.median(pauses)),
              "- as vmsgrd says:", said)
        all_whole(streams)
        assert statistics.median(pauses) <= PAUSE_MS, pauses
