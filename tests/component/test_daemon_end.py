"""How vmsgrd ends, and what peers on TCP see of it: every byte or a reset, and never an end of file that no program sent. And
how it reads its configuration again."""
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from lib import process, vmsgrd

ALL = [vmsgrd.route("all", address="127.0.0.0/8", local="no")]
SERVER = """
import socket, sys, time
s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(9)
print('up', flush=True)
c, a = s.accept(); n = 0; end = sys.argv[2]
try:
    while end == 'endless' or n < int(sys.argv[3]): n += c.send(b'x' * 65536)
    if end == 'shut': c.shutdown(socket.SHUT_WR)
    if end == 'close': c.close()
    print('sent', n, flush=True)
    if end == 'waits': print('then', len(c.recv(1)), flush=True)
    time.sleep(60)
except OSError as e: print('error', e.errno, flush=True)
"""


def start(here, *, routes=None, config="limits:\n  flush_ms: 1500\n", **how):
    return vmsgrd.Vmsgrd(here, routes=routes or ALL, memory="128M", config=config, **how)


def serve(daemon, port, *words):
    p = process.Process([*daemon.prefix(), sys.executable, "-c", SERVER, str(port), *map(str, words)], name="server",
                        stdout=-1)
    assert p.stdout.readline() == b"up\n"
    return p


def read_to_the_end(c, until=None):
    """How many bytes came, and how it ended: `end of file` or an errno."""
    n = 0
    while True:
        if until is not None and n >= until[0]:
            until[1]()
            until = None
        try:
            piece = c.recv(1 << 18)
        except OSError as e:
            return n, e.errno
        if not piece:
            return n, "end of file"
        n += len(piece)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGQUIT], ids=str)
def test_a_stream_that_was_not_ended_is_reset(here, number):
    daemon = start(here).start()
    try:
        with serve(daemon, 7611, "endless"):
            c = socket.create_connection(("127.0.0.1", 7611), timeout=20)
            n, how = read_to_the_end(c, (50_000_000, lambda: daemon.process.signal(number)))
            assert how == 104, (n, how)
    finally:
        daemon.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=str)
def test_an_idle_connection_is_reset(here, number):
    daemon = start(here).start()
    try:
        with serve(daemon, 7612, "waits", 1):
            c = socket.create_connection(("127.0.0.1", 7612), timeout=20)
            assert len(c.recv(1 << 20)) > 0
            time.sleep(0.5)
            daemon.process.signal(number)
            assert read_to_the_end(c)[1] == 104
    finally:
        daemon.stop()


def test_at_sigterm_all_that_was_sent_comes_before_the_reset(here):
    daemon = start(here).start()
    try:
        with serve(daemon, 7613, "waits", 4_000_000) as server:
            c = socket.socket()
            c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 200_000)
            c.settimeout(20)
            c.connect(("127.0.0.1", 7613))
            time.sleep(0.5)   # the socket's buffers are full, and the ring
            daemon.process.signal(signal.SIGTERM)
            n, how = read_to_the_end(c)
            words = server.stdout.readline().split()
            assert words[0] == b"sent" and n == int(words[1]) and how == 104, (n, words, how)
        assert daemon.process.wait(20) == 0
    finally:
        daemon.stop()


@pytest.mark.parametrize("end", ["shut", "close"])
def test_at_sigterm_what_a_program_has_ended_ends_cleanly(here, end):
    daemon = start(here).start()
    try:
        with serve(daemon, 7614, end, 3_000_000) as server:
            c = socket.socket()
            c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 200_000)
            c.settimeout(20)
            c.connect(("127.0.0.1", 7614))
            time.sleep(0.5)
            daemon.process.signal(signal.SIGTERM)
            n, how = read_to_the_end(c)
            assert how == "end of file" and n == int(server.stdout.readline().split()[1])
        assert daemon.process.wait(20) == 0
    finally:
        daemon.stop()


def test_so_linger_is_the_programs_own(here):
    """What guards the daemon's end does not show, and does not change how a program's close ends."""
    code = """
import socket, struct, sys
def linger(c): return struct.unpack('ii', c.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
c = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
assert linger(c) == (0, 0), linger(c)
c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 7)); assert linger(c) == (1, 7), linger(c)
if sys.argv[2] == 'reset': c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
if sys.argv[2] == 'late':
    import time; time.sleep(1.5); assert linger(c) == (1, 7), linger(c)
c.sendall(b'abc'); c.close()
"""
    with start(here) as daemon:
        for how, expected in (("plain", "end of file"), ("late", "end of file"), ("reset", 104)):
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                s.listen()
                client = process.Process([*daemon.prefix(), sys.executable, "-c", code, str(s.getsockname()[1]), how],
                                         name="client")
                c, _ = s.accept()
                c.settimeout(20)
                assert client.wait(20) == 0
                assert read_to_the_end(c) == (3, expected), how


def test_a_second_sigterm_ends_at_once(here):
    daemon = start(here, config="limits:\n  flush_ms: 60000\n").start()
    with serve(daemon, 7615, "endless"):
        c = socket.create_connection(("127.0.0.1", 7615), timeout=20)   # reads nothing: there is always something to flush
        time.sleep(0.5)
        daemon.process.signal(signal.SIGTERM)
        time.sleep(1)
        assert daemon.process.alive()
        daemon.process.signal(signal.SIGTERM)
        assert daemon.process.wait(3) == 1
        assert "a second signal to stop" in process.tail(daemon.log)
        c.close()


