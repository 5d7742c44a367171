"""Unmodified programs over a trunk: what TCP does."""
import json

import pytest

from lib import process, trunks

SERVER = """
import socket, sys, threading
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
backlog, pause_s = map(int, sys.argv[3:5])
s.bind((sys.argv[1], int(sys.argv[2]))); s.listen(backlog); print('ready', flush=True)
def serve(c, peer):
    first = c.recv(1)
    if first == b'p':                       # who is it?
        c.sendall(repr((peer[:2], c.getpeername()[:2], c.getsockname()[:2])).encode()); c.close()
    elif first == b'e':                     # echo until the end
        while True:
            data = c.recv(1 << 16)
            if not data: break
            c.sendall(data)
        c.shutdown(socket.SHUT_WR); c.close()
    elif first == b'r':                     # reset
        import struct
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); c.close()
    elif first == b'w':                     # how does it end?
        c.sendall(b'!')
        try: how = len(c.recv(1))
        except OSError as e: how = e.errno
        print('ended', how, flush=True); c.close()
    elif first == b's':                     # never reads
        import time; time.sleep(3); c.close()
import time; time.sleep(pause_s)
while True:
    c, peer = s.accept()
    threading.Thread(target=serve, args=(c, peer), daemon=True).start()
"""

CLIENT = """
import hashlib, json, os, socket, sys, threading, time
host, port, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
out = {}
def connect():
    return socket.create_connection((host, port), timeout=20)
if what == 'peer':
    c = connect(); c.sendall(b'p'); out['own'] = c.getsockname()[:2]; out['peer'] = c.getpeername()[:2]
    text = b''
    while True:
        d = c.recv(1000)
        if not d: break
        text += d
    out['seen'] = eval(text)
elif what == 'wildcard':                    # a port of its own, no address
    c = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET); c.settimeout(20)
    c.bind(('', int(sys.argv[4]))); c.connect((host, port)); c.sendall(b'p'); out['own'] = c.getsockname()[:2]
    out['seen'] = eval(c.recv(1000))
elif what == 'linger':
    import struct
    c = connect(); c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); c.sendall(b'w')
    assert c.recv(1) == b'!'; c.close()
elif what == 'many':
    import select
    n = int(sys.argv[4]); cs = []
    for i in range(n):
        c = socket.socket(); c.setblocking(False); c.connect_ex((host, port)); cs.append(c); time.sleep(0.001)
    waiting = {c.fileno(): c for c in cs}; p = select.poll(); failed = 0; end = time.monotonic() + 20
    for fd in waiting: p.register(fd, select.POLLOUT)
    while waiting and time.monotonic() < end:
        for fd, _ in p.poll(100):
            failed += waiting.pop(fd).getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0; p.unregister(fd)
    out = {'failed': failed, 'waiting': len(waiting), 'echoes': 0}
    for c in cs:
        c.setblocking(True); c.settimeout(20); c.sendall(b'e'); c.sendall(b'abc'); out['echoes'] += c.recv(3) == b'abc'
elif what == 'echo':
    n = int(sys.argv[4]); c = connect(); c.sendall(b'e'); sent, got = hashlib.sha256(), hashlib.sha256()
    def send():
        left = n
        while left:
            data = os.urandom(min(left, 1 << 17)); sent.update(data); c.sendall(data); left -= len(data)
        c.shutdown(socket.SHUT_WR)
    t = threading.Thread(target=send); t.start(); total = 0
    while True:
        d = c.recv(1 << 16)
        if not d: break
        got.update(d); total += len(d)
    t.join(); out = {'same': sent.digest() == got.digest(), 'total': total}
elif what == 'refused':
    t = time.monotonic()
    try: connect(); out['error'] = 0
    except OSError as e: out['error'] = e.errno
    out['took_s'] = time.monotonic() - t
elif what == 'nonblocking':
    import select, errno
    c = socket.socket(); c.setblocking(False); r = c.connect_ex((host, port)); out['first'] = r
    _, w, _ = select.select([], [c], [], 10); out['writable'] = bool(w)
    out['so_error'] = c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if out['so_error'] == 0:
        c.setblocking(True); c.sendall(b'e'); c.sendall(b'abc'); out['echo'] = c.recv(3).decode()
elif what == 'reset':
    c = connect(); c.sendall(b'r')
    try: out['got'] = len(c.recv(10))
    except OSError as e: out['error'] = e.errno
elif what == 'pressure':
    c = connect(); c.sendall(b's'); c.setblocking(False); total = 0
    end = time.monotonic() + 2
    while time.monotonic() < end:
        try: total += c.send(bytes(1 << 16))
        except BlockingIOError: time.sleep(0.02)
    out['taken'] = total
elif what == 'ping':
    c = connect(); c.sendall(b'e'); times = []
    for i in range(int(sys.argv[4])):
        t = time.monotonic(); c.sendall(b'x' * 64); n = 0
        while n < 64: n += len(c.recv(64))
        times.append(time.monotonic() - t)
    out['median_us'] = sorted(times)[len(times) // 2] * 1e6
print(json.dumps(out))
"""


