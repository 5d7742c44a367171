"""TLS on trunks: both certificates are checked, names too, and renewed without a restart."""
import os
import shutil
import sys
import time

import pytest

from lib import certificates, pcap, process, trunk_wire as w, trunks
from test_dissector import Capture
from test_streams import ask, serve

pytestmark = pytest.mark.skipif(certificates.why_not() is not None, reason=certificates.why_not() or "")


def pair_of(net, a, b):
    return trunks.Pair(net, tls={"a": a, "b": b})


def holds(condition, seconds=3):
    """True if the condition does not come to be within that time."""
    try:
        process.wait_until(condition, seconds, "what must not be")
    except process.Failed:
        return True
    return False


def test_streams_go_over_tls_and_survive_a_cut(own_net, directory):
    ca = certificates.Authority(directory, "ca")
    a, b = {**ca.sign("a"), "names": "[b]"}, {**ca.sign("b"), "names": "[a]"}
    with pair_of(own_net, a, b) as p, serve(p, "b", 7301):
        assert ask(p, "a", own_net["b"].address, 7301, "echo", 5_000_000)["same"]
        assert p["a"].status()["totals"]["bytes_trunk"] >= 10_000_000
        from test_cuts import all_whole, kill_sockets, start_streams
        streams = start_streams(p, count=2, seconds=3, port=7301)
        process.wait_until(lambda: p["a"].status()["trunks"][0]["bytes_out"] > 6_000_000, 10, "streams run")
        kill_sockets(p)
        all_whole(streams)


def records(sent):
    """The sizes of the records with application data that an initiator sent after its greeting."""
    at, out = 8, []
    while at + 5 <= len(sent):
        size = int.from_bytes(sent[at + 3:at + 5], "big")
        if sent[at] == 23:
            out.append(size)
        at += 5 + size
    return out


@pytest.mark.skipif(shutil.which("dumpcap") is None, reason="no dumpcap on this machine")
def test_a_stream_fills_its_records(own_net, directory):
    """One of 8 KiB, or one write for each, took a third of vmsgrd's time."""
    ca = certificates.Authority(directory, "ca")
    capture = Capture(own_net["a"], directory)
    with pair_of(own_net, ca.sign("a"), ca.sign("b")) as p, serve(p, "b", 7302):
        assert ask(p, "a", own_net["b"].address, 7302, "echo", 8_000_000)["same"]
    capture.stop()
    sizes = max((records(c.sent[c.client]) for c in pcap.connections(capture.path)), key=sum)
    large = sum(s for s in sizes if s > 16000)
    assert sum(sizes) > 8_000_000 and large > 0.7 * sum(sizes), (len(sizes), large / sum(sizes))


@pytest.mark.parametrize("wrong", ["name", "authority", "plain"])
def test_a_peer_without_the_right_certificate_gets_nothing(own_net, directory, wrong):
    ca, other = certificates.Authority(directory, "ca"), certificates.Authority(directory, "other")
    b = {**ca.sign("b"), "names": "[a]"}
    a = {"name": ca.sign("stranger"), "authority": {**other.sign("a"), "ca": ca.ca}, "plain": None}[wrong]
    p = trunks.Pair(own_net, tls={"a": a, "b": b}, routes=trunks.routes_by_trunk("direct"))
    try:
        for d in p.daemons.values():
            d.start()
        assert holds(lambda: p.sessions("a") or p.sessions("b", outgoing=False))
        assert p["b"].process.alive()
        with serve(p, "b", 7302):   # and programs go the direct way
            assert ask(p, "a", own_net["b"].address, 7302, "echo", 10000)["same"]
        assert p["a"].status()["totals"]["bytes_trunk"] == 0
    finally:
        p.close()


# A program that b takes for a peer, up to the TLS handshake; what it does then follows, with the other words.
PEER = """
import socket, ssl, sys
from lib import trunk_wire as w
address, port, ca, certificate, key, *words = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.load_verify_locations(ca)
context.load_cert_chain(certificate, key)
s = socket.create_connection((address, int(port)), timeout=10)
s.sendall(w.greeting())
"""


def peer_says(net, directory, code, *words, **tls):
    ca = certificates.Authority(directory, "ca")
    a = ca.sign("a")
    with pair_of(net, a, {**ca.sign("b"), **tls}):
        return process.run([sys.executable, "-c", PEER + code, net["b"].address, trunks.PORT, ca.ca, a["certificate"], a["key"], *words],
                           netns=net["a"], env={"PYTHONPATH": os.path.dirname(os.path.dirname(__file__))}).stdout


# One version of TLS.
OF_VERSION = """
context.minimum_version = context.maximum_version = ssl.TLSVersion[words[0]]
try:
    t = context.wrap_socket(s)
    t.sendall(w.hello(name=b"a"))
    print("session" if t.recv(4096) else "closed")
except ssl.SSLError as e:
    print(e.reason)
"""


@pytest.mark.parametrize("version, answer", [("TLSv1_2", "ALERT"), ("TLSv1_3", "session")])
def test_a_trunk_speaks_the_latest_version_of_tls_alone(own_net, directory, version, answer):
    said = peer_says(own_net, directory, OF_VERSION, version)
    assert answer in said, said


