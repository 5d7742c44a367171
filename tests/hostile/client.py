"""A client of vmsgrd made by hand from docs/PROTOCOL.md (sections 1 to 9), which says everything that it needs. It uses no
library of the project, so what it is refused is refused by the other side. All of it may lie: each part of a message can be
given another value.
"""
import fcntl
import json
import mmap
import os
import socket
import struct
import threading
import time

CONTROL_MAGIC, CONTROL_VERSION, LAYOUT, DIAL_VERSION = 0x52474D56, 4, 6, 1
ARENA_MAGIC, REGISTRY_MAGIC, DIAL_MAGIC = 0x00616E6572615600, 0x7473696765725673, 0x4C494456
HELLO, LISTEN, CONNECT, UNLIST, BORROW, ADOPT, DEPOSIT, SETTLED, STATUS, ROUTES = 1, 10, 11, 12, 20, 21, 22, 23, 30, 31
PROGRAM, QUERY = 1, 2
BY_DAEMON, PLAIN, TRUNK, KEEP_PORT = 1, 2, 4, 8
NO_SLOT = 0xFFFFFFFF
FIN, RESET = 1, 2
ACCEPTED, READ_SHUT, RECALLED, LEFT, SHARED, DONE = 1, 2, 4, 8, 16, 32
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
SO_MAX_PACING_RATE, SO_NETNS_COOKIE = 47, 71
TOKEN = b"\xb7"
BELL_BYTES = 6144
JOBS_AT, JOB_BYTES = 128, 96
BY_TRUNK = 1
ENTRIES_AT, ENTRY_BYTES, ENTRIES = 64, 128, 4096
ARENA_HEADER, CONDUIT_HEADER, CLOSED_AT = 128, 576, 64
# Within a conduit header, and within the words of a ring.
STATUS_AT, END_AT, RING_AT = 0, (64, 128), (192, 384)
HEAD, TOKENS, FLAGS, ERROR, BASE, URGENT, TAIL, WINDOW, WAITS = 0, 8, 12, 16, 24, 32, 64, 72, 128


