"""Message channels when somebody dies, a thousand of them, and the examples against an installed library."""
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from lib import process, vmsgrd
from lib.channels import DATA, Pair, Session, frame, hello, raises, wait_for_listener
from lib.process import ROOT

HERE = os.path.dirname(os.path.abspath(__file__))
ROUTES = [vmsgrd.route("loopback", address="127.0.0.0/8")]


CHILD = """
import sys
sys.path.insert(0, {tests!r})
from lib.channels import Session
s = Session({socket!r}, "child")
c = s.connect({port})
c.send(b"ready")
{body}
"""


def child(daemon, port, body):
    return subprocess.Popen([sys.executable, "-c", CHILD.format(tests=os.path.dirname(HERE), socket=daemon.socket,
                                                                 port=port, body=body)])


@pytest.mark.parametrize("way", ["local", "direct"])
def test_a_killed_sender_and_a_killed_receiver(way, daemon, other_daemon):
    own = daemon if way == "local" else other_daemon
    with Session(own.socket) as s, s.listen() as listener:
        wait_for_listener(own, listener.port)
        p = child(daemon, listener.port, "while True: c.send(bytes(1000))")
        with listener.accept() as c:
            assert c.recv() == b"ready"
            assert len(c.recv()) == 1000
            p.send_signal(signal.SIGKILL)
            p.wait(10)
            began = time.monotonic()
            with pytest.raises(OSError) as e:
                while True:
                    assert len(c.recv(1000)) == 1000   # whole messages to the last
            assert e.value.errno == errno.ECONNRESET and time.monotonic() - began < 3
            assert "without closing" in c.why()[1] or "broke off" in c.why()[1]
        p = child(daemon, listener.port, "import time; time.sleep(60)")
        with listener.accept() as c:
            assert c.recv() == b"ready"
            killer = threading.Timer(0.3, p.send_signal, [signal.SIGKILL])
            killer.start()
            with pytest.raises(OSError) as e:
                while True:
                    c.send(bytes(60000))   # fills the ring and sleeps
            assert e.value.errno in (errno.ECONNRESET, errno.EPIPE), e.value
            assert "nothing can be sent any more" in c.why()[1] and c.why()[0] == e.value.errno
            p.wait(10)


def test_a_killed_daemon(here, daemon):
    """Local channels do not notice; carried ones break; the listener serves again when it is back."""
    mine = vmsgrd.Vmsgrd(here, routes=ROUTES).start()
    with Pair(mine, mine) as p, Session(daemon.socket) as far:
        wait_for_listener(mine, p.listener.port)
        carried = []
        thread = threading.Thread(target=lambda: carried.append(far.connect(p.listener.port)))
        thread.start()
        accepted = p.listener.accept()
        thread.join()
        mine.kill()
        for i in range(1000):
            p.a.send(b"%d" % i)
            assert p.b.recv() == b"%d" % i
        raises(errno.ECONNRESET, accepted.recv)
        raises(errno.ECONNRESET, carried[0].recv)
        assert "ended without closing the channel: connect anew" in accepted.why()[1]
        raises(errno.ETIMEDOUT, p.listener.accept, 50)
        mine.start()
        process.wait_until(lambda: _accepts(p.listener, p.sessions[0]), 10, "the listener to serve again")
        for c in (accepted, *carried):
            c.close()
    assert mine.stop() == 0


def test_a_hello_may_take_as_long_as_a_cut_of_the_network(daemon):
    with Session(daemon.socket) as s, s.listen() as listener:
        wait_for_listener(daemon, listener.port)
        with socket.create_connection(("127.0.0.1", listener.port)) as peer:
            raises(errno.ETIMEDOUT, listener.accept, 4000)
            peer.sendall(hello() + frame(DATA, b"at last"))
            with listener.accept() as c:
                assert c.recv() == b"at last"


