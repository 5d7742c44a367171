"""Listeners of others: twins, entries that stay, names taken over (attack 13), and a registry that one user fills."""
import os
import socket
import time

import pytest

import client
import conftest
import people
from client import Session, bound, dial
from lib.process import wait_until
from test_hello import keep


def ports(session):
    return sorted(found["port"] for found in session.listeners())


def test_a_listen_job_cannot_take_the_id_of_another(world):
    """Attack 13: a twin with the victim's id took the victim's entry along when it closed."""
    def part(path):
        session = Session(path)
        victim = session.listener(conftest.PORT)
        tcp = bound(conftest.HOST, 7100)
        tcp.listen(5)
        status, id, _, fds = session.ask(client.LISTEN, [tcp], id=victim["id"], slot=victim["id"] & 0xFFFF, data=b"x" * 64)
        yield status, id == victim["id"], ports(session)
        for fd in fds:
            os.close(fd)
        tcp.close()
        until = time.monotonic() + 2
        while 7100 in ports(session) and time.monotonic() < until:
            time.sleep(0.01)
        yield ports(session)
    with world.attacker(part) as attacker:
        assert attacker.next() == (0, False, [conftest.PORT, 7100])
        assert attacker.next() == [conftest.PORT]


def test_one_socket_given_many_times(world):
    """The same, a copy of it, by several sessions, and closed in any order: no entry stays, and the victim's does."""
    def part(path):
        sessions = [Session(path) for _ in range(3)]
        tcp = bound(conftest.HOST, 7100)
        tcp.listen(5)
        given = []
        for session in sessions:
            for s in (tcp, tcp.dup()):
                given.append(session.listen(s))
        yield len({id for id, *_ in given}), set(ports(sessions[0]))
        given[0][2].close()
        given[-1][2].shutdown(socket.SHUT_WR)
        given[2][1].close()
        for _, door, lifeline, _ in given:
            door.close()
            lifeline.close()
        tcp.close()
        yield True
    with world.attacker(part) as attacker:
        assert attacker.next() == (6, {conftest.PORT, 7100})
        attacker.next()

        def left(path):
            session = Session(path)
            until = time.monotonic() + 5
            while ports(session) != [conftest.PORT] and time.monotonic() < until:
                time.sleep(0.02)
            yield ports(session)
        with world.attacker(left) as looker:
            assert looker.next() == [conftest.PORT]


def test_the_victims_listener_stays_when_another_user_listens_beside_it(world):
    """On the wildcard address, on another loopback address, and on the same where the kernel allows it."""
    def part(path):
        session = Session(path)
        for host in ("0.0.0.0", "127.0.0.2", "127.0.0.1", "::"):
            reuse = (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1), (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tcp = bound(host, conftest.PORT, socket.SOCK_STREAM, *reuse)
                tcp.listen(5)
            except OSError:
                continue
            keep.append((tcp, session.listen(tcp)))
        yield len(keep)
    with world.attacker(part) as attacker:
        attacker.next()
        world.check()
        known = len(world.victim.says("accepted"))
        for _ in range(20):
            world.victim.echoes(2)
        assert len(world.victim.says("accepted")) >= known + 20, "another user has got connections to the victim"


def test_sockets_that_do_not_listen(world):
    def part(path):
        outcomes = []
        for s in (socket.socket(), bound(conftest.HOST), bound(type=socket.SOCK_DGRAM), socket.socketpair()[0],
                  socket.create_connection((conftest.HOST, conftest.PLAIN_PORT)), os.open("/dev/null", os.O_RDONLY)):
            session = Session(path)
            try:
                outcomes.append(session.ask(client.LISTEN, [s])[0])
            except EOFError:
                outcomes.append("ended")
        for count in (0, 2, 5, 200):
            session = Session(path)
            tcp = bound(conftest.HOST)
            tcp.listen(1)
            try:
                outcomes.append(session.ask(client.LISTEN, [tcp] * count)[0])
            except EOFError:
                outcomes.append("ended")
        yield outcomes
    with world.attacker(part) as attacker:
        assert all(outcome != 0 for outcome in attacker.next())


def test_a_listener_that_turns_into_a_connection(world):
    """Shut down and connected, with bytes that linger, once the daemon has it."""
    def part(path):
        session = Session(path)
        there = bound()
        there.listen(1)
        for _ in range(3):
            tcp = bound(conftest.HOST, 0)
            tcp.listen(5)
            _, door, lifeline, _ = session.listen(tcp)
            tcp.shutdown(socket.SHUT_RDWR)
            tcp.connect_ex(there.getsockname())   # the daemon has made it one that does not wait
            keep.append((there.accept(), there))
            client.make_linger(tcp, 6)
            tcp.close()
            lifeline.close()
            door.close()
        yield True
    with world.attacker(part) as attacker:
        attacker.next()
        for _ in range(20):
            world.attach()
            time.sleep(0.05)


def test_one_user_fills_the_registry(make_world):
    """He gets half of what there is (limits.per_user). Others go on, are served, and it heals."""
    world = make_world(config="limits:\n  listeners: 300\n")

    def part(path):
        sessions = [Session(path)]
        refused = 0
        for _ in range(320):
            tcp = bound(conftest.HOST)
            tcp.listen(1)
            try:
                keep.append((tcp, sessions[0].listen(tcp)))
            except OSError:
                refused += 1
        yield refused, len(sessions[0].listeners())
    with world.attacker(part) as attacker:
        refused, listed = attacker.next(60)
        assert (refused, listed) == (170, 151)
        world.check()
        late = people.Server(world.daemon, world.dir, conftest.HOST, 7200).ready()
        assert late.echoes(conftest.PATIENCE_S) < conftest.PATIENCE_S
        assert 7200 in [at["port"] for at in world.attach_as_program().listeners()], "no place for another user"
        late.process.kill()

    def left():
        return len(world.attach().status()["listeners"])
    wait_until(lambda: left() == 1, 10, "the listeners to be gone")
    assert [name for name in os.listdir(f"{world.socket}.d")] != []
    assert len(os.listdir(f"{world.socket}.d")) == 1, "doors stay behind"
    world.check()


@pytest.mark.xfail(strict=True, reason="close() of a door closes what its diallers have sent")
def test_a_door_with_unsaid_words_is_closed_at_once(make_world):
    """Diallers wait in the victim's queue with descriptors that linger when it closes its listener, and when it exits."""
    world = make_world(bystander=False)
    program = ("import socket,sys,time\ns=socket.socket();s.bind(('%s',7300));s.listen(9);print('up',flush=True);"
               "sys.stdin.readline();t=time.monotonic();s.close();print(time.monotonic()-t,flush=True)" % conftest.HOST)
    words = people.as_user(people.VICTIM, [*world.daemon.prefix(), "/usr/bin/python3", "-c", program])
    victim = conftest.process.Process(words, name="closes", stdin=conftest.subprocess.PIPE,
                                      stdout=conftest.subprocess.PIPE)
    assert victim.stdout.readline() == b"up\n"

    def part(path):
        listener = Session(path).listener(7300)
        for _ in range(3):
            s, others = client.lingering(4)
            keep.append((others, client.say(listener["door"], b"no hello", [s])))
            client.close_aside(s)
        yield True
    with world.attacker(part) as attacker:
        attacker.next()
        victim.stdin.write(b"close\n")
        victim.stdin.flush()
        took = float(victim.stdout.readline())
        assert took < conftest.PATIENCE_S, f"close() of the listener took {took:.1f} s"
        assert victim.wait(5) == 0
