"""Lies in a hello (attacks 10 and 14 on the first protocol): a wrong descriptor, an address that is not the dialler's, a
daemon that is none. None is accepted; the next honest dialler is, at once; nothing of it stays open.
"""
import ctypes
import os
import select
import socket
import struct
import time

import pytest

import client
import conftest
import people
from client import Arena, Session, address, bound, dial, hello, knock, say

IP_FREEBIND, IPV6_FREEBIND = (socket.IPPROTO_IP, 15, 1), (socket.IPPROTO_IPV6, 78, 1)
IPPROTO_MPTCP = 262
WELL_KNOWN = ("127.0.0.1", 7777)


def listening():
    s = bound()
    s.listen(1)
    return s


def connected():
    return socket.create_connection((conftest.HOST, conftest.PLAIN_PORT))


def connecting():
    """Waits for an answer that does not come: the queue there is full."""
    there = bound()
    there.listen(0)
    waiting = []
    for _ in range(3):
        s = bound()
        s.setblocking(False)
        s.connect_ex(there.getsockname())
        waiting.append(s)
    keep.append((there, waiting))
    return waiting[-1]


def elsewhere():
    """Bound in another network namespace, where anybody has any address."""
    mine, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        people.unshare(people.CLONE_NEWUSER | people.CLONE_NEWNET)
        s = bound("127.0.0.1", 0, socket.SOCK_STREAM, IP_FREEBIND)
        socket.send_fds(theirs, [b"x"], [s.fileno()])
        os._exit(0)
    _, fds, _, _ = socket.recv_fds(mine, 1, 1)
    os.waitpid(pid, 0)
    return socket.socket(fileno=fds[0])


def pidfd():
    return os.pidfd_open(os.getpid())


keep = []     # what the attacker holds
honest = []   # an arena, and the connections that were in it
PROOFS = {
    "a file": lambda: os.open("/etc/hostname", os.O_RDONLY),
    "a folder": lambda: os.open("/tmp", os.O_RDONLY),
    "a name of a file": lambda: os.open("/etc/hostname", os.O_PATH),
    "zeros": lambda: os.open("/dev/zero", os.O_RDWR),
    "memory": lambda: client.memory(4096),
    "an arena": Arena,
    "a pipe": lambda: os.pipe()[0],
    "an epoll": lambda: select.epoll(),
    "an eventfd": lambda: os.eventfd(0),
    "a process": pidfd,
    "a unix socket": lambda: socket.socketpair()[0],
    "a udp socket": lambda: bound(type=socket.SOCK_DGRAM),
    "an mptcp socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP),
    "not bound": lambda: socket.socket(),
    "listening": listening,
    "connected": connected,
    "connecting": connecting,
    "of another namespace": elsewhere,
    "an address that is nobody's": lambda: bound("203.0.113.9", 0, socket.SOCK_STREAM, IP_FREEBIND),
    "the same over v6": lambda: bound("2001:db8::9", 0, socket.SOCK_STREAM, IPV6_FREEBIND),
    "mapped": lambda: bound("::ffff:203.0.113.9", 0, socket.SOCK_STREAM, IP_FREEBIND),
    "loopback of v6": lambda: bound("::1"),
}


def honest_after(listener):
    """A dialler behind those that lie: it is served, so they have been dealt with. Seconds that it took."""
    if not honest:
        honest.append(Arena(slots=64))   # one for all: the acceptor keeps arenas for a while
    began = time.monotonic()
    end = dial(listener, arena=honest[0], slot=(len(honest) - 1) % 64)
    assert end.echo()
    took = time.monotonic() - began
    end.close()
    honest.append(end)
    return took


def strangers(world):
    """What the victim has accepted beside the bystander's, the tests' and honest diallers' connections."""
    return [a for a in world.victim.says("accepted") if a["kind"] != "socket"]


