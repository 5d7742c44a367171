"""Who may say what on a trunk: sources, destinations, names, and what happens where there is no trunk. Each refusal is
counted by its reason and shown by `vmsgr trunks`."""
import json
import os
import shutil
import signal
import time

import pytest

import hostile
import spoof
from lib import certificates, pcap, process, trunks, vmsgrd
from test_streams import CLIENT, ask, serve

needs_openssl = pytest.mark.skipif(certificates.why_not() is not None, reason=certificates.why_not() or "")
DIRECT = trunks.routes_by_trunk("direct")
ATTACKER = ["setpriv", "--reuid=2002", "--regid=2002", "--clear-groups"]
ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH = 111, 110, 113, 101


def refused(daemon):
    """Counts by reason, of all trunks."""
    out = {}
    for t in daemon.status()["trunks"]:
        for reason, n in t["refused_by_reason"].items():
            out[reason] = out.get(reason, 0) + n
    return out


def shown(daemon):
    return process.run([vmsgrd.VMSGR, "trunks", "--socket", daemon.socket]).stdout


def attack(pair, *words):
    done = process.run(["/usr/bin/python3", hostile.__file__, pair.net["b"].address, str(trunks.PORT), *words],
                       netns=pair.net["a"], timeout_s=40)
    assert done.stdout == "fine\n", words


def stop_port(host):
    """Packets to the trunk's port vanish."""
    process.run(["nft", "add table inet t; add chain inet t in { type filter hook input priority 0; }; "
                 f"add rule inet t in tcp dport {trunks.PORT} drop"], netns=host)


def open_port(host):
    process.run(["nft", "delete", "table", "inet", "t"], netns=host)


def kill_sockets(host):
    process.run(["ss", "-K", "dport", "=", f":{trunks.PORT}"], netns=host)


# --- sources -------------------------------------------------------------------------------------------------------

def spoofed(pair, sources, *, setup=None):
    """Outcomes for a user of host a, in host a's network or, with `setup`, in one of the user's own."""
    command = ["/usr/bin/python3", spoof.__file__, pair["a"].socket, pair.net["b"].address, "7401", *sources]
    if setup:
        command = ["unshare", "-Urn", "sh", "-c", f"ip link set lo up; {setup}; exec \"$@\"", "sh", *command]
    done = process.run([*ATTACKER, *command], netns=pair.net["a"])
    return [line.split()[1] for line in done.stdout.splitlines()]


@pytest.fixture
def open_pair(own_net):
    """Anybody may attach, and what has no trunk is refused."""
    with trunks.Pair(own_net, routes=trunks.routes_by_trunk("fail"), top="access: {mode: 0666}\n") as p:
        os.chmod(p.dir, 0o755)
        yield p


def test_a_source_is_an_address_that_this_host_has_and_the_user_may_bind(open_pair):
    p = open_pair
    with serve(p, "b", 7401) as server:
        assert spoofed(p, [f"{p.net['a'].address}:40001"]) == ["0"]
        assert spoofed(p, ["127.0.0.1:40002", "127.0.0.9:40003"]) == [str(ENETUNREACH)] * 2
        a, b = p.net["a"].address, p.net["b"].address
        mine = "; ".join(f"ip addr add {x}/32 dev lo" for x in (a, b, "10.99.0.77"))
        lies = [f"{a}:700", f"{a}:40004", f"{b}:701", "10.99.0.77:40005", "127.0.0.1:40006"]
        assert spoofed(p, lies, setup=mine) == [str(ENETUNREACH)] * 5
        assert refused(p["a"]) == {"own_source": 7, "no_trunk": 7}
        assert "refused for its own_source: 7" in shown(p["a"])
        assert server.alive()


def test_a_peer_claims_the_addresses_that_it_has(own_net):
    with trunks.Pair(own_net) as p, serve(p, "b", 7402):
        for source, to in (("10.99.0.1", "accept"), ("fd99::1", "accept"), ("10.99.0.9", "refuse"),
                           ("10.99.0.2", "refuse"), ("127.0.0.1", "refuse"), ("0.0.0.0", "refuse"),
                           ("::ffff:127.0.0.1", "refuse"), ("::1", "refuse"), ("224.0.0.1", "refuse")):
            attack(p, "claims", source, "10.99.0.2", "7402", to)
        assert refused(p["b"]) == {"source": 7}