def test_a_session_is_closed_before_what_it_opened(daemon):
    """Listener and channels go on; the last of them ends the session at the daemon."""
    before = daemon.status()["totals"]["sessions_open"]
    with Session(daemon.socket) as client:
        server = Session(daemon.socket)
        listener = server.listen()
        wait_for_listener(daemon, listener.port)
        server.close()
        connected = []
        thread = threading.Thread(target=lambda: connected.append(client.connect(listener.port)))
        thread.start()
        with listener.accept() as b:
            thread.join()
            a, = connected
            client.close()
            a.send(b"without")
            assert b.recv() == b"without"
            assert daemon.status()["totals"]["sessions_open"] == before + 2
            listener.close()
            b.send(b"still")
            assert a.recv() == b"still"
            a.close()
    process.wait_until(lambda: daemon.status()["totals"]["sessions_open"] == before, 5, "both sessions to end")


def test_a_listener_that_is_denied_says_so(here, daemon):
    with Session(daemon.socket) as s:
        text = raises(errno.EACCES, s.listen, "127.0.0.9")
        assert text.startswith("a route of vmsgrd denies listening on 127.0.0.9:") and "--role server" in text
    allowing = vmsgrd.Vmsgrd(here, routes=ROUTES).start()
    with Session(allowing.socket) as s, s.listen() as listener:
        raises(errno.ETIMEDOUT, listener.accept, 50)
        allowing.stop()
        raises(errno.ETIMEDOUT, listener.accept, 50)
        assert "vmsgrd is away" in raises(errno.ETIMEDOUT, listener.accept, 300)
        with vmsgrd.Vmsgrd(here, routes=[vmsgrd.route("closed", address="127.0.0.0/8", via="deny")]):
            assert "denies listening on 127.0.0.1" in raises(errno.EACCES, listener.accept, 5000)
            raises(errno.EACCES, listener.accept, 5000)
        with vmsgrd.Vmsgrd(here, routes=ROUTES) as again:
            process.wait_until(lambda: _accepts(listener, s), 10, "the listener to serve again")
            assert again.status()["listeners"]


def _accepts(listener, session):
    got = []
    thread = threading.Thread(target=lambda: got.append(_connected(session, listener.port)))
    thread.start()
    try:
        listener.accept(1500).close()
        return True
    except OSError:
        return False
    finally:
        thread.join()
        if got and got[0]:
            got[0].close()


def _connected(session, port):
    try:
        return session.connect(port, timeout_ms=1000)
    except OSError:
        return None


def test_a_thousand_channels_in_one_session(daemon):
    many = 1000
    with Session(daemon.socket) as a, Session(daemon.socket) as b, b.listen() as listener:
        wait_for_listener(daemon, listener.port)
        ours, theirs = [], []
        thread = threading.Thread(target=lambda: ours.extend(a.connect(listener.port) for _ in range(many)))
        thread.start()
        theirs = [listener.accept() for _ in range(many)]
        thread.join()
        assert all(c.is_local for c in ours)
        by_port = {}
        for i, c in enumerate(ours):
            c.send(b"%d" % i)
        for c in theirs:
            by_port[int(c.recv())] = c
        assert sorted(by_port) == list(range(many))
        for i, c in by_port.items():
            c.send(b"back %d" % i)
        assert [c.recv() for c in ours] == [b"back %d" % i for i in range(many)]
        began = time.monotonic()
        for c in ours + theirs:
            c.close()
        process.wait_until(lambda: daemon.status()["totals"]["connections_open"] == 0, 10, "every connection to be gone")
        took = time.monotonic() - began
        print(f"forgotten within {took:.2f} s")
        assert took < 2   # it was told: otherwise it looks at 100 a second


# --- the examples, built against an installed tree --------------------------------------------------------------------

@pytest.fixture(scope="module")
def installed():
    """(the tree, words for a program linked with it) of `cmake --install`, libvmsgr alone."""
    here = process.make_dir("vi-")
    process.run(["cmake", "--install", os.path.dirname(vmsgrd.BIN), "--prefix", here, "--component", "libvmsgr"])
    yield here
    process.remove_dir(here)


def compiler(name):
    return shutil.which(f"{name}-14") or shutil.which(name)