def refused_by_the_victim(world, part, may_keep=4):
    """The part yields names of lies, each followed by an honest dialler; after it, nothing of the lies is there."""
    with world.attacker(part) as attacker:
        before = attacker.next()
        world.victim.check()
        descriptors, accepted = world.victim.descriptors(), len(world.victim.says("accepted"))
        lies, slowest = attacker.next(60)
        assert lies
        assert slowest < conftest.PATIENCE_S
        sources = attacker.next()
        found = [a for a in world.victim.says("accepted")[accepted:] if a["accepted"] in sources]
        assert found == [], f"accepted in spite of the lie: {found}"
        assert not strangers(world)
        assert before is not None
        conftest.process.wait_until(lambda: world.victim.descriptors() <= descriptors + may_keep, 5,
                                    "the victim to have closed what came with the lies")


def test_the_proof_is_no_bound_tcp_socket(world):
    def part(path):
        session = Session(path)
        listener = session.listener(conftest.PORT)
        yield honest_after(listener)
        slowest, names, sources = 0, [], []
        for name, make in PROOFS.items():
            proof = make()
            said = WELL_KNOWN
            if isinstance(proof, socket.socket) and proof.family != socket.AF_UNIX:
                said = proof.getsockname()[:2]
            sources.append(list(said))
            for fds in ([proof, Arena()], [Arena(), proof], [proof], [proof, proof], [proof, Arena(), proof],
                        [proof] * 253):
                try:
                    end = dial(listener, fds=fds, said_source=said)
                except OSError as e:
                    assert e.errno == 109, e   # ETOOMANYREFS: more than this user may have under way
                    continue
                keep.append(end)
            slowest = max(slowest, honest_after(listener))
            names.append(name)
        yield names, slowest
        yield sources
    refused_by_the_victim(world, part)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_the_destination_is_not_the_listener(make_world, host):
    """A listener on all addresses is reached at those of this host alone, by sources from which the kernel would come."""
    world = make_world(host=host, bystander=False)

    def part(path):
        session = Session(path)
        listener = session.listener(conftest.PORT)
        port = listener["port"]
        yield honest_after(listener)
        targets = [("203.0.113.9", port), ("127.0.0.1", port + 1), ("127.0.0.1", 0), ("0.0.0.0", port), ("::", port),
                   ("::ffff:203.0.113.9", port), ("::ffff:0.0.0.0", port), ("2001:db8::1", port),
                   ("255.255.255.255", port), ("224.0.0.1", port), ("ff02::1", port)]
        slowest, names, sources = 0, [], []
        for to in targets:
            for source in (bound(), bound("::1"), bound("203.0.113.9", 0, socket.SOCK_STREAM, IP_FREEBIND),
                           bound("2001:db8::1", 0, socket.SOCK_STREAM, IPV6_FREEBIND), bound("0.0.0.0"), bound("::"),
                           bound("::ffff:203.0.113.9", 0, socket.SOCK_STREAM, IP_FREEBIND)):
                if (to[0], source.getsockname()[0]) in (("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")) and to[1] == port:
                    continue   # true
                keep.append(dial(listener, source=source, to=to))
                sources += [[h, source.getsockname()[1]] for h in (source.getsockname()[0], to[0],
                                                                   "::ffff:" + to[0], "127.0.0.1", "::ffff:127.0.0.1")]
            slowest = max(slowest, honest_after(listener))
            names.append(to)
        yield names, slowest
        true = [list(end.port.getsockname()[:2]) for end in honest[1:]]   # the same number in another family is no lie
        yield [s for s in sources if s[1] not in [port for _, port in true]]
    refused_by_the_victim(world, part)
    world.victim.check()


def test_the_source_is_the_sockets_whatever_is_said(world):
    def part(path):
        listener = Session(path).listener(conftest.PORT)
        ends = []
        for said in (WELL_KNOWN, ("203.0.113.9", 1), ("::1", 5), ("127.0.0.1", 0)):
            end = dial(listener, said_source=said)
            ends.append((list(end.port.getsockname()), list(said), end.echo(), end))
        yield [e[:3] for e in ends]
    with world.attacker(part) as attacker:
        for true, said, echoed in attacker.next():
            assert echoed
            assert len(world.victim.accepted(true)) == 1
            assert world.victim.accepted(said) == []