def test_sources_and_serves_of_a_peer_stand_in_its_entry(own_net):
    own_net["b"].ip("addr", "add", "10.99.0.78/24", "dev", "eth0")
    more = {"b": "    sources: [10.99.0.9, 10.99.0.2, 127.0.0.0/8]\n    serves: [10.99.0.78]\n"}
    with trunks.Pair(own_net, more=more, serves="[10.99.0.2]", accept_from="[10.99.0.0/24]") as p, serve(p, "b", 7403, address="::"):
        # Without TLS a peer is its address; those of the list are the entry's.
        own_net["a"].ip("addr", "add", "10.99.0.9/24", "dev", "eth0")
        for source, to, what in (("10.99.0.9", "10.99.0.78", "accept"), ("10.99.0.9", "10.99.0.2", "refuse"),
                                 ("10.99.0.1", "10.99.0.78", "refuse"), ("127.0.0.1", "10.99.0.78", "refuse"),
                                 ("10.99.0.2", "10.99.0.78", "refuse")):
            attack(p, "claims", source, to, "7403", what, "10.99.0.9")
        assert refused(p["b"]) == {"source": 3, "destination": 1}
        # One that no entry names: its own address, and what trunk.serves says.
        own_net["a"].ip("addr", "add", "10.99.0.8/24", "dev", "eth0")
        for source, to, what in (("10.99.0.1", "10.99.0.2", "accept"), ("10.99.0.8", "10.99.0.2", "refuse"),
                                 ("10.99.0.1", "10.99.0.78", "refuse")):
            attack(p, "claims", source, to, "7403", what, "10.99.0.1")


def test_a_session_belongs_to_the_peer_that_began_it(own_net):
    own_net["a"].ip("addr", "add", "10.99.0.9/24", "dev", "eth0")
    with trunks.Pair(own_net, accept_from="[10.99.0.0/24]") as p:
        attack(p, "steal", "10.99.0.1", "10.99.0.9")
        assert sum(t["dropped_by_reason"].get("bad_cookie", 0) for t in p["b"].status()["trunks"]) == 1


def test_a_peer_opens_no_more_connections_than_its_share(own_net):
    own_net["a"].ip("addr", "add", "10.99.0.9/24", "dev", "eth0")
    with trunks.Pair(own_net, accept_from="[10.99.0.0/24]", connections_per_peer=20) as p, serve(p, "b", 7405):
        attack(p, "share", "10.99.0.1", "10.99.0.9", "7405", "20")
        assert refused(p["b"])["connections"] >= 10
        mine = [t for t in p["b"].status()["trunks"] if t["peer"] == "10.99.0.1:0" and "connections_of_peer" in t]
        assert {(t["connections_of_peer"], t["connections_of_peer_max"]) for t in mine} == {(20, 20)}
        assert " 20/20 " in shown(p["b"])


def test_a_plain_trunk_says_what_it_trusts(own_net):
    with trunks.Pair(own_net) as p:
        with open(p["a"].log, encoding="utf-8") as f:
            assert "trunks are plain: whoever can send from 10.99.0.1/32, 10.99.0.2/32" in f.read()
        assert "trunks are plain" in shown(p["a"]) and "(plain) 10.99.0.2" in shown(p["a"])
        trunk = p["a"].status()["trunk"]
        assert not trunk["encrypted"] and "can read and change all bytes" in trunk["trusts"]


# --- strangers -----------------------------------------------------------------------------------------------------