# Asks for an answer and says how much of it the CRC covers; its own packets cover so many bytes.
COVERED = """
features, covers = words
t = context.wrap_socket(s)
t.sendall(w.hello(features=int(features)))
stream = t.makefile("rb")
answer = w.Packet(stream.read(w.HELLO_BYTES))
t.sendall(w.packet(w.DUMMY, 4096, session=answer.session, stamp=77, crc_covers=int(covers)))
while True:
    raw = stream.read(4096)
    if len(raw) < 4096:
        print("refused")
        break
    for part in (w.HEADER_BYTES, 4096):
        try:
            if w.Packet(raw, part).echo == 77:
                print(part)
                sys.exit()
        except w.Bad as e:
            assert str(e) == "crc"
"""


@pytest.mark.parametrize("features, covers, answer", [
    (w.KNOWS_HEADER_CRC, w.HEADER_BYTES, "64"), (0, 4096, "4096"), (w.KNOWS_HEADER_CRC, 4096, "refused"),
    (0, w.HEADER_BYTES, "refused")])
def test_a_packets_crc_leaves_out_what_tls_proves(own_net, directory, features, covers, answer):
    """Where both sides say so."""
    assert peer_says(own_net, directory, COVERED, features, covers) == f"{answer}\n"


# Asks for so many packets of 4 KiB, and says how often the other side has changed its key meanwhile.
KEYS = """
changes = []
context._msg_callback = lambda c, way, version, kind, what, data: changes.append(1) if (way, what) == ("read", 24) else None
t = context.wrap_socket(s)
t.sendall(w.hello())
stream = t.makefile("rb")
answer = w.Packet(stream.read(w.HELLO_BYTES))
for stamp in range(1, int(words[0]) + 1):
    t.sendall(w.packet(w.DUMMY, 4096, session=answer.session, stamp=stamp))
    while w.Packet(stream.read(4096)).echo != stamp:
        pass
print(len(changes))
"""


@pytest.mark.parametrize("packets, changes", [(14, 0), (80, 5)])
def test_a_key_is_changed_after_what_it_may_encrypt(own_net, directory, packets, changes):
    """80 packets with what TLS adds are a little more than 320 KiB, which are five times 64 KiB."""
    said = peer_says(own_net, directory, KEYS, packets, rekey_bytes="64KiB")
    assert said == f"{changes}\n"


def test_streams_stay_right_while_keys_change(own_net, directory):
    ca = certificates.Authority(directory, "ca")
    often = {"rekey_bytes": "64KiB"}
    with pair_of(own_net, {**ca.sign("a"), **often}, {**ca.sign("b"), **often}) as p, serve(p, "b", 7301):
        assert ask(p, "a", own_net["b"].address, 7301, "echo", 20_000_000)["same"]


# What b may see as a's name: only `a` is in its list.
@pytest.mark.parametrize("keys, accepted", [
    (dict(subject="/O=company/CN=a"), True),
    (dict(subject="/O=FOOCN=x/CN=a"), True),
    (dict(subject="/O=x\\,CN=a/CN=evil"), False),
    (dict(subject="/O=x,CN=a/CN=evil"), False),
    (dict(subject="/CN=a/O=x,CN=evil"), True),
    (dict(subject="/CN=other", dns=["other.example", "a"]), True),
    (dict(subject="/CN=a", dns=["evil.example"]), False),
], ids=str)
def test_only_the_name_that_a_certificate_has_counts(own_net, directory, keys, accepted):
    ca = certificates.Authority(directory, "ca")
    a, b = ca.sign("a", **keys), {**ca.sign("b"), "names": "[a]"}
    p = pair_of(own_net, a, b)
    try:
        for d in p.daemons.values():
            d.start()
        if accepted:
            process.wait_until(lambda: p.sessions("b", outgoing=False), 10, "a session")
        else:
            assert holds(lambda: p.sessions("a") or p.sessions("b", outgoing=False))
    finally:
        p.close()


def test_a_peer_must_be_the_one_that_was_dialled(own_net, directory):
    """b shows a good certificate of the same authority, and a's list allows its name: but a dialled `b`."""
    ca = certificates.Authority(directory, "ca")
    p = pair_of(own_net, {**ca.sign("a"), "names": "[b, c]"}, ca.sign("c"))
    try:
        for d in p.daemons.values():
            d.start()
        assert holds(lambda: p.sessions("a"))
        assert "names 'c', but this trunk is to 'b'" in process.tail(p["a"].log)
        assert p.sessions("b")   # the other way: a is a
    finally:
        p.close()


def test_certificates_are_renewed_without_a_restart(own_net, directory):
    ca = certificates.Authority(directory, "ca")
    b = {**ca.sign("b"), "names": "[a]"}
    ca.sign("stranger", file="a")   # a wrong name first
    a = {"ca": ca.ca, "certificate": f"{directory}/a.pem", "key": f"{directory}/a.key"}
    p = pair_of(own_net, a, b)
    try:
        for d in p.daemons.values():
            d.start()
        assert holds(lambda: p.sessions("a"), 2)
        ca.sign("a")
        process.wait_until(lambda: p.sessions("a"), 15, "a session with the new certificate")
        time.sleep(4)
        for d in p.daemons.values():   # once, and not for ever
            assert process.tail(d.log, 400).count("were read again") == (d is p["a"])
    finally:
        p.close()
