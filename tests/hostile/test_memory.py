"""What lies in shared memory is the attacker's, before, while and after it is used: each lie ends his own connection at most."""
import ctypes
import fcntl
import mmap
import os
import random
import socket
import struct
import threading
import time

import client
import conftest
import people
from client import Arena, Session, dial, memory
from test_hello import honest_after, keep, refused_by_the_victim

MFD_HUGETLB = 4
RING = 4096


def sealed_otherwise(seals):
    return lambda: Arena(seals=seals)


ARENAS = {
    "unsealed": lambda: Arena(seals=0),
    "can shrink": sealed_otherwise(client.SEALS & ~fcntl.F_SEAL_SHRINK),
    "can grow": sealed_otherwise(client.SEALS & ~fcntl.F_SEAL_GROW),
    "can be sealed further": sealed_otherwise(client.SEALS & ~fcntl.F_SEAL_SEAL),
    "cannot be written": lambda: sealed_for_reading(),
    "huge pages": lambda: huge(),
    "empty": lambda: Arena(size=0),
    "one byte": lambda: Arena(size=1),
    "a page": lambda: Arena(size=4096),
    "a byte too short": lambda: Arena(size=Arena().bytes - 1),
    "a page too long": lambda: Arena(size=Arena().bytes + 4096),
    "a file": lambda: os.open("/etc/hostname", os.O_RDONLY),
    "a folder": lambda: os.open("/", os.O_RDONLY),
    "zeros": lambda: os.open("/dev/zero", os.O_RDWR),
    "for reading only": lambda: os.open(f"/proc/self/fd/{Arena().fd}", os.O_RDONLY),
    "its name": lambda: os.open(f"/proc/self/fd/{Arena().fd}", os.O_PATH),
    "other magic": lambda: Arena(magic=1),
    "other layout": lambda: Arena(version=client.LAYOUT + 1),
    "no slots": lambda: Arena(slots=0),
    "no slots, it says": lambda: said_later(slots=0),
    "65 slots": lambda: Arena(slots=65),
    "more slots than it has": lambda: said_later(slots=5),
    "slots without end": lambda: said_later(slots=0xFFFFFFFF),
    "rings of 4095": lambda: said_later(ring=4095),
    "rings of 5000": lambda: Arena(ring=5000),
    "rings of 2048": lambda: Arena(ring=2048),
    "rings of nothing": lambda: said_later(ring=0),
    "rings of 8192, it says": lambda: said_later(ring=8192),
    "rings of 2 GiB": lambda: said_later(ring=1 << 31),
    "another size, it says": lambda: said_later(bytes=4096),
    "a size without end": lambda: said_later(bytes=(1 << 64) - 1),
    "a session": lambda: "segment",
    "the registry": lambda: "registry",
}


def said_later(**said):
    return Arena(**{}, seals=client.SEALS) if not said else lie(said)


def lie(said):
    """Right in size, wrong in what its header says."""
    arena = Arena()
    places = {"slots": (12, "=I"), "ring": (16, "=I"), "bytes": (24, "=Q")}
    for name, value in said.items():
        arena.put(places[name][0], value, places[name][1])
    return arena


def sealed_for_reading():
    arena = Arena(seals=0)
    arena.map.close()
    fcntl.fcntl(arena.fd, fcntl.F_ADD_SEALS, client.SEALS | fcntl.F_SEAL_WRITE)
    return arena


def huge():
    try:
        fd = os.memfd_create("huge", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | MFD_HUGETLB)
        os.ftruncate(fd, 2 << 20)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, client.SEALS)
        return fd
    except OSError:
        return os.open("/dev/null", os.O_RDWR)   # no huge pages here