def test_a_daemon_that_is_none(world):
    """With its flag one could tell any address, and bring any TCP socket."""
    def part(path):
        session = Session(path)
        listener = session.listener(conftest.PORT)
        tcp = bound(conftest.HOST, 7100)
        tcp.listen(5)
        _, door, lifeline, secret = session.listen(tcp)
        keep.append((door, lifeline))
        yield honest_after(listener)
        local, peer = address(conftest.HOST, conftest.PORT), address("198.51.100.7", 443)
        slowest, names = 0, []
        for word in (b"", bytes(16), b"\xff" * 16, os.urandom(16), secret, secret[:15]):
            for flags in (client.BY_DAEMON, client.BY_DAEMON | client.PLAIN, client.BY_DAEMON | client.TRUNK, 0xFFFF):
                for fds in ([Arena()], [connected()], [bound(), Arena()], [Arena(), connected()], []):
                    message = hello(local, peer, flags=flags, secret=word, id=listener["id"], shown=0)
                    keep.append(say(listener["door"], message, fds))
            slowest = max(slowest, honest_after(listener))
            names.append(word)
        for flags in (client.PLAIN, client.TRUNK, client.PLAIN | client.TRUNK):
            for fds in ([Arena()], [connected()], [connected(), Arena()]):
                keep.append(say(listener["door"], hello(local, peer, flags=flags), fds))
        yield names, max(slowest, honest_after(listener))
        yield [["198.51.100.7", 443]]
    refused_by_the_victim(world, part)


def test_the_secret_of_a_listener_is_not_to_be_had(world):
    """By what is left for heirs: who dials a door holds its other end, not the door."""
    def part(path):
        session = Session(path)
        listener = session.listener(conftest.PORT)
        end = dial(listener)
        assert end.echo()
        answers = []
        for shown in (end, knock(listener["door"]), os.open(listener["door"], os.O_PATH)):
            answers.append(session.ask(client.ADOPT, [shown])[0])
        yield answers
    with world.attacker(part) as attacker:
        assert attacker.next() == [2, 2, 2]


def test_words_that_are_no_hello(world):
    def part(path):
        session = Session(path)
        listener = session.listener(conftest.PORT)
        yield honest_after(listener)
        source = bound()
        true = hello(address(conftest.HOST, conftest.PORT), address(*source.getsockname()))
        words = [b"\0", true[:87], true[:44], os.urandom(88), b"\xb7" * 88, b"GET / HTTP/1.1\r\n\r\n",
                 struct.pack("=I", 0) + true[4:], true[:4] + struct.pack("=H", 0) + true[6:],
                 true[:4] + struct.pack("=H", 2) + true[6:], true[:4] + struct.pack("=H", 0xFFFF) + true[6:],
                 true[:24] + bytes(24) + true[48:], true[:24] + b"\xff" * 24 + true[48:], bytes(60000)]
        slowest = 0
        for word in words:
            keep.append(say(listener["door"], word, [source, Arena()]))
            slowest = max(slowest, honest_after(listener))
        yield words, slowest
        yield [list(source.getsockname())]
    refused_by_the_victim(world, part)


def test_a_hello_in_pieces(world):
    """Each byte alone, with the descriptors on the first or on the last: accepted or turned away, and nobody waits."""
    def part(path):
        session = Session(path)
        listener = session.listener(conftest.PORT)
        yield honest_after(listener)
        slowest, sources = 0, []
        for pause in (0, 5e-6, 19e-6, 1e-3):
            for fds_with in (0, 87):
                source, arena = bound(), Arena()
                sources.append(list(source.getsockname()))
                word = hello(address(conftest.HOST, conftest.PORT), address(*source.getsockname()))
                bell = knock(listener["door"])
                try:
                    for i in range(88):
                        fds = [source.fileno(), arena.fileno()] if i == fds_with else []
                        socket.send_fds(bell, [word[i:i + 1]], fds)
                        if pause:
                            time.sleep(pause)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                keep.append((bell, source, arena))
            slowest = max(slowest, honest_after(listener))
        yield sources, slowest
        yield []
    refused_by_the_victim(world, part, may_keep=28)   # some are quick enough


