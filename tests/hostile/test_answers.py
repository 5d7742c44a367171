"""What the daemon sends and nobody receives, and what it is asked for without end. It runs as a user of its own, as such a user
may have no more descriptors under way than RLIMIT_NOFILE: beyond it the kernel would let it send none to anybody. An innocent
client of another user attaches, connects and echoes throughout.
"""
import os
import resource
import socket
import struct
import time

import pytest

import client
import conftest
import people
from client import Session, bound
from lib.process import wait_until
from test_hello import keep

DESCRIPTORS = 4096


@pytest.fixture
def ordinary(make_world):
    """A world whose daemon is an ordinary user with few descriptors, on one shard."""
    made = make_world(shards=1, bystander=False, memory="64M", config="user: nobody\n",
                      before=["prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"])
    yield made
    made.check()


def many_descriptors():
    """The attacker's own limit is what an ordinary login has at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))


def share(world, uid=people.ATTACKER):
    return next((u for u in world.attach().status()["users"] if u["uid"] == uid), None)


def all_back(world):
    def back():
        found = share(world)
        return found is None or not any(found[key] for key in found if key != "uid")
    wait_until(back, 10, "everything of the attacker is given back")
    wait_until(lambda: world.attach().status()["limits"]["in_flight_used"] == 0, 10, "nothing is under way")


def asks_and_never_reads(path):
    """Attack 9: answers with descriptors, and documents, in many sessions."""
    many_descriptors()
    tcp = bound(conftest.HOST)
    tcp.listen(1)
    door = None
    for i in range(300):
        try:
            session = Session(path, timeout_s=2)
        except (OSError, EOFError, struct.error, ValueError):
            break   # as many as he may have
        keep.append(session)
        if door is None:
            door = session.listen(tcp)[1]
            session.request(client.DEPOSIT, [door, tcp, tcp, tcp])
        session.sock.setblocking(False)
        for _ in range(40):
            try:
                session.request((client.ADOPT, client.STATUS, client.ROUTES)[i % 3], [door] if i % 3 == 0 else ())
            except (BlockingIOError, OSError):
                break
    yield len(keep)
    time.sleep(100)


def test_answers_that_nobody_reads(ordinary):
    innocent = ordinary.innocent()
    with ordinary.attacker(asks_and_never_reads) as attacker:
        assert attacker.next() >= 30   # until his share of what may be under way is used up
        innocent.stays_well(3)
        mine = share(ordinary)
        assert 0 < mine["in_flight"] <= DESCRIPTORS // 8, mine
        ordinary.attach_as_program()
    all_back(ordinary)


def never_receives_the_welcome(path):
    many_descriptors()
    hello = struct.pack("=IHHQH6x32s", client.CONTROL_MAGIC, client.HELLO, client.CONTROL_VERSION, 0, client.PROGRAM, b"x")
    for _ in range(1500):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.connect(path)
        s.send(hello)
        if len(keep) % 2:
            try:
                s.send(b"no message")   # so the session ends, and its welcome lies here still
            except OSError:
                pass
        keep.append(s)
    yield True
    time.sleep(100)


def test_welcomes_that_nobody_receives(ordinary):
    innocent = ordinary.innocent()
    with ordinary.attacker(never_receives_the_welcome) as attacker:
        attacker.next()
        innocent.stays_well(3)
        mine = share(ordinary)
        assert 0 < mine["in_flight"] <= DESCRIPTORS // 8, mine
    all_back(ordinary)


def never_accepts(path):
    """Each connection is reset by its client, and lies in the door of a listener that takes none."""
    many_descriptors()
    session = Session(path)
    listeners = []
    for _ in range(2):
        tcp = bound(conftest.HOST)
        tcp.listen(4000)
        listeners.append((tcp, session.listen(tcp, backlog=4000)))
    yield True
    reset = struct.pack("ii", 1, 0)
    until = time.monotonic() + 6
    made = 0
    while time.monotonic() < until:
        for tcp, _ in listeners:
            s = socket.socket()
            s.settimeout(0.2)
            try:
                s.connect(tcp.getsockname())
                made += 1
            except OSError:   # the kernel's queue is full: nobody takes them out any more
                pass
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            s.close()
    yield made
    time.sleep(100)


def test_connections_that_nobody_accepts(ordinary):
    """A dialled connection has descriptors in its hello, which is under way until it is accepted."""
    innocent = ordinary.innocent()
    with ordinary.attacker(never_accepts) as attacker:
        attacker.next()
        made = attacker.next()
        mine = share(ordinary)
        print(f"{made} connections, of which the daemon knows {mine['connections']}")
        assert mine["connections"] > 100, mine
        innocent.stays_well(3)
        ordinary.attach_as_program()
    all_back(ordinary)


def floods_with_status(path):
    """Attack 25: documents for all who ask at once."""
    many_descriptors()
    while len(keep) < 900:
        try:
            session = Session(path, timeout_s=2)
        except (OSError, EOFError, struct.error, ValueError):
            break
        session.sock.setblocking(False)
        keep.append(session)
    yield len(keep)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for session in keep:
            try:
                session.request(client.STATUS)
            except OSError:
                pass
    yield True


def test_status_documents_for_all_who_ask_at_once(make_world):
    world = make_world(shards=1, bystander=False, memory="32M")
    innocent = world.innocent()
    with world.attacker(floods_with_status) as attacker:
        assert attacker.next() > 500
        attacker.sock.sendall(b"+")
        innocent.stays_well(4)
        began = time.monotonic()
        assert len(world.attach().status()["sessions"]) > 500
        assert time.monotonic() - began < 10
    wait_until(lambda: len(world.attach().status()["sessions"]) <= 3, 10, "the attacker's sessions have ended")
    assert world.totals()["no_memory"] == 0
    world.check()


def test_a_document_makes_no_memory_of_what_a_program_says(world):
    """A list of local connections as long as can be, of which the program has written nothing."""
    def part(path):
        for _ in range(50):
            session = Session(path)
            struct.pack_into("=I", session.segment, 120, 16384)
            keep.append(session)
        yield True
        yield sum(os.fstat(s.segment_fd).st_blocks for s in keep) * 512 // len(keep)

    with world.attacker(part) as attacker:
        attacker.next()
        assert len(world.attach().status()["sessions"]) > 50
        assert attacker.next() < 64 << 10, "status has made pages of a list that is empty"


def says_nothing(path):
    """Attack 21: as many as there may be, and more all the time."""
    many_descriptors()
    while True:
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.setblocking(False)
        try:
            s.connect(path)
            keep.append(s)
            if len(keep) > 3000:
                keep.pop(0).close()
        except OSError:
            s.close()
            time.sleep(0.001)
        if len(keep) == 300:
            yield True


def test_strangers_that_say_nothing(make_world):
    world = make_world(shards=1, bystander=False)
    innocent = world.innocent()
    with world.attacker(says_nothing) as attacker:
        attacker.next()
        attacker.sock.sendall(b"+")
        innocent.stays_well(3)
    world.check()
