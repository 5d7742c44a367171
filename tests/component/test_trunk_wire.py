"""Bytes of the trunk engine, read by a decoder that was written from docs/PROTOCOL.md alone."""
import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from lib import process, trunk_wire as wire  # noqa: E402

UNIT = os.path.join(os.environ.get("VMSGR_BIN", os.path.join(process.ROOT, "build/release/bin")), "unit_trunk")
pytestmark = pytest.mark.fast


def pattern(channel, n):
    return bytes((i * 7 + i // 251 + channel * 13 + 5) & 0xFF for i in range(n))


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    path = tmp_path_factory.mktemp("trunk") / "capture"
    process.run([UNIT, "--gtest_filter=capture.*"], env={"VMSGR_CAPTURE": str(path)}, timeout_s=30)
    return path.read_bytes()


def test_the_document_describes_what_the_engine_sends(capture):
    first = wire.Packet(capture[:wire.HELLO_BYTES])
    assert first.kind == wire.HELLO and first.session == 0
    assert first.hello() == {"node": 42, "packet_bytes": 1024, "answer": 0, "outage_ms": 5000, "lane": 1,
                             "features": wire.KNOWS_URGENT, "name": "capture"}
    packets = wire.decode(capture[wire.HELLO_BYTES:], 1024)
    assert len(packets) * 1024 == len(capture) - wire.HELLO_BYTES
    assert {p.session for p in packets} == {4711}
    reader = wire.Reader()
    for p in packets:
        reader.take(p)
    assert reader.opened == {1: (("10.0.0.1", 4000), ("10.0.0.2", 80)), 2: (("10.0.0.1", 4000), ("10.0.0.2", 80))}
    assert reader.streams == {1: pattern(1, 301), 2: pattern(2, 5000)}
    assert reader.urgent == {1: [300]}
    assert reader.duplicates > 0
    assert (1, wire.FIN, 0) in reader.events and (2, wire.RESET, 104) in reader.events
    assert (1, wire.CREDIT, 0) in reader.events
    assert [p.kind for p in packets if p.kind != wire.DATA] == [wire.DUMMY, wire.BYE]
    assert packets[-2].stamp == 1_500_000


def test_a_changed_byte_is_found(capture):
    packet = bytearray(capture[wire.HELLO_BYTES:wire.HELLO_BYTES + 1024])
    packet[700] ^= 1
    with pytest.raises(wire.Bad, match="crc"):
        wire.Packet(bytes(packet))


def test_packets_made_here_are_read_here():
    p = wire.Packet(wire.packet(wire.DATA, 1024, session=5, sequence=3,
                                payload=wire.open_frame(1, ("10.0.0.1", 1), ("fd00::2", 2))))
    ((channel, kind, value, body),) = p.frames()
    assert (channel, kind, value, len(body)) == (1, wire.OPEN, 0, 56)
    assert wire.read_address(body[24:]) == ("fd00::2", 2)
