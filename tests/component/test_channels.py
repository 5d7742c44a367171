"""Message channels of libvmsgr through real daemons: local, over TCP, and beside strangers."""
import ctypes
import errno
import hashlib
import os
import select
import socket
import threading
import time

import pytest
from lib import channels
from lib.channels import BYE, DATA, HELLO, MORE, Pair, Session, frame, hello, raises, read_frame, wait_for_listener

pytestmark = pytest.mark.fast


@pytest.fixture(params=["local", "direct"])
def pair(request, daemon, other_daemon):
    with Pair(daemon, daemon if request.param == "local" else other_daemon) as p:
        assert p.a.is_local == p.b.is_local == (request.param == "local")
        yield p


def poll(thing, events, timeout_ms=0):
    p = select.poll()
    p.register(thing.fileno(), events)
    found = p.poll(timeout_ms)
    return found[0][1] if found else 0


def test_messages_keep_order_and_boundaries(pair):
    sent = [b"", b"x", b"seven 7", b"eight 88", os.urandom(65536), b"last"]
    for message in sent:
        pair.a.send(message)
    assert [pair.b.recv() for _ in sent] == sent
    raises(errno.EAGAIN, pair.b.recv, timeout_ms=0)
    raises(errno.ETIMEDOUT, pair.b.recv, timeout_ms=20)
    pair.b.send(b"answer")
    assert pair.a.recv() == b"answer"
    assert pair.a.max == pair.b.max == 65536
    raises(errno.EMSGSIZE, pair.a.send, bytes(65537))
    pair.a.finish()
    raises(errno.ENODATA, pair.b.recv)
    assert "has finished" in pair.b.why()[1]
    pair.b.send(b"one way still")
    assert pair.a.recv() == b"one way still"


def test_in_place(pair):
    for size in (0, 1, 4096, 65536) * 40:   # more than a ring
        at = pair.a.reserve(65536)
        assert at % 8 == 0
        data = os.urandom(size)
        ctypes.memmove(at, data, size)
        pair.a.commit(size)
        assert pair.b.peek() == data
        assert pair.b.peek() == data
        pair.b.release()
    raises(errno.EINVAL, pair.b.release)
    raises(errno.EINVAL, pair.a.commit, 1)


def test_a_buffer_that_is_too_small_leaves_the_message(pair):
    pair.a.send(b"12345")
    raises(errno.EMSGSIZE, pair.b.recv, 4)
    assert pair.b.recv(5) == b"12345"


def test_more_is_held_back_and_flushed(pair):
    pair.a.send(b"1", MORE)
    raises(errno.EAGAIN, pair.b.recv, timeout_ms=0)
    pair.a.send(b"2", MORE)
    pair.a.flush()
    assert (pair.b.recv(), pair.b.recv()) == (b"1", b"2")


def test_many_messages_both_ways_with_two_threads_an_end(pair):
    count, hashes = 3000, {}
    sizes = [(i * 7919) % 9000 for i in range(count)]

    def send(channel, name):
        sha = hashlib.sha256()
        for i, size in enumerate(sizes):
            data = bytes([i % 251]) * size
            sha.update(data)
            channel.send(data, MORE if i % 3 else 0)
        channel.finish()
        hashes[name] = sha.hexdigest()

    def receive(channel, name):
        sha, n = hashlib.sha256(), 0
        while True:
            try:
                data = channel.recv()
            except OSError as e:
                hashes[name] = sha.hexdigest() if (e.errno, n) == (errno.ENODATA, count) else f"{e} after {n}"
                return
            if len(data) != sizes[n]:
                hashes[name] = f"message {n} has {len(data)} bytes"
                return
            sha.update(data)
            n += 1

    threads = [threading.Thread(target=f, args=(c, name)) for f, c, name in (
        (send, pair.a, "to b"), (receive, pair.b, "at b"), (send, pair.b, "to a"), (receive, pair.a, "at a"))]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert hashes["to b"] == hashes["at b"] and hashes["to a"] == hashes["at a"], hashes
    assert pair.a.stats()["messages_sent"] == pair.b.stats()["messages_received"] == count
    assert pair.a.stats()["bytes_received"] == sum(sizes)


def test_descriptors_tell_when_to_go_on(pair):
    raises(errno.EAGAIN, pair.b.recv, timeout_ms=0)
    assert poll(pair.b, select.POLLIN) == 0
    assert poll(pair.a, select.POLLOUT) == select.POLLOUT
    pair.a.send(b"1")
    pair.a.send(b"2")
    assert poll(pair.b, select.POLLIN, 2000) == select.POLLIN
    assert (pair.b.recv(), pair.b.recv()) == (b"1", b"2")


