"""A drain among programs that never answer, or lie: each holds up only itself, and gets nothing of somebody else's."""
import json
import os
import signal
import socket
import time

import client
import conftest
from client import END_AT, Session
from lib import process, vmsgrd

EPERM, ENOENT, EAGAIN, EINVAL = 1, 2, 11, 22
GO_BACK, DRAIN, FEATURE_GO_BACK = 25, 32, 64
CALLED_BACK, GONE, ASKS, GRANTED = 2048, 8192, 16384, 32768


def flags(end, of):
    return end.arena.get(end.arena.at(end.slot) + END_AT[of])


def drain(world, *words):
    return process.run([vmsgrd.VMSGR, "drain", "--socket", world.socket, *words], check=False, timeout_s=60)


def test_liars_and_the_silent_hold_up_themselves_alone(world):
    def part(path):
        session = Session(path, features=FEATURE_GO_BACK)

        def connect():
            id, end = session.connect_through_daemon(conftest.HOST, conftest.PLAIN_PORT)
            assert end.echo()
            return id, end

        def asked(end):
            process.wait_until(lambda: flags(end, 1) & CALLED_BACK, 20, "the daemon to ask for it")
        silent, (early, early_end), (id, end) = connect(), connect(), connect()
        everybody = [c["id"] for c in Session(path, kind=client.QUERY).status()["connections"] if c["id"]]
        others = [i for i in everybody if i not in (silent[0], early, id)]
        yield session.ask(GO_BACK, [early_end], id=early)[0], session.ask(GO_BACK, [early_end], id=id)[0]
        yield Session(path, kind=client.QUERY).ask(DRAIN)[0]
        yield "drain"
        asked(end)
        bell, _ = socket.socketpair()
        yield {session.ask(GO_BACK, [shown], id=i)[0] for i in others for shown in (end, bell, client.bound())}
        # Without the word that says so: it might publish.
        yield session.ask(GO_BACK, [end], id=id)[0], flags(end, 1) & GONE, end.echo()
        # Bytes that have not left, which nobody takes from behind: an index that cannot be ends this connection alone.
        asked(early_end)
        early_end.flag(0, ASKS)
        early_end.put(0, client.HEAD, 1 << 40, "=Q")
        yield session.ask(GO_BACK, [early_end], id=early)[0] in (EAGAIN, ENOENT, EINVAL)
        asked(end)
        end.flag(0, ASKS)
        status, _, _, fds = session.ask(GO_BACK, [end], id=id)
        yield status, len(fds), bool(flags(end, 0) & GRANTED), bool(flags(end, 1) & GONE)
        end.send(b"nobody moves this")
        tcp = socket.socket(fileno=fds[0])
        tcp.sendall(b"by itself")
        yield tcp.recv(100)
        yield session.ask(GO_BACK, [end], id=id)[0], len(session.ask(GO_BACK, [end], id=id)[3])
        end.bell.close()   # without a word
        yield "closed"
        silent[1].echo()
        yield "done"
        session.sock.recv(1)
    with world.attacker(part) as attacker:
        assert attacker.next() == (EINVAL, ENOENT)
        assert attacker.next() == EPERM
        assert attacker.next() == "drain"
        assert drain(world, "--timeout", 0).returncode == 1
        assert attacker.next() == {ENOENT}
        assert attacker.next() == (EAGAIN, 0, True)
        assert attacker.next()
        assert attacker.next() == (0, 1, True, True)
        assert attacker.next() == b"by itself"
        assert attacker.next() == (0, 1)
        assert attacker.next() == "closed" and attacker.next() == "done"
        done = drain(world, "--json", "--timeout", 6)
        left = json.loads(done.stdout)["connections_left"]
        assert done.returncode == 1 and [c["cause"] for c in left] == ["not_asked"], left


def kill_worker(world):
    pid = world.daemon.pid
    os.kill(pid, signal.SIGKILL)
    process.wait_until(lambda: world.daemon.pid not in (None, pid), 10, "another worker")
    world.attach()


def test_who_grants_it_to_himself_harms_himself_alone(make_world):
    """The next worker goes by his word."""
    world = make_world(bystander=False)

    def part(path):
        session = Session(path, features=FEATURE_GO_BACK)
        id, end = session.connect_through_daemon(conftest.HOST, conftest.PLAIN_PORT)
        assert end.echo()
        time.sleep(0.2)   # the keeper has it
        end.flag(0, GRANTED)
        yield "granted"
        end.send(b"nobody moves this")
        status, _, _, fds = session.ask(GO_BACK, [end], id=id)
        tcp = socket.socket(fileno=fds[0])
        tcp.sendall(b"by itself")
        yield status, tcp.recv(100)
        end.put(0, client.HEAD, 1 << 40, "=Q")
        yield "beyond its ring"
        yield session.ask(GO_BACK, [end], id=id)[0]
    with world.attacker(part) as attacker:
        assert attacker.next() == "granted"
        kill_worker(world)
        assert attacker.next() == (0, b"by itself")
        assert attacker.next() == "beyond its ring"
        kill_worker(world)
        assert attacker.next() == ENOENT
        assert "its counts are beyond its rings" in process.tail(world.daemon.log, 50)
        world.check()
