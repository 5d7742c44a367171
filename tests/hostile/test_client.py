"""The hand-made client is right: what it is refused elsewhere is refused for the lie, not for a mistake of its own."""
import socket

import client
import conftest
from client import Session, dial


def test_what_is_said_honestly_is_accepted(world):
    def part(path):
        session = Session(path)
        end = dial(session.listener(conftest.PORT))
        source = end.port.getsockname()
        yield source, end.echo(), end.echo(b"x" * 3000)
        end.close()
        yield None
    with world.attacker(part) as attacker:
        source, *echoes = attacker.next()
        assert echoes == [True, True]
        assert [a["kind"] for a in world.victim.accepted(source)] == ["socket"]
        attacker.next()


def test_a_listener_made_by_hand_is_dialled(world):
    def part(path):
        session = Session(path)
        tcp = client.bound(conftest.HOST, 7100)
        tcp.listen(5)
        id, door, lifeline, secret = session.listen(tcp)
        yield [found["id"] for found in session.listeners() if found["port"] == 7100] == [id]
        door.settimeout(10)
        accepted, _ = door.accept()
        hello, fds, _, _ = socket.recv_fds(accepted, 200, 8)
        yield len(hello), len(fds), hello[72:88] == secret
    with world.attacker(part) as attacker:
        assert attacker.next() is True
        with socket.create_connection((conftest.HOST, 7100)):   # plain: the daemon brings it
            assert attacker.next() == (88, 1, True)


def test_the_daemon_carries_a_connection(world):
    def part(path):
        session = Session(path)
        id, end = session.connect_through_daemon(conftest.HOST, conftest.PLAIN_PORT)
        echoed = end.echo()
        status, _, _, fds = session.ask(client.BORROW, [end], id=id)
        yield echoed, status, len(fds), session.stands()
    with world.attacker(part) as attacker:
        assert attacker.next() == (True, 0, 1, True)
