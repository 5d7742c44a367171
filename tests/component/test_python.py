"""The Python package: what its documentation says, on memory and over TCP; and that it declares what the header does."""
import asyncio
import errno
import os
import re
import subprocess
import sys
import threading
import time

import pytest
from lib import channels, process   # puts the package where it is found

import vmsgr
from vmsgr import _library as abi
from vmsgr import aio

PACKAGE = os.path.join(process.ROOT, "python")


@pytest.fixture(params=["local", "through two daemons"])
def pair(request, daemon, other_daemon):
    """Two connected channels."""
    far = daemon if request.param == "local" else other_daemon
    with vmsgr.Session(daemon.socket, "asker") as asker, vmsgr.Session(far.socket, "server") as server:
        with server.listen() as listener:
            host, port = listener.address
            channels.wait_for_listener(far, port)
            made = []
            thread = threading.Thread(target=lambda: made.append(asker.connect(host, port)))
            thread.start()
            with listener.accept(5) as b:
                thread.join()
                with made[0] as a:
                    assert a.is_local == (request.param == "local")
                    yield a, b


def test_messages_come_whole_and_in_order(pair):
    a, b = pair
    messages = [bytes([n % 256]) * (n * 37 % 3000) for n in range(500)]
    thread = threading.Thread(target=lambda: [a.send(m, more=n % 3 != 0) for n, m in enumerate(messages)] and a.finish())
    thread.start()
    assert list(b) == messages
    thread.join()
    assert b.counters().messages_received == 500 and a.counters().bytes_sent == sum(map(len, messages))
    b.send(b"the other way goes on")
    assert a.recv(5) == b"the other way goes on"
    assert a.peer == b.address or not a.is_local
    assert a.max_message_bytes == 65536


def test_errors_are_those_of_their_errno(daemon, pair):
    a, b = pair
    with pytest.raises(BlockingIOError):
        b.recv(0)
    with pytest.raises(TimeoutError):
        b.recv(0.05)
    with pytest.raises(OSError) as e:
        a.send(bytes(65537))
    assert e.value.errno == errno.EMSGSIZE and a.why() is None
    b.close()
    b.close()
    with pytest.raises(EOFError):
        a.recv(5)
    with pytest.raises(ConnectionError):   # a broken pipe, or a reset where TCP lies between
        for _ in range(1000):
            a.send(b"nobody")
            time.sleep(0.01)
    with pytest.raises(ValueError, match="Channel is closed"):
        b.recv(0)
    with vmsgr.Session(daemon.socket) as s:
        with pytest.raises(ConnectionRefusedError):
            s.connect("127.0.0.1", 1)
    with pytest.raises(FileNotFoundError, match="vmsgrd"):
        vmsgr.Session("/nowhere/vmsgrd.sock")


def test_asyncio(pair):
    a, b = (aio.Channel(c) for c in pair)

    async def talk():
        async def echo():
            async for message in b:
                await b.send(message)
            b.finish()
        answering = asyncio.create_task(echo())
        sent = [os.urandom(n * 131 % 60000) for n in range(300)]

        async def send():
            for m in sent:
                await a.send(m)
            a.finish()
        sending = asyncio.create_task(send())
        assert [m async for m in a] == sent
        await asyncio.gather(sending, answering)
    asyncio.run(asyncio.wait_for(talk(), 20))


def test_a_cancelled_wait_takes_nothing(pair):
    a, b = (aio.Channel(c) for c in pair)

    async def talk():
        for n in range(50):
            waiting = asyncio.create_task(b.recv())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await a.send(str(n).encode())
            assert await b.recv() == str(n).encode()
    asyncio.run(asyncio.wait_for(talk(), 20))


def test_the_example(daemon):
    env = {**os.environ, "PYTHONPATH": PACKAGE, "VMSGR_SOCKET": daemon.socket, "VMSGR_LIBRARY": channels.LIBRARY}
    echo = [sys.executable, os.path.join(process.ROOT, "examples/python/echo.py")]
    with subprocess.Popen([*echo, "serve", "127.0.0.1", "0"], env=env, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = re.search(r", (\d+)\)", server.stdout.readline())[1]
            channels.wait_for_listener(daemon, int(port))
            done = subprocess.run([*echo, "ask", "127.0.0.1", port, "hello", "world"], env=env, stdout=subprocess.PIPE,
                                  text=True, timeout=20, check=True)
        finally:
            server.terminate()
    assert done.stdout == "hello\nworld\n"


def test_it_declares_what_the_header_does():
    with open(os.path.join(process.ROOT, "include/vmsgr/vmsgr.h"), encoding="utf-8") as f:
        header = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
    declared = {name: len([a for a in arguments.split(",") if a.strip() != "void"])
                for name, arguments in re.findall(r"VMSGR_API [^;(]*?(\w+)\(([^)]*)\);", header)}
    streams = {name for name in declared if name.startswith("vmsgr_stream_")}   # sockets of Python do that
    assert {name: len(f) - 1 for name, f in abi.FUNCTIONS.items()} == {
        name: n for name, n in declared.items() if name not in streams}
    for struct in (abi.SessionOptions, abi.ChannelOptions, abi.Counts, abi.Request):
        fields = re.sub(r"[\s*]", "", ",".join(name for name, _ in struct._fields_))
        assert any(fields == ",".join(w for part in body.split(";") for w in re.findall(r"(\w+)\s*(?:,|$)", part.strip()))
                   for body in re.findall(r"typedef struct \w+ \{(.*?)\}", header, re.S)), fields
    assert vmsgr.version() == re.search(r"VERSION (\d+\.\d+\.\d+)", open(f"{process.ROOT}/CMakeLists.txt").read())[1]