@pytest.fixture(scope="module")
def examples(installed):
    """The examples, by find_package; no warning allowed."""
    build = os.path.join(installed, "examples")
    strict = "-Wall -Wextra -pedantic -Werror"
    process.run(["cmake", "-S", os.path.join(ROOT, "examples"), "-B", build, f"-DCMAKE_PREFIX_PATH={installed}",
                 f"-DCMAKE_C_COMPILER={compiler('gcc')}", f"-DCMAKE_CXX_COMPILER={compiler('g++')}",
                 f"-DCMAKE_C_FLAGS={strict}", f"-DCMAKE_CXX_FLAGS={strict}"])
    process.run(["cmake", "--build", build, "-j2"], timeout_s=120)
    return build


class Server:
    """An example that prints its port first."""

    def __init__(self, daemon, *words):
        self.env = {**os.environ, "VMSGR_SOCKET": daemon.socket}
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=self.env)
        self.port = self.process.stdout.readline().strip()

    def ask(self, *words):
        done = subprocess.run(words, capture_output=True, text=True, env=self.env, timeout=60)
        assert done.returncode == 0, done
        return done.stdout

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def test_example_echo_and_pkg_config(installed, examples, daemon):
    pc = next(os.path.join(d, "pkgconfig") for d, folders, _ in os.walk(installed) if "pkgconfig" in folders)
    words = process.run(["pkg-config", "--cflags", "--libs", "vmsgr"], env={"PKG_CONFIG_PATH": pc}).stdout.split()
    by_pkg_config = os.path.join(installed, "echo")
    process.run([compiler("gcc"), "-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror", f"{ROOT}/examples/echo.c", "-o",
                 by_pkg_config, *words, f"-Wl,-rpath,{os.path.dirname(pc)}"])
    with Server(daemon, f"{examples}/echo", "serve", "0") as s:
        assert s.ask(by_pkg_config, "ask", s.port, "one", "two words", "") == "one\ntwo words\n\n"
        assert s.ask(f"{examples}/echo", "ask", s.port, "again") == "again\n"


def test_example_request_reply(examples, daemon):
    with Server(daemon, f"{examples}/request_reply", "serve", "0") as s:
        clients = [subprocess.Popen([f"{examples}/request_reply", "ask", s.port, "20000"], env=s.env,
                                    stdout=subprocess.PIPE, text=True) for _ in range(3)]
        said = [c.communicate(timeout=60)[0] for c in clients]
        assert said == [f"20000 answers, sum {sum(i * i for i in range(1, 20001))}\n"] * 3


def test_example_publish(examples, daemon):
    with Server(daemon, f"{examples}/publish", "serve", "0", "50000", "3") as s:
        clients = [subprocess.Popen([f"{examples}/publish", "listen", s.port], env=s.env, stdout=subprocess.PIPE,
                                    text=True) for _ in range(3)]
        said = [c.communicate(timeout=60)[0].split() for c in clients]
        total = s.process.stdout.readline().split()
        assert s.process.wait(20) == 0
    came = [int(words[0]) for words in said]
    assert sum(came) + int(total[-1]) == 150000, (said, total)


def test_example_bulk(examples, here, daemon):
    data = os.urandom(20_000_001)
    with open(f"{here}/in", "wb") as f:
        f.write(data)
    with Server(daemon, f"{examples}/bulk", "get", "0", f"{here}/out") as s:
        s.ask(f"{examples}/bulk", "put", s.port, f"{here}/in")
        assert s.process.stdout.readline() == "20000001 bytes\n" and s.process.wait(20) == 0
    with open(f"{here}/out", "rb") as f:
        assert f.read() == data


def test_what_vmsgrd_has_no_room_for_is_refused_with_the_reason(here):
    with vmsgrd.Vmsgrd(here, routes=ROUTES, config="limits:\n  connections_per_session: 2\n") as mine:
        with Session(mine.socket) as s, s.listen() as listener:
            wait_for_listener(mine, listener.port)
            strangers = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(5)]
            raises(errno.ETIMEDOUT, listener.accept, 300)
            accepted, refused, why = listener.counts()
            assert (accepted, refused) == (0, 3) and "vmsgrd has no room to carry it" in why, (refused, why)
            for peer in strangers:
                peer.close()
