"""A capture of a live trunk, read twice: by the decoder in Python, and by Wireshark with our plugin. Both must agree."""
import os
import shutil
import time

import pytest

from hostile import LIES
from lib import certificates, netns, pcap, process, trunks
from lib import trunk_wire as w
from lib.agents import Agent
from test_cuts import all_whole, kill_sockets, start_streams
from test_streams import ask, serve

PLUGIN = os.path.join(process.ROOT, "packaging/vmsgr.lua")
HOSTILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hostile.py")

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="no tshark on this machine")


class Capture:
    """dumpcap on eth0 of a host."""

    def __init__(self, host, directory):
        self.path = f"{directory}/trunk.pcap"
        self.process = process.Process(["dumpcap", "-q", "-P", "-B", "64", "-i", "eth0", "-f", f"tcp port {trunks.PORT}",
                                        "-w", self.path], name="dumpcap", netns=host, log=f"{directory}/dumpcap.log")
        process.wait_until(lambda: "File:" in process.tail(f"{directory}/dumpcap.log"), 10, "dumpcap captures")

    def stop(self):
        time.sleep(0.5)   # what the kernel still holds
        self.process.stop()
        os.chmod(self.path, 0o644)


# Wireshark loads no Lua for root.
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "HOME=/nonexistent"]


def tshark(path, *words, fields, only="vmsgr"):
    """One list of values a field, for each captured frame that the filter shows."""
    wanted = [x for f in fields for x in ("-e", f)]
    plugin = shutil.copy(PLUGIN, os.path.dirname(path))
    done = process.run([*(AS_NOBODY if os.getuid() == 0 else []), "tshark", "-n", "-X", f"lua_script:{plugin}",
                        "-o", "tcp.reassemble_out_of_order:TRUE", *words, "-r", path, "-Y", only, "-T", "fields",
                        "-E", "separator=|", *wanted], timeout_s=60)
    assert "rror" not in done.stderr, done.stderr
    return [[v.split(",") if v else [] for v in line.split("|")] for line in done.stdout.splitlines()]


def our_reading(connection):
    """{source port: packets} of both directions, as the document says that they lie there."""
    sent = {c: connection.sent[c] for c in (connection.client, connection.server)}
    greeting, sent[connection.client] = sent[connection.client][:8], sent[connection.client][8:]
    assert greeting[:6] == w.greeting()[:6]
    agreed = w.Packet(sent[connection.server][:w.HELLO_BYTES]).hello()["packet_bytes"]
    return {who[1]: [w.Packet(data[:w.HELLO_BYTES]), *w.decode(data[w.HELLO_BYTES:], agreed)]
            for who, data in sent.items()}


def as_rows(packets):
    return [(p.kind, p.session, p.sequence, p.ack, [(c, k, v, len(b)) for c, k, v, b in p.frames()])
            if p.kind == w.DATA else (p.kind, p.session, p.sequence, p.ack, []) for p in packets]


FIELDS = ("tcp.stream", "tcp.srcport", "vmsgr.type", "vmsgr.session", "vmsgr.sequence", "vmsgr.ack",
          "vmsgr.payload_bytes", "vmsgr.frame.channel", "vmsgr.frame.kind", "vmsgr.frame.value", "vmsgr.frame.length",
          "vmsgr.crc.good")


def their_reading(path, *words):
    """{(number of the connection, source port): rows as as_rows()}."""
    out = {}
    for stream, port, kinds, sessions, sequences, acks, payloads, *frames, good in tshark(path, *words, fields=FIELDS):
        assert set(good) <= {"1", "True"}
        frames = [tuple(map(int, f)) for f in zip(*frames)]
        rows = out.setdefault((int(stream[0]), int(port[0])), [])
        for kind, session, sequence, ack, payload in zip(kinds, sessions, sequences, acks, payloads, strict=True):
            mine, left = [], int(payload) if int(kind) == w.DATA else 0
            while left:
                mine.append(frames.pop(0))
                left -= w.FRAME_HEADER_BYTES + mine[-1][3]
            rows.append((int(kind), int(session, 16), int(sequence), int(ack), mine))
        assert not frames
    return out


def run_some_traffic(p):
    host = p.net["b"].address
    with serve(p, "b", 7401):
        assert ask(p, "a", host, 7401, "echo", 300_000)["same"]
        assert ask(p, "a", host, 7999, "refused")["error"] == 111
        assert ask(p, "a", host, 7401, "reset") == {"error": 104}
        with Agent(p["a"].prefix(), inside=p.net["a"]) as client:
            client(f"!x = socket.create_connection(('{host}', 7401), 20)")
            assert client("x.send(b'e!', socket.MSG_OOB)") == "2"
            client("!x.close()")
        streams = start_streams(p, count=1, seconds=0.4, port=7401)
        process.wait_until(lambda: p.sessions("a")[0]["bytes_out"] > 1_000_000, 5, "the stream runs", every_s=0.01)
        kill_sockets(p)
        all_whole(streams)
    time.sleep(0.7)   # silence longer than a keepalive


@pytest.fixture(scope="module")
def captured():
    """The capture of a trunk's whole life, what a's daemon counted on its session, and the packets as Python reads them by
    (number of the connection, from its initiator, source port)."""
    directory = process.make_dir("vt-")
    with netns.Network(["a", "b"]) as net:
        capture = Capture(net["a"], directory)
        with trunks.Pair(net) as p:
            run_some_traffic(p)
            counted = p.sessions("a")[0]
        capture.stop()
    ours = {}
    for number, c in enumerate(pcap.connections(capture.path)):
        if c.sent[c.server]:   # else the peer did not listen yet
            ours.update({(number, port == c.client[1], port): packets for port, packets in our_reading(c).items()})
    yield capture.path, counted, ours
    process.remove_dir(directory)