def test_both_rings_full_and_both_go_on(pair):
    """Two ends that both send first until nothing goes any more: neither waits for ever once they read."""
    message, sent = bytes(60000), {}
    for name in ("a", "b"):
        channel, n = getattr(pair, name), 0
        try:
            while True:
                channel.send(message, timeout_ms=0 if pair.a.is_local else 300)
                n += 1
        except OSError as e:
            assert e.errno == (errno.EAGAIN if pair.a.is_local else errno.ETIMEDOUT)
        assert n > 10
        assert poll(channel, select.POLLOUT) == 0
        sent[name] = n
    for sender, receiver, n in ((pair.a, pair.b, sent["a"]), (pair.b, pair.a, sent["b"])):
        for _ in range(n):
            assert len(receiver.recv()) == 60000
        raises(errno.EAGAIN, receiver.recv, timeout_ms=0)
        assert poll(sender, select.POLLOUT, 2000) == select.POLLOUT
        sender.send(b"again")
        assert receiver.recv() == b"again"


def test_requests(pair):
    pending = [pair.b.irecv(100) for _ in range(3)]
    assert channels.test(pending[0]) is None
    raises(errno.EBUSY, pair.b.recv, timeout_ms=0)
    raises(errno.EAGAIN, channels.wait, pending[0], 0)
    assert channels.cancel(pending[1]) == 1
    raises(errno.ECANCELED, channels.test, pending[1])
    sends = [pair.a.isend(b"first"), pair.a.isend(b"second"), pair.a.isend(b"x" * 101)]
    assert [channels.wait(r) for r in sends] == [5, 6, 101]
    assert channels.wait(pending[2]) == 6   # in order: the first is done as well
    assert channels.test(pending[0]) == 5
    assert (pending[0].buffer.raw[:5], pending[2].buffer.raw[:6]) == (b"first", b"second")
    small = pair.b.irecv(100)
    raises(errno.EMSGSIZE, channels.wait, small)
    assert pair.b.recv() == b"x" * 101
    # Far more than a ring: they go on as the other side reads.
    many = [pair.a.isend(bytes(50000)) for _ in range(1200)]
    assert pair.a.progress() > 0
    raises(errno.EBUSY, pair.a.send, b"out of order")
    for _ in many:
        while True:
            try:
                assert len(pair.b.recv(timeout_ms=0)) == 50000
                break
            except BlockingIOError:
                pair.a.progress()
    assert [channels.wait(r) for r in many] == [50000] * 1200
    assert pair.a.progress() == 0


def test_the_daemon_shows_them(pair, daemon):
    pair.a.send(b"seen")
    pair.b.recv()
    found = [c for c in daemon.status()["connections"] if c["route"] == "libvmsgr" and c["pid"] == os.getpid()]
    assert found and all(c["path"] == ("local" if pair.a.is_local else "direct") for c in found), found


def test_ipv6(daemon):
    with Pair(daemon, daemon, "::1") as p:
        assert p.a.is_local
        p.a.send(b"six")
        assert p.b.recv() == b"six"


def test_sizes_are_agreed_and_bounded(daemon):
    with Pair(daemon, daemon, max_message_bytes=524272) as p:
        data = os.urandom(524272)
        for _ in range(5):
            p.a.send(data)
            assert p.b.recv() == data
    with Session(daemon.socket) as s:
        text = raises(errno.EINVAL, s.listen, max_message_bytes=524273)
        assert "524272 that half a ring takes: raise ring_bytes" in text
        assert "1024 to half" in raises(errno.EINVAL, s.listen, max_message_bytes=1023)
        assert "size 8, or an option set" in raises(errno.EINVAL, s.connect, 1, size=8)
        assert "at most 31" in raises(errno.EINVAL, s.connect, 1, name="n" * 32)


def test_opening_that_fails_names_the_next_step(daemon):
    with Session(daemon.socket) as s, socket.create_server(("127.0.0.1", 0)) as plain:
        port = plain.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in raises(errno.EADDRINUSE, s.listen, port=port)
        with socket.create_server(("127.0.0.1", 0)) as closed:
            free = closed.getsockname()[1]
        assert "start the other side first" in raises(errno.ECONNREFUSED, s.connect, free)
        assert "does it call accept" in raises(errno.ETIMEDOUT, s.connect, port, timeout_ms=100)
        with socket.create_server(("127.0.0.9", 0)) as listener:   # a route of `daemon` denies it
            port = listener.getsockname()[1]
            assert "denies 127.0.0.9:" in raises(errno.EACCES, s.connect, port, "127.0.0.9")


