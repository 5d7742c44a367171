"""Reads a capture without Wireshark: the TCP connections over Ethernet of a classic pcap file, each direction put together."""
import ipaddress
import struct


class Connection:
    """One TCP connection: `client` and `server` are (address, port), `sent` has the bytes of each."""

    def __init__(self, client, server):
        self.client, self.server = client, server
        self.sent = {client: b"", server: b""}


class _Direction:
    def __init__(self, first):
        self.next, self.waiting, self.data = first, {}, bytearray()

    def add(self, sequence, payload):
        """Sequence numbers wrap; what came before is dropped, what comes too early waits."""
        self.waiting[sequence] = max(self.waiting.get(sequence, b""), payload, key=len)
        moved = True
        while moved:
            moved = False
            for at in sorted(self.waiting):
                old = (self.next - at) & 0xFFFFFFFF
                if old < 1 << 31:
                    piece = self.waiting.pop(at)[old:]
                    self.data += piece
                    self.next = (self.next + len(piece)) & 0xFFFFFFFF
                    moved = moved or bool(piece)


def _segments(path):
    """(source, destination, sequence, flags, payload) of each TCP segment."""
    with open(path, "rb") as f:
        data = f.read()
    magic, = struct.unpack_from("<I", data)
    assert magic in (0xA1B2C3D4, 0xA1B23C4D), "no little-endian pcap"
    assert struct.unpack_from("<I", data, 20)[0] == 1, "not Ethernet"
    at = 24
    while at + 16 <= len(data):
        kept, length = struct.unpack_from("<II", data, at + 8)
        assert kept == length, "the capture cut its packets"
        frame = data[at + 16:at + 16 + kept]
        at += 16 + kept
        kind, = struct.unpack_from(">H", frame, 12)
        if kind == 0x0800 and frame[23] == 6:
            start, total = 14 + (frame[14] & 15) * 4, 14 + struct.unpack_from(">H", frame, 16)[0]
            ips = frame[26:30], frame[30:34]
        elif kind == 0x86DD and frame[20] == 6:
            start, total = 54, 54 + struct.unpack_from(">H", frame, 18)[0]
            ips = frame[22:38], frame[38:54]
        else:
            continue
        ports = struct.unpack_from(">HH", frame, start)
        sequence, = struct.unpack_from(">I", frame, start + 4)
        payload = frame[start + (frame[start + 12] >> 4) * 4:total]
        ends = [(str(ipaddress.ip_address(ip)), port) for ip, port in zip(ips, ports)]
        yield ends[0], ends[1], sequence, frame[start + 13], payload


def connections(path):
    """Those whose beginning was captured, in the order of it."""
    found, ways = [], {}
    for source, destination, sequence, flags, payload in _segments(path):
        if flags & 2:   # SYN
            ways[source, destination] = _Direction((sequence + 1) & 0xFFFFFFFF)
            if not flags & 16:
                found.append((source, destination, ways[source, destination], None))
            else:
                at = max(i for i, c in enumerate(found) if c[:2] == (destination, source))
                found[at] = (*found[at][:3], ways[source, destination])
        elif payload and (source, destination) in ways:
            ways[source, destination].add(sequence, payload)
    out = []
    for client, server, there, back in found:
        c = Connection(client, server)
        c.sent = {client: bytes(there.data), server: bytes(back.data) if back else b""}
        out.append(c)
    return out
