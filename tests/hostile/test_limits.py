"""Each limit driven to its end by an ordinary user, with unmodified programs and by hand: what goes beyond it is an errno that the
call may have, or the kernel's own socket, for that user; others do not notice; and all is back afterwards. The share of a
peer in connections by trunk: trunk/test_admission.py.
"""
import errno
import json
import select
import subprocess

import pytest

import client
import conftest
import people
from lib import process
from lib.process import wait_until

RIGHT = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.ECONNRESET}

# Takes as many of a thing as it is told, uses each, says how that went, and holds them until its stdin ends.
TAKER = """
import json, os, socket, sys
what, count, host, port = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
errors, good, held, wrong = [], 0, [], 0
def echo(a, b):
    global good, wrong
    text = os.urandom(3000)
    a.sendall(text)
    got = b''
    while len(got) < len(text):
        more = b.recv(len(text) - len(got))
        if not more:
            wrong += 1
            return
        got += more
    wrong += got != text
    good += got == text
def connection():
    c = socket.create_connection((host, port), 10)
    held.append(c)
    echo(c, c)
def listener():
    s = socket.socket()
    s.bind((host, 0))
    s.listen(5)
    held.append(s)
    c = socket.create_connection(s.getsockname(), 10)
    held.append(c)
    a, _ = s.accept()
    held.append(a)
    a.settimeout(10)
    echo(c, a)
    echo(a, c)
def process():
    r, w = os.pipe()
    if os.fork() == 0:
        before = good
        try:
            connection()
            os.write(w, b'+' if good == before + 1 and not wrong else b'!')
        except OSError as e:
            os.write(w, b'%d' % e.errno)
        sys.stdin.read()
        os._exit(0)
    os.close(w)
    said = os.read(r, 10)
    if said.isdigit():
        raise OSError(int(said), 'in a child')
    global_result(said)
def global_result(said):
    global good, wrong
    good += said == b'+'
    wrong += said != b'+'
for _ in range(count):
    try:
        {'connection': connection, 'listener': listener, 'process': process}[what]()
    except OSError as e:
        errors.append(e.errno)
print(json.dumps([good, wrong, errors]), flush=True)
sys.stdin.read()
"""

# The limit, what is taken and how much of it, and what the user has at most by the daemon's count.
LIMITS = {
    "sessions": ("sessions: 6", "process", 15, 6),
    "connections": ("connections: 12", "connection", 40, 12),
    "descriptors": ("descriptors: 24", "connection", 40, 24),
    "memory": ("memory: 16M", "connection", 40, 16 << 20),
    "listeners": ("listeners: 5", "listener", 20, 5),
}


def of_user(world, uid):
    """What the daemon counts as his; nothing where it does not know him."""
    return next((u for u in world.attach().status()["users"] if u["uid"] == uid), {})


def nothing_left(world):
    his = of_user(world, people.ATTACKER)
    return not any(his.get(k, 0) for k in ("sessions", "connections", "listeners", "descriptors", "memory"))


class Taker:
    def __init__(self, world, what, count):
        words = people.as_user(people.ATTACKER, [*world.daemon.prefix(), "/usr/bin/python3", "-c", TAKER, what, count,
                                                 world.host, conftest.PLAIN_PORT])
        self.log = f"{world.dir}/taker.log"
        self.process = process.Process(words, log=self.log, name="taker", stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def outcome(self):
        assert select.select([self.process.stdout], [], [], 30)[0], f"the program hangs\n{process.tail(self.log)}"
        line = self.process.stdout.readline()
        assert line, f"the program has ended\n{process.tail(self.log)}"
        return json.loads(line)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_is_its_users_own_affair(make_world, limit):
    said, what, count, most = LIMITS[limit]
    world = make_world(config=f"limits:\n  per_user:\n    {said}\n")
    refused = world.totals()["refused"]
    taker = Taker(world, what, count)
    good, wrong, errors = taker.outcome()
    his = of_user(world, people.ATTACKER)
    print(f"{limit}: of {count}, {good} exchanges were good, {len(errors)} refused ({sorted(set(errors))}); he has {his[limit]} "
          f"of {most}; {world.totals()['refused'] - refused} refused by the daemon")
    assert wrong == 0
    assert set(errors) <= RIGHT, [errno.errorcode.get(e, e) for e in errors]
    assert good >= most if limit in ("connections", "sessions", "listeners") else good > 0
    assert most // 2 <= his[limit] <= most, his
    world.check()   # bystander and victim see nothing
    taker.process.kill()
    wait_until(lambda: nothing_left(world), 15, f"all is back, and not {of_user(world, people.ATTACKER)}")
    again = Taker(world, what, 2)
    good, wrong, errors = again.outcome()
    assert good >= 2 and wrong == 0 and not errors, (good, wrong, errors)
    again.process.kill()
    world.check()


def test_deposits_beyond_the_limit_are_not_kept(make_world):
    """As many as the user may have connections and listeners."""
    world = make_world(config="limits:\n  per_user:\n    connections: 6\n    listeners: 6\n")
    refused = world.totals()["refused"]

    def part(path):
        sessions = [client.Session(path) for _ in range(4)]
        pairs = []
        for i in range(40):
            bell, other = client.socket.socketpair()
            page = client.memory(4096)
            pairs.append((bell, other, page))
            sessions[i % 4].request(client.DEPOSIT, [bell, page])
        yield [s.stands() for s in sessions]
        for s in sessions:
            s.sock.close()
        yield True
    with world.attacker(part) as attacker:
        assert attacker.next() == [True] * 4
        used = world.attach().status()["limits"]["deposits_used"]
        assert used == 12, used
        assert world.totals()["refused"] - refused == 40 - 12
        world.check()
        attacker.next()
        wait_until(lambda: nothing_left(world) and world.attach().status()["limits"]["deposits_used"] == 0, 15, "all is back")