def test_a_peer_that_speaks_the_frames_over_plain_tcp(daemon):
    """Both ways round, by an implementation that knows docs/PROTOCOL.md alone."""
    with Session(daemon.socket) as s, s.listen() as listener:
        with socket.create_connection(("127.0.0.1", listener.port)) as peer:
            peer.sendall(hello() + frame(DATA, b"early"))
            with listener.accept() as c:
                assert not c.is_local and c.recv() == b"early"
                assert read_frame(peer)[0] == HELLO
                c.send(b"to tcp")
                assert read_frame(peer) == (DATA, b"to tcp")
                whole = frame(DATA, b"in two pieces" * 1000)
                peer.sendall(whole[:1001])
                raises(errno.ETIMEDOUT, c.recv, timeout_ms=50)
                peer.sendall(whole[1001:] + frame(BYE))
                assert c.recv() == b"in two pieces" * 1000
                raises(errno.ENODATA, c.recv)
                c.finish()
                assert read_frame(peer) == (BYE, b"")
                assert read_frame(peer) is None
        with socket.create_server(("127.0.0.1", 0)) as server:
            def serve():
                peer, _ = server.accept()
                with peer:
                    peer.sendall(hello(max_message_bytes=2000))
                    read_frame(peer)
                    peer.sendall(frame(*read_frame(peer)))
                    read_frame(peer)
            thread = threading.Thread(target=serve)
            thread.start()
            with s.connect(server.getsockname()[1]) as c:
                assert c.max == 2000
                c.send(b"echo")
                assert c.recv() == b"echo"
                c.finish()
                raises(errno.ECONNRESET, c.recv)   # it ends without a bye
                assert "without closing the channel" in c.why()[1]
            thread.join()


def test_strangers_are_refused_and_hold_nobody_up(daemon):
    with Session(daemon.socket) as s, s.listen() as listener:
        port = listener.port
        wait_for_listener(daemon, port)
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        http = socket.create_connection(("127.0.0.1", port))
        http.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        other = socket.create_connection(("127.0.0.1", port))
        other.sendall(hello(version=7))
        good = []
        thread = threading.Thread(target=lambda: good.append(s.connect(port)))
        thread.start()
        with listener.accept() as c:
            thread.join()
            good[0].send(b"through")
            assert c.recv() == b"through"
        good[0].close()
        raises(errno.ETIMEDOUT, listener.accept, 300)
        accepted, refused, why = listener.counts()
        assert (accepted, refused) == (1, 2) and ("speaks version 7" in why or "no message channel" in why), why
        for peer in (http, other):
            peer.settimeout(5)
            try:
                while peer.recv(4096):
                    pass
            except ConnectionResetError:
                pass
        for peer in (*silent, http, other):
            peer.close()


def test_more_strangers_than_a_listener_keeps(daemon):
    """The oldest go at once; who speaks is not held up."""
    with Session(daemon.socket) as s, s.listen() as listener:
        wait_for_listener(daemon, listener.port)
        silent = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(70)]
        good, began = [], time.monotonic()
        thread = threading.Thread(target=lambda: good.append(s.connect(listener.port)))
        thread.start()
        with listener.accept() as c:
            thread.join()
            good[0].send(b"through")
            assert c.recv() == b"through" and time.monotonic() - began < 1.5
            raises(errno.ETIMEDOUT, listener.accept, 100)
            accepted, refused, why = listener.counts()
            assert (accepted, refused) == (1, 6) and "said no hello, and 64 others came" in why, (refused, why)
            good[0].close()
        late = silent[-1]
        late.sendall(hello() + frame(DATA, b"late"))
        with listener.accept() as c:
            assert c.recv() == b"late"
        for peer in silent:
            peer.close()


def test_connecting_to_a_server_that_speaks_something_else(daemon):
    with Session(daemon.socket) as s, socket.create_server(("127.0.0.1", 0)) as server:
        answers = [b"HTTP/1.1 400 Bad Request\r\n\r\n", hello(version=3), b""]

        def serve():
            for answer in answers:
                peer, _ = server.accept()
                peer.sendall(answer)
                time.sleep(0.1 if answer else 0)
                peer.close()
        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        assert "is no message channel" in raises(errno.EPROTO, s.connect, port)
        assert "speaks version 3 of message channels, this library version 1" in raises(
            errno.EPROTONOSUPPORT, s.connect, port)
        assert "ended the connection before a word" in raises(errno.ECONNRESET, s.connect, port)
        thread.join()
