"""Plain mode with a hostile program at the other end: one that does not agree, lies about its tokens, writes to the doorbell
itself, or moves to a socket that it keeps."""
import fcntl
import json
import os
import socket
import time

import pytest

import client
import people
from client import Session, dial
from lib import process

PLAIN, READS_PLAIN, MOVED, AGREED = 64, 128, 256, 512
PLAIN_PORT = 7014
LONGEST_S = 6   # the library gives up after 3 s; the rest is a busy machine

# Each connection goes to a child without the library. What it took to start it, and what the child read.
GIVER = people.LISTENS + """
while True:
    c, _ = s.accept()
    time.sleep(0.2)
    began = time.monotonic()
    p = subprocess.Popen(['/bin/cat'], stdin=c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={})
    c.close()
    took = time.monotonic() - began
    try:
        out, err = p.communicate(timeout=8)
    except subprocess.TimeoutExpired:
        p.kill()
        out, err = b'', b'hangs'
    print(json.dumps([took, out.decode('latin-1'), err.decode()]), flush=True)
"""

# Non-blocking: says how long each of its calls took.
READER = people.LISTENS + """
while True:
    c, _ = s.accept()
    c.setblocking(False)
    longest = 0
    for i in range(30):
        began = time.monotonic()
        try:
            c.recv(100) if i % 2 else c.send(b'x')
        except OSError:
            pass
        longest = max(longest, time.monotonic() - began)
        time.sleep(0.05)
    c.close()
    print(json.dumps(longest), flush=True)
"""


class Victim(people.Program):
    """Runs `code`; each line after the first is JSON."""

    def __init__(self, world, code):
        super().__init__(world, ["/usr/bin/python3", "-c", code, world.host, PLAIN_PORT])
        process.wait_until(self.lines, 10, "the victim to listen")

    def lines(self):
        with open(self.log, encoding="utf-8") as f:
            return f.read().splitlines()

    def next(self, before, timeout_s=20):
        process.wait_until(lambda: len(self.lines()) > before, timeout_s, "the victim to go on")
        return json.loads(self.lines()[before])

    def close(self):
        self.process.kill()


@pytest.fixture
def giver(world):
    made = Victim(world, GIVER)
    yield made
    assert made.process.alive()
    made.close()


def dialled(path):
    return dial(Session(path).listener(PLAIN_PORT))


def silent(path):
    """It has sent five bytes, and sleeps."""
    end = dialled(path)
    end.send(b"hello")
    yield
    end.close()
    yield


def counts_too_much(path):
    end = dialled(path)
    end.put(0, client.TOKENS, 1 << 31)
    yield
    yield


def counts_and_agrees(path):
    """It says at once that it has agreed, with tokens that never come."""
    end = dialled(path)
    end.put(0, client.TOKENS, 1 << 20)
    end.flag(1, AGREED)
    end.flag(0, PLAIN)
    yield
    yield


def writes_itself(path):
    end = dialled(path)
    end.bell.send(b"not a token")
    yield
    yield


def impossible_tail(path):
    end = dialled(path)
    end.put(1, client.TAIL, 1 << 60, "=Q")
    end.flag(1, AGREED)
    end.flag(0, PLAIN)
    yield
    yield


@pytest.mark.parametrize("part", [silent, counts_too_much, counts_and_agrees, writes_itself, impossible_tail])
def test_child_starts_in_time_and_reads_nothing_that_was_not_sent(world, giver, part):
    before = len(giver.lines())
    with world.attacker(part) as attacker:
        attacker.next()
        time.sleep(1)
        attacker.next()
    took, out, err = giver.next(before, 30)
    print(took, repr(out), err)
    assert took < LONGEST_S
    assert "hangs" not in err
    if part is silent:
        assert out == "hello"
    assert client.TOKEN.decode("latin-1") not in out


def moves_and_keeps(path):
    """It moves to a socket of its own, keeps a duplicate of the victim's half, and makes that wait."""
    end = dialled(path)
    ours, theirs = socket.socketpair()
    ours.send(client.TOKEN)
    end.flag(0, PLAIN | READS_PLAIN | MOVED)
    end.put(0, client.TOKENS, end.get(0, client.TOKENS) + 1)
    socket.send_fds(end.bell, [client.TOKEN], [theirs.fileno()], socket.MSG_DONTWAIT)
    for _ in range(400):
        fcntl.fcntl(theirs, fcntl.F_SETFL, fcntl.fcntl(theirs, fcntl.F_GETFL) & ~os.O_NONBLOCK)
        time.sleep(0.005)
    yield
    yield


def moves_to_no_socket(path):
    end = dialled(path)
    end.flag(0, PLAIN | READS_PLAIN | MOVED)
    for _ in range(3):
        end.put(0, client.TOKENS, end.get(0, client.TOKENS) + 1)
        socket.send_fds(end.bell, [client.TOKEN], [os.open("/etc/hostname", os.O_RDONLY)], socket.MSG_DONTWAIT)
    yield
    yield


@pytest.mark.parametrize("part", [moves_and_keeps, moves_to_no_socket])
def test_moved_end_cannot_make_the_other_wait(world, part):
    reader = Victim(world, READER)
    try:
        before = len(reader.lines())
        with world.attacker(part) as attacker:
            attacker.next()
            assert reader.next(before, 30) < 1
    finally:
        assert reader.process.alive()
        reader.close()
