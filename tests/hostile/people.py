"""Who takes part: attackers (uid 2002), victims (uid 2001), and a bystander (uid 2003) who must not notice anything.

An attacker is a child of the test with a user of its own. Its part is a generator: what it yields comes to the test, and it
goes on when the test asks for the next value; until then it holds whatever it has opened.
"""
import ctypes
import json
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import time
import traceback

from lib import process

VICTIM, ATTACKER, BYSTANDER = 2001, 2002, 2003
CLONE_NEWNET, CLONE_NEWUSER, CLONE_NEWNS = 0x40000000, 0x10000000, 0x20000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags):
    if libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def become(uid):
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    libc.prctl(PR_SET_DUMPABLE, 1)   # as any program of this user; /proc/self is its own then


class Attacker:
    """next() gives what the part yields next; AssertionError when it takes too long or fails."""

    def __init__(self, part, *words, uid=ATTACKER):
        mine, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            mine.close()
            self._play(theirs, part, words, uid)
        theirs.close()
        self.sock = mine

    @staticmethod
    def _play(sock, part, words, uid):
        def tell(*what):
            text = pickle.dumps(what)
            sock.sendall(struct.pack("=I", len(text)) + text)
        try:
            become(uid)
            values = part(*words)
            while sock.recv(1) == b"+":
                tell("value", next(values))
        except BaseException:
            tell("failed", traceback.format_exc())
        os._exit(0)

    def _exactly(self, count, until):
        data = b""
        while len(data) < count:
            ready = select.select([self.sock], [], [], max(0, until - time.monotonic()))[0]
            assert ready, "the attacker's part hangs"
            more = self.sock.recv(count - len(data))
            assert more, "the attacker's process has died"
            data += more
        return data

    def next(self, timeout_s=30):
        """Lets it go on; what it yields next."""
        until = time.monotonic() + timeout_s
        self.sock.sendall(b"+")
        kind, value = pickle.loads(self._exactly(struct.unpack("=I", self._exactly(4, until))[0], until))
        assert kind == "value", f"{kind}: {value}"
        return value

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
            self.sock.close()


# Serves any number of connections from one thread, and says what it sees: one JSON line each.
SERVER = """
import json, os, select, socket, sys, time
def say(**what):
    print(json.dumps(what), flush=True)
listener = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((sys.argv[1], int(sys.argv[2])))
listener.listen(64)
listener.setblocking(False)
poller = select.epoll()
poller.register(listener, select.EPOLLIN)
here = {}
say(up=os.getpid())
while True:
    for fd, events in poller.poll():
        began = time.monotonic()
        call = 'accept'
        try:
            if fd == listener.fileno():
                c, peer = listener.accept()
                c.setblocking(False)
                here[c.fileno()] = c
                kind = os.readlink('/proc/self/fd/%d' % c.fileno())
                say(accepted=peer[:2], local=c.getsockname()[:2], kind=kind.split(':')[0])
                poller.register(c, select.EPOLLIN)
            else:
                call = 'recv'
                c = here[fd]
                data = c.recv(65536)
                if data:
                    call = 'send'
                    c.send(data)
                else:
                    call = 'close'
                    del here[fd]
                    c.close()
        except BlockingIOError:
            pass
        except OSError as e:
            if fd in here:
                del here[fd]
                c.close()
        took = time.monotonic() - began
        if took > 1:
            say(slow=call, took=took)
"""

# For programs of tests: what is sent comes back.
ECHO = """
def echo_text(c, text):
    c.sendall(text)
    got = b''
    while len(got) < len(text):
        more = c.recv(len(text) - len(got))
        if not more:
            raise ConnectionError('end of file')
        got += more
    if got != text:
        raise ValueError('other bytes came back')
"""

# Talks to the victim without end, on a connection that stays and on new ones; so to a plain program, through the daemon.
INNOCENT = ECHO + """
import json, select, socket, sys, time
host, ports = sys.argv[1], [int(p) for p in sys.argv[2:]]
errors, rounds, slowest = [], 0, 0
def connect(port):
    return socket.create_connection((host, port), 10)
def echo(c):
    echo_text(c, ('%d' % rounds).encode() * 100)
stay = [connect(p) for p in ports]
print('up', flush=True)
while True:
    began = time.monotonic()
    try:
        for i, p in enumerate(ports):
            stay[i] = stay[i] or connect(p)
            echo(stay[i])
            new = connect(p)
            new.settimeout(10)
            echo(new)
            new.close()
    except Exception as e:
        errors.append('%s: %s' % (type(e).__name__, e))
        stay = [None] * len(ports)
        time.sleep(0.1)
    rounds += 1
    slowest = max(slowest, time.monotonic() - began)
    if select.select([sys.stdin], [], [], 0.01)[0]:
        if not sys.stdin.readline():
            sys.exit()
        print(json.dumps([rounds, slowest, errors]), flush=True)
"""


def as_user(uid, words):
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--", *map(str, words)]


# How a victim's own program begins: `s` listens on the address and port that it is given, and "up" says so.
LISTENS = """
import json, socket, subprocess, sys, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], int(sys.argv[2])))
s.listen(9)
print('up', flush=True)
"""