def address(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return struct.pack("=HHI16s", family, port, 0, socket.inet_pton(family, host))


def number(fd):
    return fd if isinstance(fd, int) else fd.fileno()


class Session:
    """One attached process."""

    def __init__(self, path, *, kind=PROGRAM, version=CONTROL_VERSION, timeout_s=10, features=0):
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The kernel waits where the daemon's queue is full.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", timeout_s, 0))
        self.sock.connect(path)
        self.sock.settimeout(timeout_s)
        self.sock.send(struct.pack("=IHHQH6x32s", CONTROL_MAGIC, HELLO, version, features, kind,
                                   b"by-hand"))
        data, fds, _, _ = socket.recv_fds(self.sock, 4096, 8)
        _, _, _, status, self.ring_bytes, _, self.id, size, text = struct.unpack("=IHHiIQQQ168s", data)
        if status:
            raise OSError(status, text.rstrip(b"\0").decode())
        if kind == PROGRAM:
            self.segment_fd, self.registry_fd = fds
            self.segment = mmap.mmap(fds[0], size)
            self.registry = mmap.mmap(fds[1], 0, prot=mmap.PROT_READ)
        self._ids = 0

    def next_id(self):
        self._ids += 1
        return self.id << 32 | self._ids

    def request(self, kind, fds=(), *, slot=0, id=0, fd=-1, flags=0, backlog=16, route=b"by-hand", data=b""):
        message = struct.pack("=IHHIIQiII4x32s64s", CONTROL_MAGIC, kind, 0, slot, 0, id, fd, flags, backlog, route, data)
        self.send_raw(message, fds)

    def send_raw(self, message, fds=()):
        socket.send_fds(self.sock, [message], [number(fd) for fd in fds])

    def reply(self):
        """(status, id, data, fds); EOFError when the daemon has ended the session."""
        try:
            message, fds, _, _ = socket.recv_fds(self.sock, 4096, 8)
        except ConnectionResetError:
            message = b""
        if not message:
            raise EOFError("the session has ended")
        _, _, _, status, _, _, id, data = struct.unpack_from("=IHHiIQQ64s", message)
        return status, id, data, fds

    def ask(self, kind, fds=(), **what):
        try:
            self.request(kind, fds, **what)
        except (BrokenPipeError, ConnectionResetError):
            raise EOFError("the session has ended") from None
        return self.reply()

    def stands(self):
        """Whether the daemon still keeps this session."""
        try:
            return self.ask(SETTLED)[0] == 0
        except EOFError:
            return False

    def document(self):
        """The rest of one that was asked for."""
        text = b""
        while True:
            message = self.sock.recv(1 << 16)
            if not message:
                raise EOFError("the session has ended")
            _, _, _, status, _, size, _, _ = struct.unpack_from("=IHHiIQQ64s", message)
            if status:
                raise OSError(status, "a document")
            if not size:
                return text
            text += message[96:96 + size]

    def status(self):
        self.request(STATUS)
        return json.loads(self.document())

    # Listeners

    def listeners(self):
        used = min(struct.unpack_from("=I", self.registry, 16)[0], ENTRIES)
        found = []
        for at in range(ENTRIES_AT, ENTRIES_AT + used * ENTRY_BYTES, ENTRY_BYTES):
            id, netns, family, port, _, ip, flags, door = struct.unpack_from("=QQHHI16sI4x24s", self.registry, at)
            if id:
                host = socket.inet_ntop(family, ip[:4] if family == socket.AF_INET else ip)
                found.append({"id": id, "netns": netns, "host": host, "port": port, "flags": flags,
                              "door": f"{self.path}.d/{door.split(bytes(1))[0].decode()}"})
        return found

    def listener(self, port, timeout_s=5):
        until = time.monotonic() + timeout_s
        while True:
            for found in self.listeners():
                if found["port"] == port:
                    return found
            assert time.monotonic() < until, f"nobody listens on port {port}"
            time.sleep(0.02)

    def listen(self, tcp, backlog=16):
        """(id, door, lifeline, secret)"""
        status, id, data, fds = self.ask(LISTEN, [tcp], fd=number(tcp), backlog=backlog)
        if status:
            raise OSError(status, "listen")
        return id, socket.socket(fileno=fds[0]), socket.socket(fileno=fds[1]), data[:16]

    # Connections that the daemon carries

    def connect_through_daemon(self, host, port):
        """(id, end): a connection that the daemon carries, as an honest program makes it."""
        bell, other = socket.socketpair()
        for side in (bell, other):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BELL_BYTES)
        bell.send(TOKEN)
        tcp = socket.create_connection((host, port))
        arena = Arena()
        id = self.post_connect(host, port, [other, tcp, arena])
        other.close()
        return id, End(bell, arena)

    def connect_by_trunk(self, bound_socket, host, port):
        """An end whose way the daemon is to find, with a socket that is only bound."""
        bell, other = socket.socketpair()
        for side in (bell, other):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BELL_BYTES)
        bell.send(TOKEN)
        arena = Arena()
        self.post_connect(host, port, [other, bound_socket, arena], flags=BY_TRUNK)
        other.close()
        return End(bell, arena)

    def post_connect(self, host, port, fds, *, slot_of_arena=0, job=0, id=None, flags=0):
        id = self.next_id() if id is None else id
        struct.pack_into("=IiQ24s32sII16x", self.segment, JOBS_AT + job * JOB_BYTES, 2, 99, id, address(host, port),
                         b"by-hand", slot_of_arena, flags)
        self.request(CONNECT, fds, slot=job, id=id)
        return id


