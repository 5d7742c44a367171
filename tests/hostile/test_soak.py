"""Mixed load for a while: innocent clients, programs that are killed in the middle of a transfer, hostile clients of all kinds, a
configuration that is read anew, and two more daemons whose trunk is cut. What the daemons hold at the end is what they held
after the first part, and their counters add up. VMSGR_SOAK_SECONDS says how long; `make soak` takes an hour.
"""
import itertools
import os
import random
import signal
import struct
import time

import client
import conftest
import people
from client import Session
from lib import process
from lib.process import wait_until
from soak_trunks import TrunkLoad
from test_answers import asks_and_never_reads, floods_with_status, never_receives_the_welcome, says_nothing
from test_hello import keep
from test_reactor import lingers_in_a_message, lingers_unread

SECONDS = int(os.environ.get("VMSGR_SOAK_SECONDS", "40"))
SEED = int(os.environ.get("VMSGR_SEED", str(random.randrange(1 << 32))))
RSS_MORE_KIB = 16 << 10

# Sends and compares without end, on two connections at once.
TRANSFERS = """
import os, socket, sys, threading
def echo(port):
    while True:
        with socket.create_connection((sys.argv[1], port), 10) as c:
            for i in range(20):
                text = os.urandom(20000)
                c.sendall(text)
                got = b''
                while len(got) < len(text):
                    more = c.recv(len(text) - len(got))
                    if not more:
                        sys.exit('end of file')
                    got += more
                if got != text:
                    sys.exit('other bytes came back')
for port in sys.argv[2:]:
    threading.Thread(target=echo, args=[int(port)]).start()
"""


def writes_anything(path):
    """A connection through the daemon, and then words of its memory at random."""
    rng = random.Random(SEED)
    while True:
        session = Session(path)
        try:
            for _ in range(20):
                _, end = session.connect_through_daemon(conftest.HOST, conftest.PLAIN_PORT)
                for _ in range(10):
                    at = end.arena.at(0) + 4 * rng.randrange(client.CONDUIT_HEADER // 4)
                    end.arena.put(at, rng.choice((0, 1, rng.randrange(1 << 32))))
                    try:
                        end.ring_bell()
                    except OSError:
                        break
                end.bell.close()
        except (OSError, EOFError):
            pass
        session.sock.close()
        yield True


def again_and_again(attack):
    def part(path):
        while True:
            for _ in range(5):
                try:
                    attack(path)
                except (OSError, EOFError, struct.error):
                    pass
            yield True
    return part


HOSTILE = [asks_and_never_reads, never_receives_the_welcome, floods_with_status, says_nothing, writes_anything,
           again_and_again(lambda path: lingers_in_a_message(path, b"no hello")), again_and_again(lingers_unread)]


class Disturbance:
    """A hostile client, a program that is killed in the middle of a transfer, a reload, and a cut of the trunk, at once."""

    def __init__(self, world, trunk):
        self.world, self.trunk, self.rounds = world, trunk, 0
        with open(world.daemon.config, encoding="ascii") as f:
            self.config = f.read()

    def reload(self, text):
        with open(self.world.daemon.config, "w", encoding="ascii") as f:
            f.write(text)
        os.kill(self.world.daemon.process.pid, signal.SIGHUP)

    def round(self, part):
        words = ["/usr/bin/python3", "-c", TRANSFERS, self.world.host, conftest.PORT, conftest.PLAIN_PORT]
        with self.world.attacker(part) as attacker:
            program = people.Program(self.world, words)
            attacker.next()
            attacker.sock.sendall(b"+")
            self.reload(f"{self.config}limits:\n  flush_ms: {4000 + self.rounds % 2}\n")
            time.sleep(random.uniform(0.2, 0.5))
            self.trunk.cut()
            time.sleep(random.uniform(0.5, 1))
            assert program.process.alive(), f"a program has ended: {process.tail(program.log)}"
            program.process.signal(signal.SIGKILL)
            program.process.kill()
        self.rounds += 1


def measured(world):
    """Once everything that has ended is given back."""
    own = {people.VICTIM, people.BYSTANDER, people.ATTACKER}

    def back():
        status = world.attach().status()
        users = {u["uid"]: u for u in status["users"] if u["uid"] in own}
        limits = status["limits"]
        return (people.ATTACKER not in users or not any(users[people.ATTACKER][k] for k in ("sessions", "connections"))) \
            and limits["closing"] == 0 and limits["in_flight_used"] == 0 and len(status["sessions"]) <= 2
    wait_until(back, 20, "everything is given back")
    time.sleep(4)   # memory rests for a moment before it is given back
    looks = []
    for _ in range(20):   # the innocent client goes on: at some of them it has nothing under way
        status = world.attach().status()
        looks.append({"descriptors": world.descriptors(),
                      **{key: value for key, value in status["limits"].items() if key.endswith("_used")}})
        time.sleep(0.05)
    found = {key: min(look[key] for look in looks) for key in looks[0]}
    found["resident_kib"] = process.resident_kib(world.daemon.pid)
    print(f"{found}, totals {status['totals']}")
    return found


def disturb(world, trunk, innocent, seconds):
    """How many reloads there were."""
    what = Disturbance(world, trunk)
    until = time.monotonic() + seconds
    for part in itertools.cycle(HOSTILE):
        what.round(part)
        innocent.seen(0)   # no error, no wrong byte
        if time.monotonic() > until:
            break
    what.reload(what.config)
    print(f"{what.rounds} rounds")
    return what.rounds + 1


def test_nothing_grows(make_world):
    print(f"VMSGR_SEED={SEED}")
    random.seed(SEED)
    world = make_world(shards=1, bystander=False)
    innocent = world.innocent()
    with TrunkLoad() as trunk:
        first = max(12, SECONDS // 60)
        reloads = disturb(world, trunk, innocent, first)
        before, trunk_before = measured(world), trunk.measured()
        reloads += disturb(world, trunk, innocent, max(SECONDS - first, 12))
        after, trunk_after = measured(world), trunk.measured()
        trunk.check(trunk_before, trunk_after, RSS_MORE_KIB)
    # All that passes the daemon is echoed; programs were killed in the middle of it.
    totals = world.totals()
    assert 0 <= totals["bytes_out"] - totals["bytes_in"] <= reloads * 100_000, totals
    more_kib = after.pop("resident_kib") - before.pop("resident_kib")
    # The innocent client has something under way at any time: one or two descriptors. A round that leaves one behind shows.
    assert after.pop("descriptors") <= before.pop("descriptors") + 2
    assert after == before
    assert more_kib < RSS_MORE_KIB, f"{more_kib} KiB more in memory than after the first part"
    daemon = world.attach().status()["daemon"]
    assert daemon["reloads"] == reloads and daemon["reload_error"] is None, daemon
    world.check()
    keep.clear()