def test_the_python_decoder_reads_a_live_trunk(captured):
    _, counted, ours = captured
    readers, kinds = {}, []
    cookies = {number: packets[0].session for (number, initiator, _), packets in ours.items() if not initiator}
    for (number, initiator, _), packets in ours.items():
        reader = readers.setdefault((cookies[number], initiator), w.Reader())
        for p in packets:
            reader.take(p)
            kinds.append((p.session, initiator, p.kind))
    session, = {s for s, initiator in readers if initiator and readers[s, initiator].opened}
    assert {k for _, _, k in kinds} == {w.HELLO, w.DATA, w.DUMMY, w.ACK, w.BYE}
    there, back = readers[session, True], readers[session, False]
    assert len(there.opened) == counted["channels_total"] == 5
    assert there.opened[1][0][0] == "10.99.0.1" and there.opened[1][1] == ("10.99.0.2", 7401)
    assert sum(map(len, there.streams.values())) == counted["bytes_out"]
    assert sum(map(len, back.streams.values())) == counted["bytes_in"]
    assert there.streams[1][1:] == back.streams[1] and len(back.streams[1]) == 300_000   # the echo
    assert there.urgent == {4: [1]} and not back.urgent
    # What was handed to the connection that was cut, and never left, left again.
    left = kinds.count((session, True, w.DATA))
    assert counted["packets_out"] - counted["replayed"] <= left <= counted["packets_out"]
    assert there.duplicates <= counted["replayed"]
    assert (2, w.REFUSE, 111) in back.events and any(k == w.RESET for _, k, _ in back.events)


def test_wireshark_with_the_plugin_reads_the_same(captured):
    path, _, ours = captured
    theirs = their_reading(path)
    assert sum(map(len, ours.values())) > 100
    assert set(theirs) == {(number, port) for number, _, port in ours}
    for (number, _, port), packets in ours.items():
        assert theirs[number, port] == as_rows(packets), (number, port)
    assert tshark(path, only="vmsgr.frame.urgent", fields=("vmsgr.hello.features",)) != []
    assert {row[0][0] for row in tshark(path, only="vmsgr.type == 1", fields=("vmsgr.hello.features",))} == {"0x00000001"}
    # A healthy trunk: nothing is wrong in it. Replays are notes.
    assert not tshark(path, only="_ws.expert.severity == error", fields=("frame.number", "_ws.expert.message"))


@pytest.mark.parametrize("port", ["0", "6790"])
def test_it_is_found_by_its_first_bytes_or_by_the_port(captured, port):
    path, *_ = captured
    plain = their_reading(path)
    assert their_reading(path, "-o", f"vmsgr.port:{port}") == plain


def test_a_capture_that_begins_in_the_middle_is_read_from_the_next_packet_on(captured, directory):
    path, *_ = captured
    tail = f"{directory}/tail.pcap"
    frames = int(tshark(path, only="vmsgr.frame.kind == 4", fields=("frame.number",))[6][0][0])
    process.run(["editcap", "-F", "pcap", "-r", path, tail, f"{frames}-1000000"])
    known = {(row[1], row[2]) for rows in their_reading(path).values() for row in rows if row[0] == w.DATA}
    seen = {(row[1], row[2]) for rows in their_reading(tail).values() for row in rows if row[0] == w.DATA}
    assert seen <= known and len(known - seen) < len(known) / 4


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
def test_tls_is_read_with_the_keys(own_net, directory, monkeypatch):
    monkeypatch.setenv("SSLKEYLOGFILE", f"{directory}/keys")
    ca = certificates.Authority(directory, "ca")
    capture = Capture(own_net["a"], directory)
    with trunks.Pair(own_net, tls={name: ca.sign(name) for name in "ab"}) as p, serve(p, "b", 7403):
        assert ask(p, "a", "10.99.0.2", 7403, "echo", 200_000)["same"]
        counted = p.sessions("a")[0]
    capture.stop()
    os.chmod(f"{directory}/keys", 0o644)
    theirs = their_reading(capture.path, "-o", f"tls.keylog_file:{directory}/keys")
    rows = [row for packets in theirs.values() for row in packets]
    frames = [f for row in rows for f in row[4]]
    carried = sum(length for _, kind, _, length in frames if kind == w.FRAME_DATA)
    assert carried == counted["bytes_in"] + counted["bytes_out"]
    assert sum(kind == w.OPEN for _, kind, _, _ in frames) == 1
    assert {row[0] for row in rows} >= {w.HELLO, w.DATA, w.BYE}
    assert not tshark(capture.path, only="vmsgr.type", fields=("vmsgr.type",))   # and without them nothing


def test_what_is_wrong_is_named_as_the_daemon_names_it(pair, directory):
    reasons = [r for r in LIES if r.startswith("bad_")] + ["beyond_credit"]
    capture = Capture(pair.net["a"], directory)
    with serve(pair, "b", 7402):
        for reason in reasons:
            done = process.run(["/usr/bin/python3", HOSTILE, "10.99.0.2", str(trunks.PORT), reason, "7402"],
                               netns=pair.net["a"], timeout_s=30)
            assert done.stdout == "fine\n"
    capture.stop()
    names = [f"vmsgr.{r}" for r in reasons]
    # The daemons' own trunk was there before; the liars' connections are those whose beginning is in the capture.
    found = {}
    for stream, *hits in tshark(capture.path, fields=("tcp.stream", *names)):
        found.setdefault(int(stream[0]), set()).update(r for r, hit in zip(reasons, hits) if hit)
    begun = [int(s[0][0]) for s in tshark(capture.path, only="vmsgr.lane", fields=("tcp.stream",))]
    assert [found[s] for s in begun] == [{r} for r in reasons]