def test_strangers_of_the_same_address_do_not_keep_a_peer_out(own_net):
    """A user of host a keeps connecting to the trunk's port of b, which is all that he may do."""
    code = """import select, socket, sys, time
po = select.epoll(); cs = {}
def new():
    c = socket.socket(); c.setblocking(False); c.connect_ex((sys.argv[1], int(sys.argv[2])))
    cs[c.fileno()] = c; po.register(c, select.EPOLLIN | select.EPOLLRDHUP)
for _ in range(200): new()
print('begun', flush=True)
while True:
    for fd, _ in po.poll():
        po.unregister(fd); cs.pop(fd).close(); new()
"""
    with trunks.Pair(own_net) as p:
        p["a"].stop()
        crowd = process.Process([*ATTACKER, "/usr/bin/python3", "-c", code, p.net["b"].address, str(trunks.PORT)],
                                name="crowd", netns=p.net["a"], stdout=-1)
        assert crowd.stdout.readline() == b"begun\n"
        process.wait_until(lambda: refused(p["b"]).get("crowd", 0) > 100, 10, "strangers are turned away")
        began = time.monotonic()
        p["a"].start()
        trunks.wait_up(p["a"], timeout_s=10)
        took = time.monotonic() - began
        crowd.kill()
        assert took < 5, f"{took:.1f} s until the trunk was up"


# --- certificates --------------------------------------------------------------------------------------------------

@needs_openssl
def test_a_revoked_certificate_ends_its_trunk(own_net, directory):
    ca = certificates.Authority(directory, "ca")
    a, b = ca.sign("a"), ca.sign("b")
    crl = ca.revoke()
    tls = {"a": a, "b": {**b, "crl": crl}}
    with trunks.Pair(own_net, tls=tls) as p, serve(p, "b", 7404):
        assert ask(p, "a", p.net["b"].address, 7404, "echo", 100_000)["same"]
        row = [t for t in p["b"].status()["trunks"] if not t["outgoing"] and t["state"] == "up"][0]
        assert row["encrypted"] and row["peer"] == row["name"] == "a"
        assert "unless revoked" in shown(p["b"])
        ca.revoke(a)
        process.wait_until(lambda: not p.sessions("b", outgoing=False) and not p.sessions("a"), 15, "the trunk is gone")
        process.wait_until(lambda: refused(p["b"]).get("certificate", 0) > 0, 5, "it is counted")
        time.sleep(1)
        assert not p.sessions("a")


def replace_file(path, text):
    with open(f"{path}.part", "w", encoding="ascii") as f:
        f.write(text)
    os.rename(f"{path}.part", path)


@needs_openssl
@pytest.mark.parametrize("file, text", [
    ("crl", ""), ("crl", "{whole}-----BEGIN X509 CRL-----\nMIIB\n"), ("crl", "no list\n"), ("ca", "{whole}-----BEGIN CERTIFICATE-----\n"),
    ("key", "{other}"), ("key", "")], ids=["empty list", "half a list", "no list", "half a CA", "key of another", "empty key"])
def test_a_file_that_cannot_be_used_changes_nothing(own_net, directory, file, text):
    """A list that a full disk has cut off must not let in who was revoked."""
    ca = certificates.Authority(directory, "ca")
    tls, stranger = {name: ca.sign(name) for name in "ab"}, ca.sign("c")
    tls["b"]["crl"] = ca.revoke(tls["a"])
    with open(tls["b"][file], encoding="ascii") as f, open(stranger["key"], encoding="ascii") as g:
        text = text.format(whole=f.read(), other=g.read())
    tls["a"]["ca"] = shutil.copy(ca.ca, f"{directory}/ca.of.a.pem")
    p = trunks.Pair(own_net, tls=tls)
    try:
        p["b"].start()
        replace_file(tls["b"][file], text)
        process.wait_until(lambda: "stay in use" in process.tail(p["b"].log), 10, "it is said")
        time.sleep(2)
        said = [line for line in process.tail(p["b"].log, 400).splitlines() if "stay in use" in line]
        assert len(said) == len(p["b"].status()["shards"]), "\n".join(said)   # once a shard
        p["a"].start()
        process.wait_until(lambda: refused(p["b"]).get("certificate", 0) > 1, 10, "the revoked peer is refused")
        assert not p.sessions("b", outgoing=False)
    finally:
        p.close()


