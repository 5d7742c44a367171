"""Urgent data (MSG_OOB) over a trunk, to an attached server and to one that its daemon connects to by TCP: told, read apart or
among the other bytes, and in its place, whatever happens to the connections below. A peer that does not know such a thing is not
sent any, and the program is told.
"""
import os
import socket
import time

import pytest

from lib import trunk_wire as w
from lib import trunks
from lib.agents import Agent
from lib.trunks import filtered, kill_sockets

HERE = os.path.dirname(os.path.abspath(__file__))
TOLD = "select.select([], [], [x], 20)[2] == [x]"
AT_MARK = "struct.unpack('i', fcntl.ioctl(x, 0x8905, bytes(4)))[0]"   # SIOCATMARK
UNREAD = "struct.unpack('i', fcntl.ioctl(x, 0x541b, bytes(4)))[0]"   # FIONREAD, up to the mark
REFUSED = "OSError [Errno 95] Operation not supported"


def connect(server, client, address="10.99.0.2"):
    """`x` is the connection, in both."""
    server.run(f"""
        import fcntl
        l = socket.create_server(('{address}', 0))
    """)
    port = int(server("l.getsockname()[1]"))
    client(f"!import fcntl; x = socket.create_connection(('{address}', {port}), 20); x.settimeout(None)")
    server("!x = l.accept()[0]")


@pytest.fixture(params=["attached", "by TCP"])
def ends(request, pair):
    pair.wait_up()   # the test before may have cut it
    prefix = pair["b"].prefix() if request.param == "attached" else []
    with Agent(prefix, inside=pair.net["b"]) as server, Agent(pair["a"].prefix(), inside=pair.net["a"]) as client:
        before = sum(t["channels_total"] for t in pair.sessions("a"))
        connect(server, client)
        assert sum(t["channels_total"] for t in pair.sessions("a")) == before + 1
        yield {"server": server, "client": client}


@pytest.fixture(params=["client", "server"])
def way(request, ends):
    """(sender, receiver)"""
    other = "server" if request.param == "client" else "client"
    return ends[request.param], ends[other]


def send(sender, data, urgent=False):
    assert sender(f"x.send({data!r}, {int(socket.MSG_OOB) if urgent else 0})") == str(len(data))


def is_whole(receiver):
    """ab!cd, of which ! is urgent."""
    assert receiver(TOLD) == "True"
    assert receiver("x.recv(1, socket.MSG_OOB)") == repr(b"!")
    assert receiver("x.recv(2, socket.MSG_WAITALL)") == repr(b"ab")
    assert receiver(AT_MARK) == "1"
    assert receiver("x.recv(2, socket.MSG_WAITALL)") == repr(b"cd")
    assert receiver(AT_MARK) == "0"


def test_an_urgent_byte_is_told_and_read_apart(way):
    sender, receiver = way
    send(sender, b"ab")
    send(sender, b"!", urgent=True)
    send(sender, b"cd")
    is_whole(receiver)


def test_an_urgent_byte_is_the_last_of_what_one_call_sends(way):
    sender, receiver = way
    send(sender, b"ab!", urgent=True)
    send(sender, b"cd")
    is_whole(receiver)


def test_among_the_other_bytes_a_read_ends_before_it(way):
    sender, receiver = way
    receiver("!x.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)")
    send(sender, b"ab")
    send(sender, b"!", urgent=True)
    send(sender, b"cd")
    assert receiver(TOLD) == "True"
    assert receiver("x.recv(1, socket.MSG_OOB)").startswith("OSError [Errno 22]")
    assert receiver("x.recv(9)") == repr(b"ab")
    assert receiver(AT_MARK) == "1"
    assert receiver("x.recv(3, socket.MSG_WAITALL)") == repr(b"!cd")


def test_each_that_is_waited_for_comes(way):
    sender, receiver = way
    for n in range(100):
        send(sender, b"data")
        send(sender, b"%d" % (n % 10), urgent=True)
        assert receiver(TOLD) == "True"
        assert receiver("x.recv(1, socket.MSG_OOB)") == repr(b"%d" % (n % 10))
        assert receiver("x.recv(9)") == repr(b"data")


def test_of_several_the_latest_counts(way):
    sender, receiver = way
    send(sender, b"a")
    send(sender, b"1", urgent=True)
    send(sender, b"b")
    send(sender, b"2", urgent=True)
    receiver.run(f"""
        until = time.monotonic() + 20
        while {UNREAD} != 3 and time.monotonic() < until:
            time.sleep(0.01)
    """)
    assert receiver("x.recv(1, socket.MSG_OOB)") == repr(b"2")
    assert receiver("x.recv(9)") == repr(b"a1b")
    assert receiver(AT_MARK) == "1"


def test_it_keeps_its_place_behind_a_full_buffer(way):
    """Megabytes wait before it, in the programs' rings and in what the daemons keep."""
    sender, receiver = way
    receiver("!x.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1); got = bytearray()")
    sender.run("""
        def flood():
            x.sendall(bytes(range(256)) * 20000)
            x.send(b'!', socket.MSG_OOB)
            x.sendall(b'cd')
        t = threading.Thread(target=flood)
        t.start()
        time.sleep(0.3)
    """)
    receiver.run("""
        while len(got) < 256 * 20000 and (more := x.recv(1 << 20)):
            got += more
    """)
    sender("!t.join()")
    assert receiver("bytes(got) == bytes(range(256)) * 20000") == "True"
    assert receiver(TOLD) == "True"
    assert receiver(AT_MARK) == "1"
    assert receiver("x.recv(3, socket.MSG_WAITALL)") == repr(b"!cd")


