"""Nothing on a reactor waits for a stranger. One shard, so that whoever holds it up holds up everybody; an innocent client of
another user measures before and during each attack.
"""
import contextlib
import fcntl
import os
import select
import socket
import struct
import time

import pytest

import client
import conftest
import fuse
import people
from client import Session, bound
from lib.process import wait_until
from test_hello import keep

# The attacker may connect to the control socket, and nothing else.
STRANGERS = f"  uids: [{people.VICTIM}, {people.BYSTANDER}]\n"


def stranger(path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(path)
    return s


def go_on(attack, *words):
    """Yields when it has been done once; goes on until the end of the process, each few times in a fresh child."""
    def child(part):
        pid = os.fork()
        if pid == 0:
            people.libc.prctl(people.PR_SET_PDEATHSIG, people.signal.SIGKILL)
            try:
                part()
            finally:
                os._exit(0)
        return pid

    def some(path):
        for _ in range(20):
            try:
                attack(path, *words)
            except (OSError, EOFError, struct.error):   # the daemon may refuse or end each of it
                pass

    def for_ever(path):
        while True:
            os.waitpid(child(lambda: some(path)), 0)

    def part(path):
        attack(path, *words)
        yield True
        child(lambda: for_ever(path))
        yield True
    return part


def under(world, attack, *words, uid=people.ATTACKER, seconds=3):
    innocent = world.innocent()
    with world.attacker(go_on(attack, *words), uid=uid) as attacker:
        attacker.next()
        attacker.next()
        found = innocent.stays_well(seconds)
    return found


def lingers_in_a_message(path, first):
    """Attack 3: no hello at all, with a socket whose last close waits for an hour; it is not the only one to hold it."""
    s = stranger(path)
    fd, others = client.lingering(3600)
    try:
        socket.send_fds(s, [first], [fd.fileno()] * 3)
    except OSError:
        pass
    client.close_aside(fd)
    s.close()
    for other in others:
        other.close()


@pytest.mark.parametrize("first", [b"no hello at all", b"\x00" * 56])
def test_sockets_that_linger_in_what_a_stranger_sends(make_world, first):
    world = make_world(shards=1, bystander=False, config=STRANGERS)
    under(world, lingers_in_a_message, first)
    wait_until(lambda: world.attach().status()["limits"]["closing"] == 0, 10, "all closed")


def lingers_unread(path):
    """The same in a message that is never read: the session has ended by then."""
    s = stranger(path)
    fd, others = client.lingering(3600)
    try:
        s.send(b"no hello at all")
        for _ in range(4):
            socket.send_fds(s, [b"x"], [fd.fileno()])
    except OSError:
        pass
    client.close_aside(fd)
    s.close()
    for other in others:
        other.close()


def test_sockets_that_linger_in_what_is_never_read(make_world):
    world = make_world(shards=1, bystander=False, config=STRANGERS)
    under(world, lingers_unread)


def test_sockets_that_linger_in_each_message_of_a_session(make_world):
    world = make_world(shards=1, bystander=False)

    def attack(path):
        fds = []
        for kind, count in ((client.ADOPT, 1), (client.BORROW, 1), (client.UNLIST, 1), (client.DEPOSIT, 3), (99, 2)):
            try:
                session = Session(path, timeout_s=5)
                fd, others = client.lingering(3600)
                fds += others
                session.request(kind, [fd] * count)
                client.close_aside(fd)
                session.sock.close()
            except (OSError, EOFError):
                pass
        for s in fds:
            s.close()
    under(world, attack)


def test_sockets_that_linger_beside_tokens(make_world):
    """They arrive with a token that the daemon takes, or lie unread in a doorbell that it closes."""
    world = make_world(shards=1, bystander=False)

    def attack(path):
        session = Session(path)
        _, read = session.connect_through_daemon(conftest.HOST, conftest.PLAIN_PORT)
        _, unread = session.connect_through_daemon(conftest.HOST, conftest.PLAIN_PORT)
        for end in (read, unread):
            fd, others = client.lingering(3600)
            if end is read:
                end.publish(b"x")
            else:
                end.put(0, client.HEAD, 1 << 40, "=Q")
            end.ring_after_lie([fd])
            client.close_aside(fd)
            end.bell.close()
            for s in others:
                s.close()
        session.sock.close()
    under(world, attack)


def test_sockets_that_linger_on_a_lifeline(make_world):
    world = make_world(shards=1, bystander=False)

    def attack(path):
        session = Session(path)
        tcp = bound(conftest.HOST)
        tcp.listen(1)
        _, door, lifeline, _ = session.listen(tcp)
        fd, others = client.lingering(3600)
        socket.send_fds(lifeline, [b"x"], [fd.fileno()])
        client.close_aside(fd)
        for s in (lifeline, door, tcp, session.sock, *others):
            s.close()
    under(world, attack)


def test_a_connection_that_lingers_again_and_again(make_world):
    """Its program holds the kernel socket too, and sets SO_LINGER while the daemon closes."""
    world = make_world(shards=1, bystander=False)

    def attack(path):
        session = Session(path)
        fd, others = client.lingering(0)
        arena, (bell, other) = client.Arena(), socket.socketpair()
        session.post_connect(*others[0].getsockname(), [other, fd, arena])
        other.close()
        until = time.monotonic() + 0.01
        bell.close()
        while time.monotonic() < until:
            fd.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        fd.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        arena.map.close()
        os.close(arena.fd)
        for s in (fd, session.sock, *others):
            s.close()
    under(world, attack)


def toggles(fds):
    """O_NONBLOCK off and on, as fast as it goes."""
    calls = [(fd, flags) for fd in fds for flags in (os.O_RDWR, os.O_RDWR | os.O_NONBLOCK, os.O_RDWR)]
    while True:
        for fd, flags in calls:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def test_listeners_that_are_made_blocking(make_world):
    """Attack 7: each accept of the daemon waited until an alarm, with 60 listeners nearly always."""
    world = make_world(shards=1, bystander=False)

    def part(path):
        session = Session(path)
        tcp = []
        for _ in range(60):
            s = bound(conftest.HOST)
            s.listen(64)
            tcp.append(s)
            keep.append((s, session.listen(s)))
        def connect(s):   # an event for the daemon
            socket.create_connection(s.getsockname()).close()

        def steal(s):   # whose connection is gone by then, or not
            try:
                s.accept()[0].close()
            except OSError:
                pass
        for role in (connect, steal, None):
            if os.fork() == 0:
                people.libc.prctl(people.PR_SET_PDEATHSIG, people.signal.SIGKILL)
                if role is None:
                    toggles([s.fileno() for s in tcp])
                while True:
                    for s in tcp:
                        role(s)
        yield True
    innocent = world.innocent()
    with world.attacker(part) as attacker:
        attacker.next()
        innocent.stays_well(3)
    faults = world.attach().status()["faults_by_reason"]
    print(f"accepts that waited: {faults['made_blocking']}")


def test_a_listener_made_blocking_serves_on(world):
    """A flag that stays off costs nothing: the listener is the daemon's as before."""
    def part(path):
        session = Session(path)
        tcp = bound(conftest.HOST, 7100)
        tcp.listen(16)
        keep.append((tcp, session.listen(tcp)))
        tcp.setblocking(True)
        yield True
        door = keep[-1][1][1]
        door.settimeout(10)
        yield len([door.accept() for _ in range(5)])
    with world.attacker(part) as attacker:
        attacker.next()
        made = [socket.create_connection((conftest.HOST, 7100), 5) for _ in range(5)]
        assert attacker.next() == 5 == len(made)
    assert world.attach().status()["faults_by_reason"]["made_blocking"] == 0


@pytest.fixture
def file_system(tmp_path):
    """(a device, a folder) with which the attacker mounts a file system of his own."""
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/pytest"):
            folder.chmod(0o755)
    device, folder = tmp_path / "fuse", tmp_path / "mnt"
    os.mknod(device, 0o020666, os.makedev(10, 229))
    device.chmod(0o666)
    folder.mkdir()
    os.chown(folder, people.ATTACKER, people.ATTACKER)
    return str(device), str(folder)


def test_files_whose_close_is_never_answered(make_world, file_system):
    """In each message that takes descriptors: a file of a file system that the attacker runs himself. Each close waits, in
    the calling thread and not to be interrupted, until he ends."""
    world = make_world(shards=1, bystander=False)

    def part(path):
        fd, waits = fuse.mounted(*file_system, world.daemon.pid)
        yield True
        for _ in range(20):
            s = stranger(path)
            socket.send_fds(s, [b"no hello at all"], [fd] * 3)
            s.close()
            session = Session(path)
            session.request(client.DEPOSIT, [socket.socketpair()[0], fd, fd])
            session.request(client.BORROW, [fd])
            session = Session(path)
            tcp, (bell, other) = socket.create_connection((conftest.HOST, conftest.PLAIN_PORT)), socket.socketpair()
            session.post_connect(conftest.HOST, conftest.PLAIN_PORT, [other, tcp, fd])   # as its memory
            keep.append((session, bell))
        yield bool(select.select([waits], [], [], 10)[0])
        time.sleep(100)
    innocent = world.innocent()
    with world.attacker(part) as attacker:
        attacker.next()
        assert attacker.next(), "no close came to the file system"
        innocent.stays_well(3)
        mine = [u for u in world.attach().status()["users"] if u["uid"] == people.ATTACKER]
        assert mine and mine[0]["closing"] > 0, mine
    wait_until(lambda: world.attach().status()["limits"]["closing"] == 0, 20, "all closed, once the file system is gone")


def test_a_user_whose_files_wait_is_not_let_in_and_others_are(make_world, file_system):
    """As many as he may have waiting do: he is told so, and nobody else notices."""
    world = make_world(shards=1, bystander=False)

    def part(path):
        fd, _ = fuse.mounted(*file_system, world.daemon.pid)
        for _ in range(10):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError), stranger(path) as s:  # turned away by now
                socket.send_fds(s, [b"no hello at all"], [fd] * 100)
            time.sleep(0.05)
        try:
            yield Session(path, timeout_s=5).stands()
        except (OSError, EOFError, ValueError, struct.error):
            yield False
        time.sleep(100)
    innocent = world.innocent()
    with world.attacker(part) as attacker:
        assert attacker.next() is False
        innocent.stays_well(2)
    wait_until(lambda: world.attach().status()["limits"]["closing"] == 0, 20, "all closed, once the file system is gone")
