"""The worker is killed between two stores into the ledger, or into the indices of rings, wherever that is: connections go on
exactly or are reset, and programs keep their sessions and listeners. VMSGR_SEED, VMSGR_STORES (how many kills of each kind;
`all`: before and after each store)."""
import ast
import functools
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from lib import process, vmsgrd
from lib.agents import Agent

from test_custody import OLD_S, STREAM, WIRE
from test_custody_steps import TRANSACTIONS, ends, join
from test_keeper import worker_after
from test_upgrade import adopt

SEED = int(os.environ.get("VMSGR_SEED", str(random.randrange(1 << 32))))
STORES = os.environ.get("VMSGR_STORES", "8")
STORE_TRAP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "store_trap.py")
EXACT_OR_RESET = ("'exact'", "'ConnectionResetError'", "'ConnectionRefusedError'", "'BrokenPipeError'")


class StoreTrap:
    """A process, or each that it starts, is killed behind its nth store (-nth: before it; 0: never), until this ends. `stores`:
    how many there were; `killed_at`: the instruction."""

    def __init__(self, nth, pid, what="ledger", who="itself"):
        self.tool = subprocess.Popen([sys.executable, STORE_TRAP, str(nth), what, who, str(pid)], stdin=subprocess.PIPE,
                                     stdout=subprocess.PIPE, text=True)
        self.stores, self.killed_at = 0, None

    def __enter__(self):
        assert self.tool.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_):
        try:
            said, _ = self.tool.communicate(timeout=20)
        finally:
            self.tool.kill()
        stores, at = said.split()
        self.stores, self.killed_at = int(stores), None if at == "-" else at


class Rig:
    """A listener, a connection that is old, and a program at each of its ends."""

    def __init__(self, daemon, server, client):
        self.daemon, self.server, self.client, self.sent = daemon, server, client, 0
        join(server, client, STREAM, TRANSACTIONS)
        server("!threading.Thread(target=echo, args=[l], daemon=True).start()")
        time.sleep(OLD_S)

    def send(self):
        n = random.randrange(1, 60_000)
        self.client(f"!c.sendall(piece({self.sent}, {n}))")
        self.server(f"!s.sendall(piece({self.sent}, {n}))")
        return n

    def receive(self, n):
        for agent, name in ((self.server, "s"), (self.client, "c")):
            assert agent(f"{name}.recv({n}, socket.MSG_WAITALL) == piece({self.sent}, {n})") == "True"
        self.sent += n

    def transact(self):
        return self.client(f"transact({random.randrange(1, 50_000)})")


def life(rig, trap):
    """Registering a connection that was accepted and one that was connected, to their ends."""
    with trap(rig.daemon.pid) as t:
        assert (came := rig.transact()) in EXACT_OR_RESET, came
        time.sleep(0.05)   # the ends of both
    return t


def listener(rig, trap):
    """Of a program that is new: its session, a listener, and their ends."""
    at = rig.client("at")
    with trap(rig.daemon.pid) as t:
        with Agent(rig.daemon.prefix()) as new:
            new.run(STREAM)
            new.run(TRANSACTIONS)
            new("!l = socket.create_server(('127.0.0.1', 0), backlog=100)")
            new("!threading.Thread(target=echo, args=[l], daemon=True).start()")
            rig.client(f"!at = ('127.0.0.1', {int(new('l.getsockname()[1]'))})")
            assert (came := rig.transact()) in EXACT_OR_RESET, came
            if t.tool.poll() is not None:   # it was killed
                worker_after(rig.daemon, None)
                assert (came := rig.transact()) == "'exact'", came
        time.sleep(0.05)   # the ends of all
    rig.client(f"!at = {at}")
    return t


def ready_since(daemon, old):
    try:
        return worker_after(daemon, old, 0.01)
    except process.Failed:
        return False


def taking_over(rig, trap, **how):
    old, before = rig.daemon.pid, ends(rig.daemon)
    with trap(rig.daemon.process.pid, who="children", **how) as t:
        n = rig.send()
        os.kill(old, signal.SIGKILL)
        process.wait_until(lambda: ends(rig.daemon) == before + 2 or ready_since(rig.daemon, old), 20,
                           "the next worker to be ready, or to die")
    rig.receive(n)
    return t


def rings(rig, trap):
    """Bytes in both directions."""
    with trap(rig.daemon.pid, what="rings") as t:
        rig.receive(rig.send())
        rig.receive(rig.send())
    return t


def rings_taken_over(rig, trap):
    return taking_over(rig, trap, what="rings")


YOUNG = """
    def transact_all_the_time():
        while going:
            more.append(threading.Thread(target=lambda: came.append(transact(1000))))
            more[-1].start()
            time.sleep(0.002)
    def all_that_came():
        global going
        going = False
        main.join()
        for t in more:
            t.join()
        return sorted(set(came))
    going, more, came = True, [], []
    main = threading.Thread(target=transact_all_the_time)
    main.start()
    """


def old_worker(rig, trap):
    """Of an upgrade: it hands over what is young."""
    n = rig.send()
    with trap(rig.daemon.pid, who="ordered") as t:
        rig.client.run(YOUNG)
        time.sleep(0.1)
        assert rig.daemon.upgrade().returncode == 0
    came = ast.literal_eval(rig.client("all_that_came()"))
    assert {repr(c) for c in came} <= set(EXACT_OR_RESET), came
    rig.receive(n)
    t.stores = min(t.stores, 60)   # 20 to 400, as chance has it
    return t


def new_worker(rig, trap):
    """Of an upgrade: it takes over."""
    words = [vmsgrd.VMSGRD, "--upgrade", "--config", rig.daemon.config]
    with subprocess.Popen(["sh", "-c", 'read go && exec "$@"', "sh", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as new:
        try:
            with trap(new.pid, who="children") as t:
                n = rig.send()
                new.stdin.write("\n")
                new.stdin.flush()
                new.wait(30)
        finally:
            new.kill()
        done = subprocess.CompletedProcess(words, new.returncode, new.stdout.read(), new.stderr.read())
    assert done.returncode == 0 or t.killed_at is not None, done
    if done.returncode == 0:   # it was killed later, if at all
        adopt(rig.daemon, done)
    rig.receive(n)
    return t


@pytest.mark.parametrize("what", [life, listener, taking_over, rings, rings_taken_over, old_worker, new_worker],
                         ids=lambda f: f.__name__)
def test_a_kill_between_any_two_stores(here, what):
    print(f"VMSGR_SEED={SEED}")
    random.seed(SEED)
    with vmsgrd.Vmsgrd(here, routes=WIRE, shards=1) as daemon, \
            Agent(daemon.prefix()) as server, Agent(daemon.prefix()) as client:
        rig = Rig(daemon, server, client)
        there_are = what(rig, functools.partial(StoreTrap, 0)).stores
        assert there_are > 0
        each = [nth for n in range(1, there_are + 1) for nth in (-n, n)]
        died = 0
        for nth in each if STORES == "all" else random.choices(each, k=int(STORES)):
            t = what(rig, functools.partial(StoreTrap, nth))
            died += t.killed_at is not None
            worker_after(daemon, None)
            time.sleep(0.3)   # so it has done some work (src/keeper/pauses.hh)
            rig.receive(rig.send())
            assert (came := rig.transact()) == "'exact'", (nth, t.killed_at, came)
        print(f"{there_are} stores; {died} workers died")
        assert died > 0