def test_memory_that_is_none(world):
    def part(path):
        session = Session(path)
        listener = session.listener(conftest.PORT)
        yield honest_after(listener)
        names, sources, slowest = [], [], 0
        for name, make in ARENAS.items():
            arena = make()
            arena = {"segment": session.segment_fd, "registry": session.registry_fd}.get(arena, arena) \
                if isinstance(arena, str) else arena
            source = client.bound()
            sources.append(list(source.getsockname()))
            keep.append((arena, source, dial(listener, source=source, fds=[source, arena])))
            slowest = max(slowest, honest_after(listener))
            names.append(name)
        for slot in (4, 5, 63, 64, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
            arena, source = Arena(), client.bound()
            sources.append(list(source.getsockname()))
            message = client.hello(client.address(conftest.HOST, conftest.PORT), client.address(*source.getsockname()),
                                   slot=slot)
            keep.append((arena, source, client.say(listener["door"], message, [source, arena])))
            slowest = max(slowest, honest_after(listener))
        yield names, slowest
        yield sources
    refused_by_the_victim(world, part)


def test_memory_that_the_daemon_is_given(world):
    """The same against the daemon: the session that sends it ends, or the connection."""
    def part(path):
        for name, make in ARENAS.items():
            session = Session(path)
            arena = make()
            if isinstance(arena, str):
                arena = session.segment_fd if arena == "segment" else session.registry_fd
            bell, other = socket.socketpair()
            tcp = socket.create_connection((conftest.HOST, conftest.PLAIN_PORT))
            session.post_connect(conftest.HOST, conftest.PLAIN_PORT, [other, tcp, arena])
            yield name, session.stands()
        for slot in (4, 64, 0xFFFFFFFF):
            session = Session(path)
            bell, other = socket.socketpair()
            tcp = socket.create_connection((conftest.HOST, conftest.PLAIN_PORT))
            session.post_connect(conftest.HOST, conftest.PLAIN_PORT, [other, tcp, Arena()], slot_of_arena=slot)
            yield f"slot {slot}", session.stands()
    with world.attacker(part) as attacker:
        stood = [name for name, stands in (attacker.next() for _ in range(len(ARENAS) + 3)) if stands]
        assert stood == []


def test_shrunk_while_it_is_used(world):
    """What could be shrunk would end the victim with SIGBUS."""
    def part(path):
        listener = Session(path).listener(conftest.PORT)
        end = dial(listener)
        assert end.echo()
        outcomes = []
        for what in (lambda: os.ftruncate(end.arena.fd, 0), lambda: os.ftruncate(end.arena.fd, 4096),
                     lambda: fcntl.fcntl(end.arena.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_FUTURE_WRITE)):
            try:
                what()
                outcomes.append("done")
            except OSError:
                outcomes.append("refused")
        # This gives pages back; they come again as zeros.
        libc = ctypes.CDLL(None)
        libc.fallocate(end.arena.fd, 3, ctypes.c_long(0), ctypes.c_long(end.arena.bytes))
        end.bell.send(client.TOKEN)
        yield outcomes
    with world.attacker(part) as attacker:
        assert attacker.next() == ["refused"] * 3


INDICES = [1, RING, RING + 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 63, (1 << 64) - 1, (1 << 64) - RING]


def test_indices_out_of_range(world):
    """Heads beyond the ring, tails beyond the head, both going back; before the first byte and after it."""
    def part(path):
        listener = Session(path).listener(conftest.PORT)
        slowest = 0
        for talked in (False, True):
            for ring, name in ((0, client.HEAD), (1, client.TAIL)):
                for value in INDICES:
                    end = dial(listener)
                    if talked:
                        assert end.echo(b"x" * 100)
                    end.put(ring, name, value, "=Q")
                    if ring:
                        end.publish(b"y" * 200)   # the answer meets the tail
                    end.ring_after_lie()
                    keep.append(end)
                slowest = max(slowest, honest_after(listener))
        yield slowest
    with world.attacker(part) as attacker:
        assert attacker.next(60) < conftest.PATIENCE_S


def test_every_word_of_a_conduit(world):
    """Each flag and count set to everything it should not be, by both ends' words, in use."""
    def part(path):
        listener = Session(path).listener(conftest.PORT)
        slowest = 0
        words = [client.STATUS_AT, client.STATUS_AT + 4, *client.END_AT]
        words += [at + name for at in client.RING_AT for name in (client.TOKENS, client.FLAGS, client.ERROR, client.WAITS,
                                                                    client.BASE, client.BASE + 4, client.URGENT,
                                                                    client.WINDOW)]
        for at in words:
            for value in (1, 2, 4, 8, 32, 40, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
                end = dial(listener)
                assert end.echo(b"before")
                end.arena.put(end.arena.at(0) + at, value)
                end.publish(b"after")
                try:
                    end.ring_bell()
                    if value % 3 == 0:
                        end.bell.close()
                except (BrokenPipeError, ConnectionResetError, BlockingIOError):
                    pass
                keep.append(end)
            slowest = max(slowest, honest_after(listener))
        yield slowest
    with world.attacker(part) as attacker:
        assert attacker.next(90) < conftest.PATIENCE_S


def test_the_arena_says_something_else_later(world):
    """Slots and sizes changed after the check, closed, and more connections in it."""
    def part(path):
        listener = Session(path).listener(conftest.PORT)
        outcomes = []
        for at, value in ((0, 0), (8, 0xFFFF), (12, 0xFFFFFFFF), (16, 0), (16, 64 << 20), (24, 1 << 40), (64, 1),
                          (64, 0xFFFFFFFF)):
            arena = Arena()
            first = dial(listener, arena=arena)
            assert first.echo()
            arena.put(at, value)
            outcomes.append(first.echo(b"still"))
            second = client.End(None, arena, 1)
            source = client.bound()
            message = client.hello(client.address(conftest.HOST, conftest.PORT), client.address(*source.getsockname()),
                                   slot=1)
            second.bell = client.say(listener["door"], message, [source, arena])
            keep.append((first, second, source))
            outcomes.append(first.echo(b"still"))
        yield all(outcomes), honest_after(listener)
    with world.attacker(part) as attacker:
        good, took = attacker.next()
        assert good and took < conftest.PATIENCE_S


def test_one_slot_for_many_connections(world):
    """In use, just closed, and with what the last one left."""
    def part(path):
        listener = Session(path).listener(conftest.PORT)
        arena = Arena(slots=1)
        ends = []
        for i in range(20):
            try:
                ends.append(dial(listener, arena=arena))
                ends[-1].sent = ends[-1].get(0, client.HEAD, "=Q")
                ends[-1].send(b"mixed up")
            except OSError:
                pass
            if i % 3 == 0:
                ends[i // 2].close()
        keep.append(ends)
        yield honest_after(listener)
    with world.attacker(part) as attacker:
        assert attacker.next() < conftest.PATIENCE_S


def test_the_memory_of_an_honest_pair_stays_theirs(world):
    """The victim's own arena shown to it again, and to the daemon: by its maker, who dials as end 0 alone may."""
    def part(path):
        session = Session(path)
        listener = session.listener(conftest.PORT)
        arena = Arena()
        first = dial(listener, arena=arena)
        assert first.echo()
        bell, other = socket.socketpair()
        tcp = socket.create_connection((conftest.HOST, conftest.PLAIN_PORT))
        session.post_connect(conftest.HOST, conftest.PLAIN_PORT, [other, tcp, arena], slot_of_arena=0)
        second = dial(listener, arena=arena, slot=0)
        keep.append((bell, other, tcp, second))
        first.put(0, client.HEAD, 0, "=Q")
        first.ring_after_lie()
        yield honest_after(listener)
    with world.attacker(part) as attacker:
        assert attacker.next() < conftest.PATIENCE_S


def test_everything_changes_all_the_time(world):
    """A double fetch would show: a thread writes random words into the arena while connections begin, talk and end."""
    seed = random.randrange(1 << 32)

    def part(path):
        chance = random.Random(seed)
        listener = Session(path).listener(conftest.PORT)
        arena = Arena(slots=8)
        stop = False

        def flip():
            words = Arena(slots=8)
            interesting = [0, 1, 2, 4, 8, 16, 32, 4095, 4096, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
            while not stop:
                at = chance.randrange(0, client.rings_at(8), 4)
                arena.put(at, chance.choice(interesting) if chance.random() < 0.7 else chance.getrandbits(32))
                if chance.random() < 0.3:   # right again, or nothing would ever begin
                    arena.map[:64] = words.map[:64]
        thread = threading.Thread(target=flip)
        thread.start()
        until, rounds = time.monotonic() + 5, 0
        try:
            while time.monotonic() < until:
                ends = []
                for slot in range(8):
                    fresh = arena if chance.random() < 0.5 else Arena(slots=8)
                    arena.map[:64] = Arena(slots=8).map[:64]
                    try:
                        end = dial(listener, arena=fresh, slot=slot)
                        end.publish(b"abc" * chance.randrange(1, 100))
                        end.ring_bell()
                        end.ring_bell()
                        ends.append(end)
                    except OSError:
                        pass
                for end in ends:
                    end.bell.close()
                    os.close(end.arena.fd) if end.arena is not arena else None
                    end.port.close()
                rounds += 1
        finally:
            stop = True
            thread.join()
        yield rounds, honest_after(listener)
    with world.attacker(part) as attacker:
        rounds, took = attacker.next(60)
        assert rounds > 2 and took < conftest.PATIENCE_S, f"seed {seed}"


def test_slots_are_not_to_be_had_for_ever(world):
    """Connections whose maker has gone leave no memory with the victim."""
    def part(path):
        listener = Session(path).listener(conftest.PORT)
        for _ in range(150):
            end = dial(listener, arena=Arena(slots=1))
            end.send(b"hello")
            end.bell.close()
            os.close(end.arena.fd)
            end.arena.map.close()
            end.port.close()
        yield honest_after(listener)

    def held():
        with open(f"/proc/{world.victim.process.pid}/maps", encoding="ascii") as f:
            return sum("memfd:by-hand" in line for line in f)
    with world.attacker(part) as attacker:
        attacker.next()
    world.victim.check()
    conftest.process.wait_until(lambda: held() <= 40, 5, "the victim to let go of what has ended")