def serve(pair, name, port, address=None, attached=True, backlog=64, pause_s=0):
    prefix = pair[name].prefix() if attached else []
    p = process.Process([*prefix, "/usr/bin/python3", "-c", SERVER, address or pair.net[name].address, str(port),
                         str(backlog), str(pause_s)], name=f"server on {name}", netns=pair.net[name], stdout=-1)
    assert p.stdout.readline() == b"ready\n"
    return p


def ask(pair, name, host, port, *words, timeout_s=60):
    done = process.run([*pair[name].prefix(), "/usr/bin/python3", "-c", CLIENT, host, str(port), *map(str, words)],
                       netns=pair.net[name], timeout_s=timeout_s)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def server(pair):
    with serve(pair, "b", 7001):
        yield pair.net["b"].address, 7001


def opened(pair, name="a"):
    return sum(t["channels_total"] for t in pair[name].status()["trunks"] if t["outgoing"])


def test_bytes_go_over_the_trunk_and_come_back_whole(pair, server):
    before = pair["a"].status()["totals"]["bytes_trunk"]
    assert ask(pair, "a", *server, "echo", 20_000_000) == {"same": True, "total": 20_000_000}
    assert pair["a"].status()["totals"]["bytes_trunk"] - before >= 40_000_000


def test_both_ends_see_the_true_addresses(pair, server):
    out = ask(pair, "a", *server, "peer")
    assert out["peer"] == list(server)
    assert out["own"][0] == pair.net["a"].address
    accepted, peer, own = out["seen"]
    assert list(accepted) == list(peer) == out["own"] and list(own) == out["peer"]


def test_a_closed_port_refuses_at_once(pair, server):
    out = ask(pair, "a", server[0], 7999, "refused")
    assert out["error"] == 111 and out["took_s"] < 0.5


def test_a_nonblocking_connect_is_shown_by_writability(pair, server):
    before = opened(pair)
    out = ask(pair, "a", *server, "nonblocking")
    assert out == {"first": 115, "writable": True, "so_error": 0, "echo": "abc"}
    assert opened(pair) == before + 1
    out = ask(pair, "a", server[0], 7999, "nonblocking")
    assert out == {"first": 115, "writable": True, "so_error": 111}


def test_a_reset_is_a_reset(pair, server):
    assert ask(pair, "a", *server, "reset") == {"error": 104}


def test_a_reader_that_sleeps_stops_its_writer(pair, server):
    out = ask(pair, "a", *server, "pressure")
    assert 1 << 20 <= out["taken"] <= 4 << 20


def test_a_reader_that_sleeps_does_not_stop_others(pair, server):
    stuck = process.Process([*pair["a"].prefix(), "/usr/bin/python3", "-c", CLIENT, server[0], str(server[1]),
                             "pressure"], name="stuck", netns=pair.net["a"], stdout=-1)
    process.wait_until(lambda: any(t["channels"] for t in pair["a"].status()["trunks"] if t["outgoing"]), 5, "it runs")
    assert ask(pair, "a", *server, "echo", 20_000_000)["same"]
    assert stuck.alive()   # it still waits for its reader
    stuck.wait(20)


def test_the_other_way_round_too(pair):
    with serve(pair, "a", 7002):
        assert ask(pair, "b", pair.net["a"].address, 7002, "echo", 3_000_000)["same"]


def test_ipv6(pair):
    before = opened(pair)
    with serve(pair, "b", 7003, address=pair.net["b"].address6):
        out = ask(pair, "a", pair.net["b"].address6, 7003, "peer")
        assert out["seen"][0][0] == pair.net["a"].address6
    assert opened(pair) == before + 1