@needs_openssl
def test_a_list_that_should_have_been_renewed_revokes_what_it_revokes(own_net, directory):
    ca = certificates.Authority(directory, "ca")
    a, b, c = ca.sign("a"), ca.sign("b"), ca.sign("c")
    b["crl"] = ca.revoke(c, seconds=1)
    p = trunks.Pair(own_net, tls={"a": a, "b": b})
    try:
        time.sleep(2)
        for d in p.daemons.values():
            d.start()
        trunks.wait_up(p["a"])
        process.wait_until(lambda: "what it revokes stays revoked" in process.tail(p["b"].log), 5, "it is said")
        ca.revoke(a, seconds=1)
        process.wait_until(lambda: not p.sessions("b", outgoing=False), 15, "the trunk is gone")
    finally:
        p.close()


@needs_openssl
def test_refused_names_are_counted(own_net, directory):
    ca = certificates.Authority(directory, "ca")
    p = trunks.Pair(own_net, tls={"a": {**ca.sign("a"), "names": "[b, c]"}, "b": {**ca.sign("c"), "names": "[x]"}})
    try:
        for d in p.daemons.values():
            d.start()
        process.wait_until(lambda: refused(p["a"]).get("name", 0) > 0 and refused(p["b"]).get("name", 0) > 0, 10, "names")
        assert not p.sessions("a") and not p.sessions("b")
    finally:
        p.close()


# --- without a trunk -----------------------------------------------------------------------------------------------

class Capture:
    """What passes host a's interface, but for the trunks' own port."""

    def __init__(self, host, directory):
        self.file = f"{directory}/wire.pcap"
        self.process = process.Process(["tshark", "-i", "eth0", "-F", "pcap", "-w", self.file, "-f",
                                        f"tcp and not port {trunks.PORT}"], name="tshark", netns=host,
                                       log=f"{directory}/tshark.log")
        self.process.wait_ready(lambda: os.path.exists(self.file) and os.path.getsize(self.file) >= 24, 20, "capture")
        time.sleep(0.5)

    def connections(self):
        time.sleep(0.5)
        self.process.signal(signal.SIGINT)
        self.process.wait(10)
        return pcap.connections(self.file)


def with_capture(p, host, directory, words):
    capture = Capture(host, directory)
    out = ask(p, "a", p.net["b"].address, *words)
    return out, capture.connections()


@needs_openssl
@pytest.mark.parametrize("without", ["fail", None, "direct"])
def test_who_blocks_the_port_does_not_turn_encryption_off(own_net, directory, without):
    """Under TLS the default is to wait; only a route that says `direct` lets bytes go the open way."""
    ca = certificates.Authority(directory, "ca")
    tls = {"a": ca.sign("a"), "b": ca.sign("b")}
    p = trunks.Pair(own_net, tls=tls, routes=trunks.routes_by_trunk(without, fallback=None))
    try:
        stop_port(own_net["b"])
        stop_port(own_net["a"])
        for d in p.daemons.values():
            d.start()
        with serve(p, "b", 7405):
            if without is None:
                capture = Capture(own_net["a"], directory)
                waits = process.Process([*p["a"].prefix(), "/usr/bin/python3", "-c",
                                         "import socket, sys; c = socket.create_connection((sys.argv[1], 7405)); "
                                         "c.sendall(b'e'); c.sendall(b'secret'); assert c.recv(6) == b'secret'",
                                         p.net["b"].address], name="waits", netns=own_net["a"])
                time.sleep(2)
                assert waits.alive()
                seen = capture.connections()
                open_port(own_net["b"])
                assert waits.wait(15) == 0   # it has waited for the trunk
                assert p["a"].status()["totals"]["bytes_trunk"] >= 13
                assert refused(p["a"]) == {}
            else:
                what = ("refused",) if without == "fail" else ("echo", 1000)
                out, seen = with_capture(p, own_net["a"], directory, (7405, *what))
                if without == "fail":
                    assert out["error"] == ENETUNREACH and out["took_s"] < 1
                    assert refused(p["a"]) == {"no_trunk": 1}
                    assert "refused for its no_trunk: 1" in shown(p["a"])
                else:
                    assert out["same"]
            assert bool(seen) == (without == "direct"), [(c.client, c.server) for c in seen]
            if without == "fail":   # without a daemon neither
                p["a"].stop()
                capture = Capture(own_net["a"], directory)
                prefix = p["a"].prefix(routes=trunks.routes_by_trunk("fail", fallback=None))
                done = process.run([*prefix, "/usr/bin/python3", "-c", CLIENT, p.net["b"].address, "7405", "refused"],
                                   netns=own_net["a"])
                assert json.loads(done.stdout)["error"] == ENETUNREACH and not capture.connections()
    finally:
        p.close()