def test_more_behind_a_true_hello(world):
    """A second hello, garbage, half closed at once, or gone: at most this connection ends."""
    def part(path):
        session = Session(path)
        listener = session.listener(conftest.PORT)
        yield honest_after(listener)
        slowest = 0
        for more in (b"second", b"\xb7" * 3, bytes(5000), "half", "gone"):
            source, arena = bound(), Arena()
            word = hello(address(conftest.HOST, conftest.PORT), address(*source.getsockname()))
            bell = say(listener["door"], word + more if isinstance(more, bytes) else word, [source, arena])
            if more == "half":
                bell.shutdown(socket.SHUT_WR)
            elif more == "gone":
                bell.close()
            elif more == b"second":
                try:
                    socket.send_fds(bell, [word], [source.fileno(), arena.fileno()])
                except OSError:
                    pass
            keep.append((bell, source, arena))
            slowest = max(slowest, honest_after(listener))
        yield True, slowest
        yield []
    refused_by_the_victim(world, part, may_keep=15)   # these were no lies


def test_one_socket_for_two_connections(world):
    """Two with one and the same pair of addresses: TCP never has that. Both work, or one does; nobody is harmed."""
    def part(path):
        listener = Session(path).listener(conftest.PORT)
        source = bound()
        ends = [dial(listener, source=source) for _ in range(2)]
        try:
            yield [e.echo(timeout_s=2) for e in ends]
        except TimeoutError:
            yield [True, True]
    with world.attacker(part) as attacker:
        assert attacker.next() == [True, True]


def test_a_proof_that_changes_later(world):
    """Bound anew, connected or listening after the hello: the victim goes on with what it was."""
    def part(path):
        listener = Session(path).listener(conftest.PORT)
        ends = [dial(listener) for _ in range(3)]
        sources = [list(e.port.getsockname()) for e in ends]
        assert all([e.echo() for e in ends])
        ends[0].port.listen(1)
        ends[1].port.connect((conftest.HOST, conftest.PLAIN_PORT))
        libc = ctypes.CDLL(None)
        libc.connect(ends[2].port.fileno(), struct.pack("=H14x", 0), 16)   # gives its port back
        yield sources, [e.echo() for e in ends]
    with world.attacker(part) as attacker:
        sources, echoed = attacker.next()
        assert echoed == [True, True, True]
        assert [len(world.victim.accepted(s)) for s in sources] == [1, 1, 1]


LINGERING = {
    "as proof": lambda s, source: ([s, Arena()],),
    "as memory": lambda s, source: ([source, s],),
    "both": lambda s, source: ([s, s],),
    "as the fifth": lambda s, source: ([source, Arena(), source, source, s],),
    "as the 253rd": lambda s, source: ([source] * 252 + [s],),
    "behind a hello": lambda s, source: ([source], [s]),
    "behind many others": lambda s, source: ([source], *[[source]] * 100, [s]),
}


def test_what_a_hello_carries_does_not_hold_the_acceptor_up(world):
    """A TCP socket whose last close waits for 6 s: whoever drops it last would wait, and serve nobody."""
    def lie(listener, how, s):
        source = bound()
        word = hello(address(conftest.HOST, conftest.PORT), address(*source.getsockname()), version=2)
        for _ in range(50):   # the acceptor has something to do until all of it has been sent
            keep.append(knock(listener["door"]))
        bell = knock(listener["door"])
        bell.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        try:
            for fds in LINGERING[how](s, source):
                socket.send_fds(bell, [word], [client.number(fd) for fd in fds])
            return True
        except (BrokenPipeError, ConnectionResetError):
            return False
        finally:
            bell.close()

    def part(path):
        listener = Session(path).listener(conftest.PORT)
        for how in LINGERING:
            sent = 0
            for _ in range(10):
                s, others = client.lingering(6)
                keep.append(others)
                if lie(listener, how, s):
                    sent += 1
                    client.close_aside(s)
                else:
                    keep.append(s)   # it would wait here
            yield how, sent, honest_after(listener)
    with world.attacker(part) as attacker:
        for _ in LINGERING:
            how, sent, took = attacker.next()
            assert sent, f"{how}: the acceptor was always faster"
            assert took < conftest.PATIENCE_S, f"{how}: the next dialler waited for {took:.1f} s"
            world.victim.check()