def memory(size, seals=SEALS, flags=0):
    fd = os.memfd_create("by-hand", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    os.ftruncate(fd, size)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def rings_at(slots):
    return (ARENA_HEADER + CONDUIT_HEADER * slots + 4095) // 4096 * 4096


class Arena:
    """Memory of `slots` conduits with two rings of `ring` bytes each. size, seals and said: the lies."""

    def __init__(self, slots=4, ring=4096, *, size=None, seals=SEALS, **said):
        self.slots, self.ring = slots, ring
        self.bytes = rings_at(slots) + slots * 2 * ring
        size = self.bytes if size is None else size
        self.fd = memory(size, 0)
        self.map = mmap.mmap(self.fd, size) if size else None
        says = {"magic": ARENA_MAGIC, "version": LAYOUT, "slots": slots, "ring": ring, "bytes": self.bytes, **said}
        if size >= CLOSED_AT:
            struct.pack_into("=QH2xII4xQ", self.map, 0, says["magic"], says["version"], says["slots"], says["ring"],
                             says["bytes"])
        for slot in range(slots):
            for ring_at in RING_AT:
                if self.at(slot) + CONDUIT_HEADER <= size:
                    self.put(self.at(slot) + ring_at + WAITS, 1)
        if seals:
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)

    def at(self, slot):
        return ARENA_HEADER + CONDUIT_HEADER * slot

    def data_at(self, slot, ring):
        return rings_at(self.slots) + (slot * 2 + ring) * self.ring

    def put(self, at, value, form="=I"):
        """In one piece: pack_into() would clear the word first, and the other side may look at any moment."""
        size = struct.calcsize(form)
        self.map[at:at + size] = struct.pack(form, value % (1 << 8 * size))

    def get(self, at, form="=I"):
        return struct.unpack_from(form, self.map, at)[0]

    def fileno(self):
        return self.fd


class End:
    """End 0 of a conduit: the side that has connected."""

    def __init__(self, bell, arena, slot=0):
        self.bell, self.arena, self.slot = bell, arena, slot
        self.sent = self.taken = 0

    def word(self, ring, name):
        return self.arena.at(self.slot) + RING_AT[ring] + name

    def put(self, ring, name, value, form="=I"):
        self.arena.put(self.word(ring, name), value, form)

    def get(self, ring, name, form="=I"):
        return self.arena.get(self.word(ring, name), form)

    def flag(self, end, flags):
        self.arena.put(self.arena.at(self.slot) + END_AT[end], flags)

    def fileno(self):
        return self.bell.fileno()

    def was_turned_away(self):
        """Whether the acceptor closed the doorbell before it took the hello."""
        try:
            self.bell.send(b"")
            return False
        except (BrokenPipeError, ConnectionResetError):
            return not self.arena.get(self.arena.at(self.slot) + END_AT[1]) & ACCEPTED

    def outcome(self, timeout_s=5):
        """Of a connect: 0, an errno, or None while it is not decided."""
        at, until = self.arena.at(self.slot), time.monotonic() + timeout_s
        while time.monotonic() < until:
            if status := self.arena.get(at + STATUS_AT):
                return self.arena.get(at + STATUS_AT + 4, "=i") if status == 2 else 0
            time.sleep(0.01)
        return None

    def publish(self, data):
        """Bytes and the head, without a token."""
        size, begin = self.arena.ring, self.arena.data_at(self.slot, 0)
        for byte in data:
            self.arena.map[begin + self.sent % size] = byte
            self.sent += 1
        self.put(0, HEAD, self.sent, "=Q")

    def ring_bell(self, rights=()):
        """A counted token, whether the other side waits or not."""
        self.put(0, WAITS, 0)
        self.put(0, TOKENS, self.get(0, TOKENS) + 1)
        socket.send_fds(self.bell, [TOKEN], [number(fd) for fd in rights], socket.MSG_DONTWAIT)

    def ring_after_lie(self, rights=()):
        """The other side may have seen the lie already, and ended the connection."""
        try:
            self.ring_bell(rights)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def send(self, data):
        self.publish(data)
        if self.get(0, WAITS):
            self.ring_bell()

    def receive(self, count, timeout_s=5):
        """Exactly so many bytes, by looking: no tokens are wanted."""
        self.put(1, WAITS, 0)
        size, begin, out = self.arena.ring, self.arena.data_at(self.slot, 1), bytearray()
        until = time.monotonic() + timeout_s
        while len(out) < count:
            head, base = self.get(1, HEAD, "=Q"), self.get(1, BASE, "=Q")
            while self.taken < head and len(out) < count:
                out.append(self.arena.map[begin + (self.taken - base) % size])
                self.taken += 1
            self.put(1, TAIL, self.taken, "=Q")
            if len(out) < count:
                if time.monotonic() > until:
                    raise TimeoutError(f"{len(out)} of {count} bytes came")
                time.sleep(0.001)
        return bytes(out)

    def echo(self, data=b"hello", timeout_s=5):
        self.send(data)
        return self.receive(len(data), timeout_s) == data

    def close(self):
        self.put(0, FLAGS, self.get(0, FLAGS) | FIN)
        self.flag(0, LEFT | DONE)
        self.bell.close()


