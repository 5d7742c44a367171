"""inetd: it accepts, and starts a program with the connection as its standard input, output and errors: C's stdio, a
shell, programs that use the socket as such, a service of another user, and services that accept by themselves
(wait)."""
import os
import pathlib
import random

import pytest

from lib import process

INETD = "/usr/sbin/inetd"
pytestmark = [
    pytest.mark.skipif(not os.path.exists(INETD), reason="no inetd: apt-get install openbsd-inetd"),
    pytest.mark.skipif(os.geteuid() != 0, reason="inetd becomes the user of each service"),
]

PYTHON = "/usr/bin/python3"
SHELL = """\
read -r name
printf 'hello %s, you are ' "$name"
id -un
printf 'an error\\n' >&2
exec sed -u 's/^/> /'
"""
# Uses standard input as a socket, and prints on it too.
PEER = """
import socket, sys
s = socket.socket(fileno=0)
print("kind", s.family.name, s.type.name, flush=True)
while data := s.recv(65536):
    s.sendall(data[::-1])
print("end", flush=True)
"""
# A service of kind `wait`: it gets the listener, and accepts until nobody has come for a while.
WAITS = """
import socket
l = socket.socket(fileno=0)
l.settimeout(1)
try:
    for n in range(1000):
        c = l.accept()[0]
        with c, c.makefile("rwb") as f:
            f.write(b"%d: " % n + f.readline())
except TimeoutError:
    pass
"""
# Speaks lines to a service: address, port, how many bytes of data.
CLIENT = """
import random, socket, sys, threading
address, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
data = random.Random(size).randbytes(size)
with socket.create_connection((address, port), 10) as c:
    def send():
        c.sendall(data)
        c.shutdown(socket.SHUT_WR)
    sender = threading.Thread(target=send)
    sender.start()
    sys.stdout.buffer.write(b"".join(iter(lambda: c.recv(65536), b"")))
    sender.join()
"""
TALK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as c:
    c.sendall(sys.argv[3].encode())
    c.shutdown(socket.SHUT_WR)
    sys.stdout.buffer.write(b"".join(iter(lambda: c.recv(65536), b"")))
"""


class Inetd:
    def __init__(self, ends):
        self.ends, self.ports, lines = ends, {}, []
        where = pathlib.Path(ends.path(f"inetd-{ends.port()}"))   # which nobody can read
        where.mkdir()
        (where / "shell").write_text(SHELL)
        for name, user, how, *words in [
                ("cat", "root", "nowait", "/bin/cat", "cat"),
                ("sh", "root", "nowait", "/bin/sh", "sh", str(where / "shell")),
                ("nobody", "nobody", "nowait", "/bin/sh", "sh", str(where / "shell")),
                ("peer", "root", "nowait", PYTHON, "python3", str(where / "peer")),
                ("wait", "root", "wait", PYTHON, "python3", str(where / "waits"))]:
            self.ports[name] = ends.port()
            lines.append(f"{ends.address}:{self.ports[name]} stream tcp {how} {user} {' '.join(words)}\n")
        (where / "peer").write_text(PEER)
        (where / "waits").write_text(WAITS)
        (where / "inetd.conf").write_text("".join(lines))
        self.process = ends.serve([INETD, "-i", str(where / "inetd.conf")], self.ports["wait"])

    def talk(self, service, text):
        return self.ends.run([PYTHON, "-c", TALK, self.ends.address, self.ports[service], text]).stdout

    def send(self, service, size):
        words = [PYTHON, "-c", CLIENT, self.ends.address, self.ports[service], size]
        return self.ends.run(words, binary=True, timeout_s=30).stdout


@pytest.fixture
def inetd(way):
    return Inetd(way)


def test_services_on_standard_input_and_output(way, inetd):
    size = 2_000_000
    assert inetd.send("cat", size) == random.Random(size).randbytes(size)
    assert inetd.talk("sh", "world\na\nb\n") == "hello world, you are root\nan error\n> a\n> b\n"
    assert inetd.talk("nobody", "world\nc\n") == "hello world, you are nobody\nan error\n> c\n"
    assert inetd.talk("peer", "abc").splitlines()[-1].endswith("end")
    way.check_seen(at_least=2 * size)


def test_a_service_that_accepts(way, inetd):
    """inetd clears the environment, so the listener goes to a program without the library. Where it was routed before,
    the connection that waits at that moment is reset; from then on the kernel serves."""
    try:
        first = inetd.talk("wait", "x\n")
    except process.Failed as e:
        assert way.combination[1] != "p" and "ConnectionResetError" in str(e)
        first = "0: x\n"
    said = [first] + [inetd.talk("wait", "x\n") for _ in range(4)]
    numbers = [int(line.partition(":")[0]) for line in said]
    assert [line.partition(":")[2] for line in said] == [" x\n"] * 5
    assert numbers == list(range(5)) or numbers == [0, *range(4)]