def test_a_listener_on_a_wildcard_is_found(pair):
    before = opened(pair)
    with serve(pair, "b", 7004, address="::"):
        out = ask(pair, "a", pair.net["b"].address, 7004, "peer")
        assert out["seen"][0][0] == "::ffff:" + pair.net["a"].address
    assert opened(pair) == before + 1


def test_a_killed_server_is_seen(pair):
    server = serve(pair, "b", 7005)
    try:
        assert ask(pair, "a", pair.net["b"].address, 7005, "echo", 1000)["same"]
    finally:
        server.kill()
    out = ask(pair, "a", pair.net["b"].address, 7005, "refused")
    assert out["error"] == 111 and out["took_s"] < 0.5


def test_a_server_that_is_not_attached_is_reached_from_its_own_host(pair):
    before = opened(pair)
    with serve(pair, "b", 7006, attached=False):
        host = pair.net["b"].address
        assert ask(pair, "a", host, 7006, "echo", 5_000_000) == {"same": True, "total": 5_000_000}
        assert ask(pair, "a", host, 7006, "peer")["seen"][0][0] == host
        assert ask(pair, "a", host, 7006, "reset") == {"error": 104}
    assert opened(pair) == before + 3


def test_without_a_trunk_that_serves_the_address_it_goes_direct(pair):
    pair.net["b"].ip("addr", "add", "10.99.0.50/24", "dev", "eth0")
    before = opened(pair)
    with serve(pair, "b", 7007, address="10.99.0.50"):
        assert ask(pair, "a", "10.99.0.50", 7007, "echo", 100_000)["same"]
        out = ask(pair, "a", "10.99.0.50", 7998, "refused")
        assert out["error"] == 111 and out["took_s"] < 0.5
    assert opened(pair) == before


def test_a_client_that_is_bound_to_a_port_alone_goes_by_trunk(pair, server):
    before = opened(pair)
    out = ask(pair, "a", *server, "wildcard", 45001)
    assert out["own"] == [pair.net["a"].address, 45001] and list(out["seen"][0]) == out["own"]
    with serve(pair, "b", 7008, address="::"):
        out = ask(pair, "a", pair.net["b"].address6, 7008, "wildcard", 45002)
        assert out["own"] == [pair.net["a"].address6, 45002] and list(out["seen"][0]) == out["own"]
    assert opened(pair) == before + 2


def test_so_linger_with_0_resets_from_either_side(pair):
    with serve(pair, "b", 7009) as server:   # the accepting side: test_a_reset_is_a_reset
        ask(pair, "a", pair.net["b"].address, 7009, "linger")
        assert server.stdout.readline() == b"ended 104\n"


def test_a_queue_that_is_full_makes_connects_wait_as_tcp_does(pair):
    before, carried = opened(pair), pair["a"].status()["totals"]["bytes_direct"]
    with serve(pair, "b", 7010, backlog=1, pause_s=2):
        out = ask(pair, "a", pair.net["b"].address, 7010, "many", 500)
    assert out == {"failed": 0, "waiting": 0, "echoes": 500}
    assert opened(pair) == before + 500
    assert pair["a"].status()["totals"]["bytes_direct"] == carried


def test_nothing_is_left_when_programs_have_ended(pair, server):
    process.wait_until(lambda: all(t["channels"] == 0 for n in "ab" for t in pair[n].status()["trunks"]), 10,
                       "no channel left")


def test_connections_of_trunks_count_as_descriptors(pair):
    """Two for each connection, outgoing and incoming; no program is attached, and who asks is one session."""
    process.wait_until(lambda: pair["a"].status()["limits"]["descriptors_used"] <= 5, 5, "programs have left")
    assert pair["a"].status()["limits"]["descriptors_used"] == 2 * 2 + 1


def test_a_daemon_keeps_its_number(own_net):
    def number(daemon):
        with open(f"{daemon.socket}.node", encoding="ascii") as f:
            return f.read()
    with trunks.Pair(own_net) as p:
        first = number(p["a"])
        assert int(first, 16) != 0 and len(first) == 17 and first != number(p["b"])
        p["a"].stop()
        p["a"].start()
        p.wait_up()
        assert number(p["a"]) == first
        # b knows it again: the session of before has made room.
        process.wait_until(lambda: len(p.sessions("b", outgoing=False)) == 1, 5, "one session from a")
        assert not p.sessions("b", outgoing=False, state="waiting")