def bound(host="127.0.0.1", port=0, type=socket.SOCK_STREAM, *options):
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, type)
    for level, name, value in options:
        s.setsockopt(level, name, value)
    s.bind((host, port))
    return s


def knock(door):
    """A connection to a door that says nothing. Waits where its queue is full."""
    s = socket.socket(socket.AF_UNIX)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BELL_BYTES)
    s.connect(door)
    s.settimeout(5)
    return s


def hello(local, peer, *, magic=DIAL_MAGIC, version=DIAL_VERSION, flags=0, slot=0, shown=NO_SLOT, id=0, secret=b""):
    return struct.pack("=IHHIIQ24s24s16s", magic, version, flags, slot, shown, id, local, peer, secret)


def say(door, message, fds, tries=200):
    """Dials and says it. The dialler's end, or None where the acceptor turns it away each time."""
    for _ in range(tries):
        bell = knock(door)
        try:
            socket.send_fds(bell, [message], [number(fd) for fd in fds])
            return bell
        except (BrokenPipeError, ConnectionResetError):
            bell.close()
    return None


def dial(listener, *, arena=None, slot=0, source=None, to=None, said_source=None, fds=None, **said):
    """Connects as an honest program does, but for what is given. An End. What is honest is said again where the acceptor had
    just turned to the next one: it does not wait long for a stranger's hello (PROTOCOL 7)."""
    honest = fds is None and said_source is None and not said
    arena = Arena() if arena is None else arena
    host = listener["host"] if to is None else to[0]
    if to is None and host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    source = bound(host) if source is None else source
    name = source.getsockname()[:2] if said_source is None else said_source
    to = (host, listener["port"]) if to is None else to
    message = hello(address(*to), address(*name), slot=slot, **said)
    bell = say(listener["door"], message, [source, arena] if fds is None else fds)
    assert bell is not None, "the acceptor turns everybody away"
    end = End(bell, arena, slot)
    end.port = source
    if honest and end.was_turned_away():
        bell.close()
        return dial(listener, arena=arena, slot=slot, source=source, to=to)
    return end


def over(end, timeout_s=5):
    """Whether the other side closes this end."""
    sock = end if isinstance(end, socket.socket) else end.bell
    sock.settimeout(timeout_s)
    try:
        while True:
            if sock.recv(64) == b"":
                return True
    except (ConnectionResetError, BrokenPipeError):
        return True
    except TimeoutError:
        return False


def lingering(seconds):
    """A TCP socket whose last close() waits so long, and what it needs to do so."""
    there = bound()
    there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    there.listen(1)
    s = socket.create_connection(there.getsockname())
    peer, _ = there.accept()
    make_linger(s, seconds)
    return s, (there, peer)


def make_linger(s, seconds):
    """From now on the last close() of a connected socket waits so long: its peer reads nothing."""
    s.setblocking(False)
    try:
        while True:
            s.send(bytes(65536))
    except BlockingIOError:
        pass
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))


def close_aside(s):
    """Where the other side was faster, this is the last close, and waits itself."""
    threading.Thread(target=s.close, daemon=True).start()