def test_cuts_between_are_not_seen(way, pair):
    sender, receiver = way
    for _ in range(3):
        send(sender, b"ab")
        kill_sockets(pair)
        send(sender, b"!", urgent=True)
        kill_sockets(pair)
        send(sender, b"cd")
        is_whole(receiver)


def test_what_is_sent_again_is_urgent_again(way, pair):
    """All of it left on a connection on which nothing came."""
    sender, receiver = way
    with filtered(pair.net["b"], "drop"):
        send(sender, b"ab")
        send(sender, b"!", urgent=True)
        send(sender, b"cd")
        time.sleep(0.2)
        kill_sockets(pair)
    is_whole(receiver)


# Accepts one session, and every channel that is opened in it; what comes there is kept in `came`, as (value, body).
PEER = """
    import sys
    sys.path[:0] = [HERE, HERE + '/..']
    from lib import trunk_wire as w
    came = []
    listener = socket.create_server(('10.99.0.2', PORT))
    def serve():
        while True:
            c, _ = listener.accept()
            threading.Thread(target=one, args=(c,), daemon=True).start()
    def take(c, n):
        return c.recv(n, socket.MSG_WAITALL)
    def one(c):
        take(c, 8), take(c, w.HELLO_BYTES)
        c.sendall(w.hello(session=7, packet_bytes=512, features=FEATURES))
        sequence = last = 0
        while len(data := take(c, 512)) == 512:
            p = w.Packet(data)
            if p.kind == w.DUMMY:
                c.sendall(w.packet(w.ACK, 512, session=7, sequence=sequence, ack=last, echo=p.stamp))
            if p.kind != w.DATA:
                continue
            last = p.sequence
            for channel, kind, value, body in p.frames():
                if kind == w.OPEN:
                    sequence += 1
                    accept = w.frame(channel, w.ACCEPT, struct.pack('<Q', 1 << 20))
                    c.sendall(w.packet(w.DATA, 512, session=7, sequence=sequence, ack=last, payload=accept))
                elif kind == w.FRAME_DATA:
                    came.append((value, body))
    threading.Thread(target=serve, daemon=True).start()
"""


def when_came(agent, count):
    agent.run(f"""
        until = time.monotonic() + 10
        while sum(len(b) for v, b in came) < {count} and time.monotonic() < until:
            time.sleep(0.01)
    """)
    return agent("came")


@pytest.mark.parametrize("knows", [False, True])
def test_only_a_peer_that_knows_it_is_sent_any(own_net, knows):
    p = trunks.Pair(own_net)
    try:
        p["a"].start()
        with Agent([], inside=own_net["b"]) as peer, Agent(p["a"].prefix(), inside=own_net["a"]) as client:
            peer(f"!HERE, PORT, FEATURES = {HERE!r}, {trunks.PORT}, {w.KNOWS_URGENT if knows else 0}")
            peer.run(PEER)
            trunks.wait_up(p["a"])
            client.run("x = socket.create_connection(('10.99.0.2', 7801), 10)")
            send(client, b"ab")
            assert client("x.send(b'!', socket.MSG_OOB)") == ("1" if knows else REFUSED)
            if not knows:
                send(client, b"!")
            send(client, b"cd")
            said = eval(when_came(peer, 5))
            assert b"".join(body for _, body in said) == b"ab!cd"
            assert [body[-1:] for value, body in said if value == w.URGENT] == ([b"!"] if knows else [])
            assert all(value in (0, w.URGENT) for value, _ in said)
    finally:
        p.close()


@pytest.mark.parametrize("knows", [False, True])
def test_only_a_peer_that_said_that_it_knows_it_is_listened_to(pair, knows):
    """The peer is the one that connects. What it calls urgent is an ordinary byte unless it has said so."""
    with Agent(pair["b"].prefix(), inside=pair.net["b"]) as server, Agent([], inside=pair.net["a"]) as peer:
        server("!import fcntl; l = socket.create_server(('10.99.0.2', 7802))")
        peer(f"!sys.path[:0] = [{HERE!r}, {HERE + '/..'!r}]; import hostile; from hostile import w")
        peer.run(f"""
            p = hostile.Peer('10.99.0.2', {trunks.PORT})
            assert p.hello(features={w.KNOWS_URGENT if knows else 0}, node=77) == 0
            p.send(w.open_frame(1, ('10.99.0.1', 5000), ('10.99.0.2', 7802)))
            p.frames_until(w.ACCEPT)
            p.send(w.frame(1, w.FRAME_DATA, b'ab!', value=w.URGENT) + w.frame(1, w.FRAME_DATA, b'cd'))
        """)
        server("!x = l.accept()[0]")
        if knows:
            is_whole(server)
        else:
            assert server("x.recv(5, socket.MSG_WAITALL)") == repr(b"ab!cd")
            server("!x.setblocking(False)")
            assert server("x.recv(1, socket.MSG_OOB)").startswith("OSError [Errno 22]")
        assert server("x.send(b'?', socket.MSG_OOB)") == ("1" if knows else REFUSED)
        if knows:
            assert peer("p.frames_until(w.FRAME_DATA)[1:]") == repr((w.URGENT, b"?"))
        send(server, b".")
        assert peer("p.frames_until(w.FRAME_DATA)[1:]") == repr((0, b"."))
