"""A peer that lies: `hostile.py ADDRESS PORT REASON`. Speaks correctly up to one point; what happens then is printed."""
import os
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from lib import trunk_wire as w  # noqa: E402

SIZE = 4096


class Peer:
    def __init__(self, address, port, greeting=w.greeting(), bound=None):
        self.sock = socket.create_connection((address, port), timeout=10, source_address=bound and (bound, 0))
        self.sock.sendall(greeting)
        self.sequence = 0

    def receive(self, n):
        data = b""
        while len(data) < n:
            piece = self.sock.recv(n - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def hello(self, **keys):
        self.sock.sendall(w.hello(**keys))
        answer = w.Packet(self.receive(w.HELLO_BYTES))
        self.session, self.sequence = answer.session, answer.ack
        return answer.hello()["answer"]

    def packet(self, payload=b"", kind=w.DATA, size=SIZE, sequence=None, **keys):
        if kind == w.DATA and sequence is None:
            self.sequence += 1
        keys.setdefault("session", self.session)
        return w.packet(kind, size, sequence=self.sequence if sequence is None else sequence, payload=payload, **keys)

    def send(self, *args, **keys):
        self.sock.sendall(self.packet(*args, **keys))

    def frames_until(self, kind):
        while True:
            for channel, what, value, body in w.Packet(self.receive(SIZE)).frames():
                if what == kind:
                    return channel, value, body

    def closed(self):
        """The other side has ended the connection."""
        try:
            while True:
                self.receive(1)
        except (EOFError, ConnectionResetError):
            return True
        except TimeoutError:
            return False


    def keeps_alive(self):
        """A dummy; False where the connection has ended meanwhile."""
        try:
            self.send(kind=w.DUMMY, sequence=0, stamp=77)
            return True
        except OSError:
            return False

    def is_closed(self):
        self.sock.settimeout(0.01)
        return self.closed()

    def stream_until_fin(self, channel):
        """All that comes on a channel, packets that come again taken once."""
        data, last = b"", 0
        while True:
            packet = w.Packet(self.receive(SIZE))
            if packet.kind != w.DATA or packet.sequence <= last:
                continue
            last = packet.sequence
            for of, what, _, body in packet.frames():
                if of == channel and what == w.FRAME_DATA:
                    data += body
                elif of == channel and what == w.FIN:
                    return data


def corrupt(packet):
    return packet[:1000] + bytes([packet[1000] ^ 1]) + packet[1001:]


def in_session(address, port, send):
    p = Peer(address, port)
    assert p.hello() == 0
    send(p)
    return p.closed()


LIES = {
    "bad_magic": lambda p: p.send(magic=1),
    "bad_version": lambda p: p.send(version=9),
    "bad_size": lambda p: p.send(says_size=512),
    "bad_crc": lambda p: p.sock.sendall(corrupt(p.packet())),
    "bad_type": lambda p: p.send(kind=9),
    "bad_length": lambda p: p.send(payload_bytes=SIZE),
    "bad_cookie": lambda p: p.send(session=p.session ^ 1),
    "bad_sequence": lambda p: p.send(sequence=5),
    "bad_ack": lambda p: p.send(ack=7),
    "bad_frame": lambda p: p.send(w.frame(1, 77, b"x")),
    "bad_channel": lambda p: p.send(w.frame(9, w.FRAME_DATA, b"x")),
    "another_size": lambda p: p.send(size=2 * SIZE),
    "truncated": lambda p: (p.sock.sendall(p.packet()[:1000]), p.sock.shutdown(socket.SHUT_WR)),
}


REASONS = {lie: lie for lie in LIES} | {"another_size": "bad_size"}


def not_delivered(address, port, server):
    """Data in packets that lie never come to the program, and the session goes on after each of them."""
    wrong = w.frame(1, w.FRAME_DATA, b"WRONG")
    p = Peer(address, port)
    assert p.hello() == 0
    session = p.session
    p.send(w.open_frame(1, ("10.99.0.1", 5000), (address, server)))
    p.frames_until(w.ACCEPT)
    p.send(w.frame(1, w.FRAME_DATA, b"e"))   # an echo
    for lie in (dict(magic=1), dict(version=9), dict(says_size=512), dict(size=2 * SIZE), dict(payload_bytes=SIZE),
                dict(session=session ^ 1), dict(sequence=9), dict(ack=7), "corrupt", "truncated"):
        if lie == "corrupt":
            p.sock.sendall(corrupt(p.packet(wrong)))
        elif lie == "truncated":
            p.sock.sendall(p.packet(wrong)[:1000])
            p.sock.shutdown(socket.SHUT_WR)
        else:
            p.send(wrong, **lie)
        if not p.closed():
            return False
        p = Peer(address, port)
        assert p.hello(session=session) == 0 and p.session == session and p.sequence == 2, lie
    p.send(wrong, sequence=2)   # a duplicate
    p.send(w.frame(1, w.FRAME_DATA, b"right") + w.frame(1, w.FIN))
    return p.stream_until_fin(1) == b"right"


def beyond_credit(address, port, server):
    p = Peer(address, port)
    assert p.hello() == 0
    p.send(w.open_frame(1, ("10.99.0.1", 5000), (address, server)))
    _, _, body = p.frames_until(w.ACCEPT)
    credit, = struct.unpack("<Q", body)
    sent, block = 0, b"s" * (SIZE - w.HEADER_BYTES - w.FRAME_HEADER_BYTES)
    while sent <= credit:
        p.send(w.frame(1, w.FRAME_DATA, block))
        sent += len(block)
    _, value, _ = p.frames_until(w.RESET)
    return value == 71   # EPROTO


def refused(address, port, to, server):
    """An open for an address that peers do not reach."""
    p = Peer(address, port)
    assert p.hello() == 0
    p.send(w.open_frame(1, ("10.99.0.1", 5000), (to, server)))
    return p.frames_until(w.REFUSE)[1] == 113   # EHOSTUNREACH


def served(address, port, to, server):
    p = Peer(address, port)
    assert p.hello() == 0
    p.send(w.open_frame(1, ("10.99.0.1", 5000), (to, server)))
    return p.frames_until(w.ACCEPT)[0] == 1


def claims(address, port, source, to, server, what, bound=None):
    """An open that says it comes from `source`. The peer itself connects from `bound`."""
    p = Peer(address, port, bound=bound)
    assert p.hello() == 0
    p.send(w.open_frame(1, (source, 5000), (to, server)))
    kind = {"accept": w.ACCEPT, "refuse": w.REFUSE}[what]
    value = p.frames_until(kind)[1]
    return what == "accept" or value == 113   # EHOSTUNREACH


def steal(address, port, mine, theirs):
    """Another host that knows the cookie of a session, and the number of its daemon, gets neither."""
    p = Peer(address, port, bound=mine)
    assert p.hello(node=4711) == 0
    thief = Peer(address, port, bound=theirs)
    unknown = thief.hello(session=p.session) == 1
    other = Peer(address, port, bound=theirs)
    return unknown and other.hello(node=4711) == 0 and p.keeps_alive() and not p.is_closed()


def share_of_a_peer(address, port, mine, other, server, limit):
    """Opens more than a peer may have, in two sessions. Another peer gets on; what is given back can be had again."""
    def opened(p, channel, source):
        p.send(w.open_frame(channel, (source, 5000 + channel), (address, server)))
        while True:
            for of, what, value, _ in w.Packet(p.receive(SIZE)).frames():
                if of == channel and what in (w.ACCEPT, w.REFUSE):
                    return what == w.ACCEPT, value
    sessions = [Peer(address, port, bound=mine) for _ in range(2)]
    assert [p.hello(node=n + 1) for n, p in enumerate(sessions)] == [0, 0]
    outcomes = [opened(sessions[i % 2], i // 2 + 1, mine) for i in range(limit + 10)]
    assert outcomes == [(True, 0)] * limit + [(False, 113)] * 10, outcomes   # EHOSTUNREACH
    another = Peer(address, port, bound=other)
    assert another.hello(node=3) == 0 and opened(another, 1, other)[0]
    sessions[0].send(w.frame(1, w.RESET, value=104))
    until = time.monotonic() + 5
    channel = limit // 2 + 6
    while not opened(sessions[0], channel, mine)[0]:
        assert time.monotonic() < until
        channel += 1
        time.sleep(0.05)
    return True


def late(address, port):
    """Says its greeting after 2 s and no hello: one limit of 3 s holds for both."""
    began = time.monotonic()
    p = Peer(address, port, b"")
    time.sleep(2)
    p.sock.sendall(w.greeting())
    closed = p.closed()
    return closed and 2.5 < time.monotonic() - began < 4.5


def crowd(address, port, n, served):
    """n connections that say a greeting and no hello. Those beyond `served` are closed at once, the others after the limit;
    then there is room again."""
    all_of_them = [Peer(address, port) for _ in range(n)]
    time.sleep(1)
    kept = sum(not p.is_closed() for p in all_of_them)
    time.sleep(4)
    return kept == served and all(p.is_closed() for p in all_of_them) and Peer(address, port).hello() == 0


def older(address, port):
    """Connections of one session at once: a newcomer ends the one before, and a single one runs the session in the end."""
    p = Peer(address, port)
    assert p.hello() == 0
    session = p.session
    peers = [Peer(address, port) for _ in range(8)]
    for q in peers:   # all hellos are under way before an answer is read
        q.sock.sendall(w.hello(session=session))
        q.session = session
    left = [p, *peers]
    for _ in range(20):   # who says nothing is given up, so each that is left goes on talking
        time.sleep(0.05)
        left = [q for q in left if not q.is_closed() and q.keeps_alive()]
    return len(left) == 1 and left[0] is not p


def main():
    address, port, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if what == "beyond_credit":
        fine = beyond_credit(address, port, int(sys.argv[4]))
    elif what == "not_delivered":
        fine = not_delivered(address, port, int(sys.argv[4]))
    elif what == "greeting":
        fine = Peer(address, port, w.greeting(magic=5)).closed() and Peer(address, port, w.greeting(version=5)).closed()
    elif what == "unknown_session":
        fine = Peer(address, port).hello(session=12345) == 1
    elif what == "bad_hello":
        p = Peer(address, port)
        p.sock.sendall(corrupt(w.hello() + bytes(1000))[:w.HELLO_BYTES - 1] + b"x")
        fine = p.closed()
    elif what == "silence":
        fine = Peer(address, port).closed()
    elif what == "refused":
        fine = refused(address, port, sys.argv[4], int(sys.argv[5]))
    elif what == "served":
        fine = served(address, port, sys.argv[4], int(sys.argv[5]))
    elif what == "claims":
        fine = claims(address, port, *sys.argv[4:6], int(sys.argv[6]), *sys.argv[7:])
    elif what == "steal":
        fine = steal(address, port, *sys.argv[4:6])
    elif what == "share":
        fine = share_of_a_peer(address, port, *sys.argv[4:6], *map(int, sys.argv[6:8]))
    elif what == "late":
        fine = late(address, port)
    elif what == "crowd":
        fine = crowd(address, port, int(sys.argv[4]), int(sys.argv[5]))
    elif what == "older":
        fine = older(address, port)
    else:
        fine = in_session(address, port, LIES[what])
    print("fine" if fine else "not fine")


if __name__ == "__main__":
    main()