class Program:
    """A program of the victim's, attached."""

    def __init__(self, world, words, **how):
        self.log = f"{world.dir}/program.log"
        words = as_user(VICTIM, [*world.daemon.prefix(), *words])
        self.process = process.Process(words, log=self.log, name="program", **how)


class Server:
    """An echo server of uid 2001; attached, or plain with daemon=None."""

    def __init__(self, daemon, directory, host, port):
        self.host, self.port = host, port
        self.log = f"{directory}/server-{port}.log"
        words = as_user(VICTIM, [*(daemon.prefix() if daemon else []), "/usr/bin/python3", "-c", SERVER, host, port])
        self.process = process.Process(words, log=self.log, name=f"server on port {port}")

    def says(self, key):
        found = []
        with open(self.log, encoding="utf-8") as f:
            for line in f:
                try:
                    said = json.loads(line)
                except ValueError:
                    continue
                if key in said:
                    found.append(said)
        return found

    def ready(self):
        self.process.wait_ready(lambda: self.says("up"), 20, "listen")
        return self

    def accepted(self, source):
        """The entries of connections from this (host, port)."""
        return [said for said in self.says("accepted") if said["accepted"] == list(source)]

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def echoes(self, timeout_s):
        """A plain client's round; seconds that it took."""
        began = time.monotonic()
        with socket.create_connection((self.host, self.port), timeout_s) as c:
            c.settimeout(timeout_s)
            c.sendall(b"are you there?")
            got = b""
            while len(got) < 14:
                more = c.recv(14 - len(got))
                assert more, "the victim has closed an honest connection"
                got += more
        return time.monotonic() - began

    def check(self, timeout_s=2):
        assert self.process.alive(), f"the victim ended with {self.process.returncode}\n{process.tail(self.log)}"
        self.echoes(timeout_s)
        assert not self.says("slow"), f"a call of the victim waited: {self.says('slow')}"


class Bystander:
    def __init__(self, daemon, directory, host, ports):
        self.log = f"{directory}/bystander.log"
        words = as_user(BYSTANDER, [*daemon.prefix(), "/usr/bin/python3", "-c", INNOCENT, host, *ports])
        self.process = process.Process(words, log=self.log, name="bystander", stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE)
        self.line = self.process.stdout.readline()

    def seen(self):
        """How many rounds, the slowest in seconds, and all errors."""
        assert self.process.alive(), f"the bystander has ended\n{process.tail(self.log)}"
        self.process.stdin.write(b"?\n")
        self.process.stdin.flush()
        ready = select.select([self.process.stdout], [], [], 15)[0]
        assert ready, "the bystander hangs"
        return json.loads(self.process.stdout.readline())

    def check(self, limit_s=2):
        """It has seen no error, no long wait, and is going on."""
        seen = -1
        for _ in range(3):   # the round that was under way when this began counts
            rounds, slowest, errors = self.seen()
            assert errors == [], errors
            assert slowest < limit_s, f"a round of the bystander took {slowest:.1f} s"
            assert rounds > seen
            seen = rounds


class Innocent:
    """An innocent client of a third user, that measures. watch() says how it is when all is quiet; stays_well() compares."""

    LEAST_LIMIT_S, FACTOR, TRIES = 0.020, 3, 4

    def __init__(self, daemon, directory, host, ports):
        self.log = f"{directory}/innocent.log"
        words = as_user(BYSTANDER, [*daemon.prefix(), "/usr/bin/python3",
                                    os.path.join(os.path.dirname(os.path.abspath(__file__)), "innocent.py"), host,
                                    daemon.socket, *ports])
        self.process = process.Process(words, log=self.log, name="innocent", stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == b"up\n", process.tail(self.log)
        self.quiet = None

    def seen(self, seconds):
        """What it sees in so long a time from now."""
        for wait_s in (0, seconds):
            time.sleep(wait_s)
            assert self.process.alive(), f"the innocent client has ended\n{process.tail(self.log)}"
            self.process.stdin.write(b"?\n")
            self.process.stdin.flush()
            assert select.select([self.process.stdout], [], [], 30)[0], "the innocent client hangs"
            found = json.loads(self.process.stdout.readline())
            assert found["errors"] == [], found["errors"]
        return found

    def watch(self, seconds=3):
        self.quiet = self.seen(seconds)
        return self

    def stays_well(self, seconds=3):
        """While an attack goes on. On a machine with other work a moment may be late without it: an attack shows each time."""
        limits = {key: max(self.LEAST_LIMIT_S, self.FACTOR * self.quiet[key]) for key in ("p999", "worst")}
        tries = []
        for _ in range(self.TRIES):
            tries.append(self.seen(seconds))
            if all(tries[-1][key] <= limits[key] for key in limits) and tries[-1]["count"] > 0:
                print(f"innocent: quiet {self.quiet}, attacked {tries[-1]}")
                return tries[-1]
        raise AssertionError(f"the innocent client is held up: quiet {self.quiet}, attacked {tries}")