def test_what_a_peer_does_not_serve_fails_where_only_trunks_are_allowed(own_net):
    own_net["b"].ip("addr", "add", "10.99.0.50/24", "dev", "eth0")
    routes = trunks.routes_by_trunk("fail")
    with trunks.Pair(own_net, routes=routes, serves="[10.99.0.2]",
                     more={"a": "    sources: [10.99.0.2]\n"}) as p, serve(p, "b", 7406, address="0.0.0.0"):
        assert ask(p, "a", "10.99.0.2", 7406, "echo", 1000)["same"]
        assert ask(p, "a", "10.99.0.50", 7406, "refused")["error"] == ENETUNREACH   # no trunk leads there
        # What stays on this host needs no trunk.
        with serve(p, "a", 7407, attached=False):
            assert ask(p, "a", "10.99.0.1", 7407, "echo", 1000)["same"]


def test_connects_during_a_cut_wait_for_it_to_end(own_net):
    with trunks.Pair(own_net, routes=trunks.routes_by_trunk("wait"), outage_ms=20000) as p, serve(p, "b", 7408):
        assert ask(p, "a", "10.99.0.2", 7408, "echo", 1000)["same"]
        with trunks.link_down(p):
            process.wait_until(lambda: not p.sessions("a"), 10, "the cut is noticed")
            code = ("import socket, sys, time; t = time.monotonic(); c = socket.create_connection((sys.argv[1], 7408)); "
                    "c.sendall(b'e'); c.sendall(b'abc'); assert c.recv(3) == b'abc'; print(time.monotonic() - t)")
            waits = process.Process([*p["a"].prefix(), "/usr/bin/python3", "-c", code, "10.99.0.2"], name="waits",
                                    netns=own_net["a"], stdout=-1)
            time.sleep(1.5)
            assert waits.alive()
        assert waits.wait(15) == 0 and float(waits.stdout.read()) > 1
        direct = p["a"].status()["totals"]["bytes_direct"]
        assert direct == 0


# Connects, which waits for a trunk; then vmsgrd is killed. What the program sees next, by poll() or not, and how soon.
LEFT_ALONE = """
import errno, select, socket, sys, time
how, to = sys.argv[1], (sys.argv[2], 7409)
c = socket.socket()
c.setblocking(False)
assert c.connect_ex(to) == errno.EINPROGRESS
print('connects', flush=True)
if how.startswith('sleeps'):
    c.setblocking(True)
else:
    sys.stdin.readline()
    p = select.poll()
    p.register(c, select.POLLOUT)
    assert p.poll(10000)
calls = {'SO_ERROR': lambda: c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 'connect': lambda: c.connect_ex(to),
         'send': lambda: c.send(b'x'), 'recv': lambda: c.recv(1)}
try:
    r = calls[how.split()[-1]]()
except OSError as e:
    r = e.errno
print(errno.errorcode.get(r, r), flush=True)
"""


@pytest.mark.parametrize("how", ["SO_ERROR", "connect", "send", "recv", "sleeps in send", "sleeps in recv"])
def test_a_connect_that_waits_ends_with_the_daemon(own_net, how):
    with trunks.Pair(own_net, routes=trunks.routes_by_trunk("wait"), outage_ms=20000) as p, trunks.link_down(p):
        process.wait_until(lambda: not p.sessions("a"), 10, "the cut is noticed")
        program = process.Process([*p["a"].prefix(), "/usr/bin/python3", "-c", LEFT_ALONE, how, "10.99.0.2"], name="waits",
                                  netns=own_net["a"], stdin=-1, stdout=-1)
        assert program.stdout.readline() == b"connects\n"
        time.sleep(0.3)
        assert program.alive()
        os.kill(p["a"].pid, signal.SIGKILL)
        if not how.startswith("sleeps"):
            program.stdin.write(b"\n")
            program.stdin.flush()
        assert program.wait(10) == 0
        assert program.stdout.read() == b"ECONNRESET\n"
