"""Each allocation of a shard fails once, while programs attach, listen, connect, dial, accept, fork and ask for status, and a
bystander of another user does so all the time. Whose it was sees an error or is left to the kernel; the daemon goes on, counts
it, and everything is back afterwards. VMSGR_SEED, VMSGR_FAILING_SECONDS.
"""
import collections
import os
import random
import socket
import struct
import time

import pytest

import client
import conftest
import failing_new
import people
from lib import process
from lib.process import wait_until
from test_faults import RIGHT_OR_FAILED, held, run, talk  # noqa: F401  (a fixture)

SEED = int(os.environ.get("VMSGR_SEED", str(random.randrange(1 << 32))))
SECONDS = int(os.environ.get("VMSGR_FAILING_SECONDS", "15"))
# What a connection may end with.
ENDS = ("ConnectionResetError", "ConnectionError", "BrokenPipeError", "ConnectionRefusedError", "ConnectionAbortedError")


@pytest.fixture
def board(monkeypatch, tmp_path):
    made = failing_new.Board(str(tmp_path))
    monkeypatch.setenv("VMSGR_FAILING_NEW", made.path)
    return made


def use(world, talk):  # noqa: F811
    """What talk has come to, and whether the daemon answered."""
    code, text = run(world, [talk, conftest.PLAIN_PORT])
    assert code in RIGHT_OR_FAILED, f"exit code {code}\n{text}"
    session = None
    try:
        session = world.attach_as_program()
        session.status()
        return code, True
    except (OSError, EOFError, ValueError, struct.error):
        return code, False
    finally:
        leave(session)


def leave(session):
    """With its descriptors, of which we would have thousands in the end."""
    if session is not None:
        for fd in (session.segment_fd, session.registry_fd):
            os.close(fd)
        session.sock.close()


def test_each_allocation_of_a_shard_fails_once(make_world, board, talk):  # noqa: F811
    print(f"VMSGR_SEED={SEED}")
    random.seed(SEED)
    world = make_world(shards=1, program=failing_new.PROGRAM)
    board.record()
    pid = world.daemon.pid
    for _ in range(3):
        assert use(world, talk) == (0, True)
    places = board.places()
    board.look_up(places)
    own = [p for p in places if board.may_fail(p)]
    random.shuffle(own)
    print(f"{len(own)} of {len(places)} places are the daemon's own")
    outcomes, failed, until = [], [], time.monotonic() + SECONDS
    for turn in range(1000):
        for place in own:
            nth = 1 if turn == 0 else random.randint(1, max(places[place] // 3, 1))
            board.arm(place, nth)
            outcomes.append(use(world, talk))
            if board.disarm():
                failed.append(place)
            assert world.daemon.pid == pid, f"call {nth} failed in {board.whose(place)}, and the daemon has ended\n" \
                + process.tail(world.daemon.log)
            if turn != 0 and time.monotonic() > until:
                break
        if time.monotonic() > until:
            break
    print(f"{len(set(failed))} places failed, {len(failed)} times in all; talk was told {sum(c for c, _ in outcomes)} times, "
          f"status failed {sum(not s for _, s in outcomes)} times")
    assert len(set(failed)) >= len(own) / 2
    board.record(False)
    assert use(world, talk) == (0, True)
    totals = world.totals()
    assert totals["no_memory"] > 0, totals
    _, _, errors = world.bystander.seen()
    print(f"the bystander: {dict(collections.Counter(errors))}")
    assert len(errors) <= len(failed) and all(e.startswith(ENDS) for e in errors), errors
    world.victim.check(conftest.PATIENCE_S)
    world.bystander.process.kill()
    world.bystander = None
    wait_until(lambda: held(world)["listeners_used"] == 1 and held(world)["in_flight_used"] == 0, 15, "everything is back")


def lets_in(world):
    try:
        leave(client.Session(world.socket))
        return True
    except (OSError, EOFError, struct.error):
        return False


def stays_and_echoes(host, port):
    with socket.create_connection((host, port), 10) as c:
        while True:
            c.sendall(b"are you there?")
            yield c.recv(100) == b"are you there?"


def test_a_shard_with_little_memory_begins_nothing(make_world, board, talk):  # noqa: F811
    """What programs want then is the kernel's; what stands goes on."""
    world = make_world(shards=1, memory="64M", bystander=False, program=failing_new.PROGRAM)
    board.record()
    pid, before = world.daemon.pid, world.totals()["no_memory"]
    with people.Attacker(stays_and_echoes, world.host, conftest.PORT) as stands:
        assert stands.next()
        board.leave(1 << 20)
        wait_until(lambda: not lets_in(world), 5, "nobody is let in any more")
        for _ in range(5):
            code, text = run(world, [talk, conftest.PLAIN_PORT])
            assert code == 0, text
            assert stands.next()
        board.leave(0)
        wait_until(lambda: lets_in(world), 5, "somebody is let in")
        assert use(world, talk) == (0, True)
    assert world.totals()["no_memory"] - before >= 5
    assert world.daemon.pid == pid
