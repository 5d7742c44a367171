"""Attacks on a daemon and on the programs of other users. Each test has a vmsgrd of its own, a victim (uid 2001), and a
bystander (uid 2003) whose connections to the victim and through the daemon go on all the time. Whatever the attacker
(uid 2002) does: he gains nothing, and daemon, victim and bystander do not notice.

Needs root, to act as other users, and a network namespace of its own.
"""
import os
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import client  # noqa: E402
import people  # noqa: E402
from lib import process, vmsgrd  # noqa: E402
from lib.standstill import pytest_runtest_protocol, pytest_terminal_summary  # noqa: E402, F401

HOST, PORT, PLAIN_PORT = "127.0.0.1", 7001, 7002
ENVIRONMENT = ("VMSGR_SOCKET", "VMSGR_ROUTES", "VMSGR_LOG", "VMSGR_PRELOAD", "VMSGR_SPIN_US", "LD_PRELOAD")
# Lets an attacked thread be late on a busy machine; what an attack holds up waits for longer.
PATIENCE_S = 2


@pytest.fixture(autouse=True, scope="session")
def own_network():
    """Ports are ours alone, and nobody else's programs are met."""
    if os.geteuid() != 0:
        pytest.fail("acts as several users: run it as root")
    if vmsgrd.why_not():
        pytest.fail(vmsgrd.why_not())
    for name in ENVIRONMENT:
        os.environ.pop(name, None)
    people.unshare(people.CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


class World:
    """The attacker observes: he knows all numbers and addresses."""

    def __init__(self, *, shards=2, config="", host=HOST, bystander=True, memory="256M", before=(), program=None):
        self.dir = process.make_dir("vh-")
        self.host = host
        routes = [vmsgrd.route("v4", address="0.0.0.0/0"), vmsgrd.route("v6", address="::/0")]
        self.daemon = vmsgrd.Vmsgrd(self.dir, routes=routes, shards=shards, memory=memory, before=before, program=program,
                                    config=f"access:\n  mode: 0666\n  observers: {people.ATTACKER}\n{config}").start()
        self.socket = self.daemon.socket
        self.victim = people.Server(self.daemon, self.dir, host, PORT)
        self.plain = people.Server(None, self.dir, host, PLAIN_PORT)
        self.victim.ready()
        self.plain.ready()
        self.watched = None
        self.bystander = people.Bystander(self.daemon, self.dir, host, [PORT, PLAIN_PORT]) if bystander else None

    def innocent(self):
        """A client that measures, watched while all is quiet."""
        self.watched = people.Innocent(self.daemon, self.dir, self.host, [PORT, PLAIN_PORT]).watch()
        return self.watched

    def attacker(self, part, *words, uid=people.ATTACKER):
        return people.Attacker(part, self.socket, *words, uid=uid)

    def attach(self):
        """A fresh client of the daemon, which must answer at once."""
        began = time.monotonic()
        session = client.Session(self.socket, kind=client.QUERY, timeout_s=15)
        took = time.monotonic() - began
        assert took < PATIENCE_S, f"the daemon took {took:.1f} s to let somebody attach"
        return session

    def attach_as_program(self):
        return client.Session(self.socket, timeout_s=15)

    def descriptors(self):
        """How many the daemon has open."""
        return len(os.listdir(f"/proc/{self.daemon.pid}/fd"))

    def totals(self):
        return self.attach().status()["totals"]

    def check(self):
        """Everybody goes on."""
        assert self.daemon.process.alive(), f"the daemon has ended\n{process.tail(self.daemon.log)}"
        self.attach()
        self.victim.check(PATIENCE_S)
        if self.bystander:
            self.bystander.check(PATIENCE_S)

    def close(self):
        for who in (self.watched, self.bystander, self.victim, self.plain):
            if who:
                who.process.kill()
        code = self.daemon.stop()
        text = process.tail(self.daemon.log, 30)
        print(text)   # shown where a test has failed
        process.remove_dir(self.dir)
        assert code == 0, f"the daemon ended with {code}\n{text}"


@pytest.fixture
def make_world():
    made = []

    def make(**how):
        made.append(World(**how))
        return made[-1]
    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world):
    made = make_world()
    yield made
    made.check()
