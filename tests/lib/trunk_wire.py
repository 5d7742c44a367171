"""The trunk protocol in Python, written from docs/PROTOCOL.md (sections 11 to 13) and from nothing else.

`decode(bytes)` reads what one side sent on a connection after its greeting; the tests compare it with what the engine says,
and the hostile peers of the tests build their packets with it.
"""
import ipaddress
import struct

MAGIC, GREETING_MAGIC, VERSION = 0x4B525456, 0x47525456, 1
HELLO, DATA, DUMMY, ACK, BYE = 1, 2, 3, 4, 5
OPEN, ACCEPT, REFUSE, FRAME_DATA, FIN, RESET, CREDIT = 1, 2, 3, 4, 5, 6, 7
HELLO_BYTES, HEADER_BYTES, FRAME_HEADER_BYTES = 512, 64, 16
_HEADER = struct.Struct("<IHBxQQQQQIIII")
_FRAME = struct.Struct("<QIHBx")
_HELLO = struct.Struct("<QIIIH2xI4x64s")
KNOWS_URGENT, KNOWS_HEADER_CRC = 1, 2   # of a hello
URGENT = 1   # of the value of a data frame: its last byte


class Bad(Exception):
    """Why bytes are no packet."""


def _crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283


def greeting(lane=0, magic=GREETING_MAGIC, version=VERSION):
    return struct.pack("<IHH", magic, version, lane)


def packet(kind, size, *, session, sequence=0, ack=0, stamp=0, echo=0, payload=b"", magic=MAGIC, version=VERSION,
           payload_bytes=None, says_size=None, crc_covers=None):
    """A sealed packet; the named parts may be told to lie."""
    n = len(payload) if payload_bytes is None else payload_bytes
    says = size if says_size is None else says_size

    def head(crc):
        return _HEADER.pack(magic, version, kind, session, sequence, ack, stamp, echo, n, says, crc, 0)
    rest = payload.ljust(size - HEADER_BYTES, b"\0")
    return head(crc32c((head(0) + rest)[:crc_covers])) + rest


def hello(*, session=0, ack=0, node=1, packet_bytes=4096, outage_ms=10000, lane=0, name=b"python", answer=0,
          features=0):
    body = _HELLO.pack(node, packet_bytes, answer, outage_ms, lane, features, name)
    return packet(HELLO, HELLO_BYTES, session=session, ack=ack, payload=body)


def frame(channel, kind, body=b"", value=0, length=None):
    return _FRAME.pack(channel, value, len(body) if length is None else length, kind) + body


def address(text, port):
    ip = ipaddress.ip_address(text)
    return struct.pack("<HHI", ip.version, port, 0) + ip.packed.ljust(16, b"\0")


def open_frame(channel, source, destination, credit=1 << 20):
    return frame(channel, OPEN, address(*source) + address(*destination) + struct.pack("<Q", credit))


class Packet:
    def __init__(self, data, crc_covers=None):
        (magic, version, self.kind, self.session, self.sequence, self.ack, self.stamp, self.echo, payload, size, crc,
         zero) = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise Bad("magic")
        if version != VERSION:
            raise Bad("version")
        if size != len(data):
            raise Bad("size")
        if crc != crc32c(data[:56] + b"\0\0\0\0" + data[60:crc_covers]):
            raise Bad("crc")
        if not HELLO <= self.kind <= BYE:
            raise Bad("type")
        if payload > size - HEADER_BYTES:
            raise Bad("length")
        if zero or any(data[HEADER_BYTES + payload:]):
            raise Bad("what is not named is not zero")
        self.payload = data[HEADER_BYTES:HEADER_BYTES + payload]

    def frames(self):
        """(channel, kind, value, body) each."""
        at = 0
        while at < len(self.payload):
            channel, value, length, kind = _FRAME.unpack_from(self.payload, at)
            at += FRAME_HEADER_BYTES
            if at + length > len(self.payload):
                raise Bad("frame")
            yield channel, kind, value, self.payload[at:at + length]
            at += length

    def hello(self):
        node, packet_bytes, answer, outage_ms, lane, features, name = _HELLO.unpack_from(self.payload)
        return {"node": node, "packet_bytes": packet_bytes, "answer": answer, "outage_ms": outage_ms, "lane": lane,
                "features": features, "name": name.rstrip(b"\0").decode()}


def read_address(body):
    family, port, _ = struct.unpack_from("<HHI", body)
    return str(ipaddress.ip_address(body[8:12] if family == 4 else body[8:24])), port


def decode(data, packet_bytes):
    """All whole packets of a run of packets of one size."""
    return [Packet(data[at:at + packet_bytes]) for at in range(0, len(data) - packet_bytes + 1, packet_bytes)]


class Reader:
    """Follows one direction as a receiver would: duplicates dropped, streams put together by channel."""

    def __init__(self):
        self.received, self.duplicates = 0, 0
        self.streams, self.opened, self.events = {}, {}, []
        self.urgent = {}   # by channel: where the urgent bytes lie in its stream

    def take(self, p):
        if p.kind != DATA:
            return
        if p.sequence <= self.received:
            self.duplicates += 1
            return
        if p.sequence != self.received + 1:
            raise Bad("sequence")
        self.received = p.sequence
        for channel, kind, value, body in p.frames():
            if kind == FRAME_DATA:
                self.streams[channel] = self.streams.get(channel, b"") + body
                if value & URGENT:
                    self.urgent.setdefault(channel, []).append(len(self.streams[channel]) - 1)
            elif kind == OPEN:
                self.opened[channel] = read_address(body), read_address(body[24:])
            else:
                self.events.append((channel, kind, value))