FREEZE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
tid = int(sys.argv[1])
assert libc.ptrace(16, tid, None, None) == 0, ctypes.get_errno()   # PTRACE_ATTACH stops this thread alone
os.waitpid(tid, 0x40000000)
print('frozen', flush=True)
try: os.waitpid(tid, 0x40000000)
except ChildProcessError: pass
"""


def thread_of(pid, name):
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/comm", encoding="ascii") as f:
            if f.read().strip() == name:
                return int(tid)
    raise AssertionError(f"no thread {name}")


@pytest.mark.parametrize("shard", [0, 1])
def test_a_stuck_shard_does_not_outlast_sigterm(here, shard):
    daemon = start(here, config="limits:\n  flush_ms: 100\n", shards=2).start()
    tid = daemon.pid if shard == 0 else thread_of(daemon.pid, "reactor-1")
    with subprocess.Popen([sys.executable, "-c", FREEZE, str(tid)], stdout=subprocess.PIPE) as tracer:
        assert tracer.stdout.readline() == b"frozen\n"
        daemon.process.signal(signal.SIGTERM)
        tracer.wait(15)
    assert daemon.process.wait(5) == 1
    assert "a shard is stuck" in process.tail(daemon.log)
    assert start(here).start().stop() == 0   # what it has left is in nobody's way


def test_no_other_user_can_hold_up_a_start(here):
    daemon = start(here)
    os.chmod(here, 0o755)
    daemon.start()
    daemon.kill()
    as_user = ["setpriv", "--reuid=2002", "--regid=2002", "--clear-groups"]
    with process.Process([*as_user, "flock", here, "sleep", "60"], name="flock"):
        for path in os.listdir(here):
            if path.endswith(".lock"):
                assert process.run([*as_user, "flock", "-n", f"{here}/{path}", "true"], check=False).returncode != 0
        began = time.monotonic()
        daemon.start()
        assert time.monotonic() - began < 2
        daemon.stop()


# --- SIGHUP --------------------------------------------------------------------------------------------------------

def write_config(daemon, routes, more=""):
    with open(daemon.config, encoding="ascii") as f:
        head = f.read().split("routes:")[0]
    with open(daemon.config, "w", encoding="ascii") as f:
        f.write(head + vmsgrd.routes_yaml(routes) + more)


def hup(daemon, good=True):
    before = daemon.status()["daemon"]["reloads"]
    daemon.process.signal(signal.SIGHUP)
    process.wait_until(lambda: (daemon.status()["daemon"]["reloads"] > before) == good
                       and bool(daemon.status()["daemon"]["reload_error"]) != good, 5, "the configuration is read")


def shown_routes(daemon):
    return [r["name"] for r in process.run_json([vmsgrd.VMSGR, "routes", "--json", "--socket", daemon.socket])]


def test_sighup_reads_the_configuration_and_touches_no_connection(here):
    with start(here) as daemon:
        with serve(daemon, 7616, "endless"):
            c = socket.create_connection(("127.0.0.1", 7616), timeout=20)
            assert len(c.recv(1000)) > 0
            write_config(daemon, [vmsgrd.route("other")], "access:\n  mode: 0600\nlimits:\n  sessions: 77\n"
                         "  connections: 555\n  orphan_ms: 4321\n  per_user: {connections: 44}\nlog_level: debug\n")
            hup(daemon)
            assert shown_routes(daemon) == ["other"]
            limits = daemon.status()["limits"]
            assert (limits["sessions"], limits["connections"], limits["orphan_ms"]) == (77, 555, 4321)
            # A user's share is fitted anew: half of what all have where nothing is said.
            assert (limits["per_user"]["sessions"], limits["per_user"]["connections"]) == (39, 44)
            assert os.stat(daemon.socket).st_mode & 0o777 == 0o600
            assert len(c.recv(1000)) > 0
            assert len(daemon.status()["connections"]) == 1
            c.close()


def test_sighup_with_a_broken_file_changes_nothing_and_says_why(here):
    with start(here) as daemon:
        for text, says in (("routes:\n  - name: x\n    via: driect\n", "'driect' is not one of"), ("", "is empty"),
                           (None, "No such file")):
            if text is None:
                os.unlink(daemon.config)
            else:
                with open(daemon.config, "w", encoding="ascii") as f:
                    f.write(text)
            hup(daemon, good=False)
            assert says in daemon.status()["daemon"]["reload_error"]
            assert says in process.tail(daemon.log) and "nothing has changed" in process.tail(daemon.log)
            assert shown_routes(daemon) == ["all"]


def test_sighup_names_what_changes_at_the_next_start_alone(here):
    with start(here, shards=1) as daemon:
        with open(daemon.config, encoding="ascii") as f:
            text = f.read()
        with open(daemon.config, "w", encoding="ascii") as f:
            f.write(text.replace("shards: 1", "shards: 2"))
        hup(daemon)
        assert "shards: changes at the next start alone" in process.tail(daemon.log)
        assert daemon.status()["daemon"]["shards"] == 1
