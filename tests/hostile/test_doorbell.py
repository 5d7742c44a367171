"""The doorbell and the door in use: flags of shared sockets (attack 11), tokens without end (attack 12), bytes that are none,
rights beside tokens, and diallers that say nothing.
"""
import fcntl
import os
import socket
import struct
import subprocess
import time

import pytest

import client
import conftest
import people
from client import Session, bound, dial, knock
from lib import process
from people import Program
from test_hello import honest_after, keep

REDIS_PORT = 7003
SO_RCVLOWAT, SO_PEEK_OFF = 18, 42
# One connection; says how long each call took.
CLOSER = people.LISTENS + """
while True:
    c, _ = s.accept()
    c.setblocking(False)
    took = {}
    for call in ('send', 'recv', 'send', 'recv', 'close'):
        time.sleep(0.1)
        began = time.monotonic()
        try:
            if call == 'send': c.send(b'x' * 100)
            elif call == 'recv': c.recv(100)
            else: c.close()
        except OSError:
            pass
        took[call] = max(took.get(call, 0), time.monotonic() - began)
    print(json.dumps(took), flush=True)
"""


def flood(end, seconds):
    """Tokens as fast as they go, by two processes on one end."""
    for _ in range(2):
        if os.fork() == 0:
            people.libc.prctl(people.PR_SET_PDEATHSIG, people.signal.SIGKILL)
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                try:
                    end.bell.send(client.TOKEN * 64, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    pass
                except OSError:
                    break
            os._exit(0)


@pytest.mark.parametrize("fin", [False, True])
def test_tokens_without_end_while_the_victim_closes(world, fin):
    """Attack 12: close() read all tokens that there are, and they came faster."""
    program = Program(world, ["/usr/bin/python3", "-c", CLOSER, conftest.HOST, 7004], stdout=subprocess.PIPE)
    assert program.process.stdout.readline() == b"up\n"

    def part(path):
        listener = Session(path).listener(7004)
        for _ in range(3):
            end = dial(listener)
            if fin:
                end.put(0, client.FLAGS, client.FIN)
            end.put(0, client.TOKENS, 0x7FFFFFFF)
            flood(end, 3)
            keep.append(end)
            yield True
    with world.attacker(part) as attacker:
        for _ in range(3):
            attacker.next()
            took = client.json.loads(program.process.stdout.readline())
            assert max(took.values()) < 1, took
    program.process.kill()


# Reads what it finds, and says what each kind of wait shows afterwards.
WAITER = people.LISTENS + """
import select
c, _ = s.accept()
c.setblocking(False)
sets, edges = select.epoll(), select.epoll()
sets.register(c, select.EPOLLIN)
edges.register(c, select.EPOLLIN | select.EPOLLET)
polled = select.poll()
polled.register(c, select.POLLIN)
waits = {'poll': lambda t: polled.poll(t * 1000), 'select': lambda t: select.select([c], [], [], t)[0],
         'epoll': sets.poll, 'edges': edges.poll}[sys.argv[3]]
while True:
    try:
        print(json.dumps(c.recv(9).decode()), flush=True)
    except BlockingIOError:
        continue
    sys.stdin.readline()
    began = time.monotonic()
    print(json.dumps([len(waits(0.3)), time.monotonic() - began > 0.29, len(waits(0))]), flush=True)
"""


@pytest.mark.parametrize("how", ["poll", "select", "epoll", "edges"])
def test_a_token_that_comes_after_its_byte_was_read_shows_nothing(world, how):
    """As when the sender loses the processor between the two. Who sees IN may count on a byte, or an end."""
    program = Program(world, ["/usr/bin/python3", "-c", WAITER, conftest.HOST, 7006, how], stdin=subprocess.PIPE,
                      stdout=subprocess.PIPE).process
    def heard():
        line = program.stdout.readline()
        assert line, open(f"{world.dir}/program.log").read()
        return client.json.loads(line)
    assert program.stdout.readline() == b"up\n"

    def go_on():
        program.stdin.write(b"\n")
        program.stdin.flush()

    def part(path):
        end = dial(Session(path).listener(7006))
        for byte in b"abc":
            end.put(0, client.TOKENS, end.get(0, client.TOKENS) + 1)
            end.publish(bytes([byte]))
            yield True
            end.bell.send(client.TOKEN)
            yield True
        end.send(b"d")
        yield True
        end.send(b"e")
        yield True
        keep.append(end)
        yield True
    with world.attacker(part) as attacker:
        for letter in "abc":
            attacker.next()
            assert heard() == letter
            attacker.next()
            go_on()
            assert heard() == [0, True, 0]
        attacker.next()
        assert heard() == "d"
        attacker.next()
        go_on()
        assert heard() == [1, False, 0 if how == "edges" else 1] and heard() == "e"
        attacker.next()
    program.kill()


@pytest.fixture
def redis(world):
    made = Program(world, ["redis-server", "--port", REDIS_PORT, "--bind", conftest.HOST, "--save", "", "--appendonly", "no",
                           "--dir", "/tmp", "--loglevel", "warning"])

    def ping():
        began = time.monotonic()
        with socket.create_connection((conftest.HOST, REDIS_PORT), 5) as c:
            c.settimeout(5)
            c.sendall(b"PING\r\n")
            assert c.recv(99) == b"+PONG\r\n"
        return time.monotonic() - began

    def up():
        try:
            return ping()
        except OSError:
            return None
    made.process.wait_ready(up, 15, "answer")
    made.ping = ping
    yield made
    assert made.process.alive(), process.tail(made.log)
    made.process.kill()


def pongs(redis):
    assert max(redis.ping() for _ in range(3)) < 1


def test_options_and_flags_of_ones_own_end_are_ones_own(world, redis):
    """Attack 11: O_NONBLOCK of the accepted end was the attacker's to clear."""
    def part(path):
        listener = Session(path).listener(REDIS_PORT)
        end = dial(listener)
        end.send(b"PING\r\n")
        assert end.receive(7) == b"+PONG\r\n"

        def option(name, value):
            end.bell.setsockopt(socket.SOL_SOCKET, name, value)
        for what in (lambda: fcntl.fcntl(end.bell, fcntl.F_SETFL, os.O_RDWR),
                     lambda: fcntl.fcntl(end.bell, fcntl.F_SETFL, os.O_RDWR | os.O_ASYNC),
                     lambda: fcntl.fcntl(end.bell, fcntl.F_SETOWN, os.getpid()),
                     lambda: option(SO_RCVLOWAT, 1000), lambda: option(SO_PEEK_OFF, 5),
                     lambda: option(socket.SO_PASSCRED, 1), lambda: option(socket.SO_RCVTIMEO, struct.pack("ll", 100, 0)),
                     lambda: option(client.SO_MAX_PACING_RATE, struct.pack("=Q", listener["id"])),
                     lambda: option(socket.SO_LINGER, struct.pack("ii", 1, 100)),
                     lambda: option(socket.SO_SNDBUF, 1 << 20),
                     lambda: end.ring_bell(), lambda: end.ring_bell(),   # readable, and nothing in the ring
                     lambda: end.bell.shutdown(socket.SHUT_RD), lambda: end.bell.shutdown(socket.SHUT_WR)):
            what()
            yield True
    with world.attacker(part) as attacker:
        for _ in range(14):
            attacker.next()
            pongs(redis)


def test_redis_goes_on_under_all_sorts_of_diallers(world, redis):
    def part(path):
        listener = Session(path).listener(REDIS_PORT)
        for i in range(60):
            end = dial(listener)
            end.send(b"PING\r\n")
            assert end.receive(7) == b"+PONG\r\n"
            keep.append(end)
            if i % 6 == 0:
                end.put(0, client.HEAD, 1 << 40, "=Q")
                end.ring_after_lie()
            elif i % 6 == 1:
                end.bell.send(b"no token")
            elif i % 6 == 2:
                end.bell.send(client.TOKEN * 5)   # not counted
            elif i % 6 == 3:
                end.put(1, client.TAIL, 1 << 50, "=Q")
                end.publish(b"PING\r\n")
                end.ring_after_lie()
            elif i % 6 == 4:
                end.flag(0, client.LEFT | client.DONE)
            else:
                end.bell.close()
            keep.append(knock(listener["door"]))
            if i % 20 == 19:
                yield True
    with world.attacker(part) as attacker:
        for _ in range(3):
            attacker.next()
            pongs(redis)


def test_bytes_that_are_no_tokens(world):
    def part(path):
        listener = Session(path).listener(conftest.PORT)
        ended = []
        for text in (b"x", b"hello, world", client.TOKEN + b"x", bytes(3000)):
            end = dial(listener)
            assert end.echo()
            end.bell.send(text)
            end.put(0, client.TOKENS, end.get(0, client.TOKENS) + len(text))
            end.publish(b"y")
            ended.append(client.over(end) if text != b"x" else None)
        yield ended, honest_after(listener)
    with world.attacker(part) as attacker:
        _, took = attacker.next()
        assert took < conftest.PATIENCE_S


def test_diallers_that_say_nothing(world):
    """A thousand, more at each moment than the queue holds: all others are served meanwhile."""
    def part(path):
        listener = Session(path).listener(conftest.PORT)
        until, said_nothing, slowest = time.monotonic() + 5, 0, 0
        while time.monotonic() < until:
            silent = [knock(listener["door"]) for _ in range(100)]
            said_nothing += len(silent)
            slowest = max(slowest, honest_after(listener))
            keep[:] = silent   # those of the last round go
        yield said_nothing, slowest
    before = world.totals()["diallers_turned_away"]
    with world.attacker(part) as attacker:
        said_nothing, slowest = attacker.next(60)
        assert said_nothing >= 1000 and slowest < conftest.PATIENCE_S
    world.victim.check()
    assert world.totals()["diallers_turned_away"] >= before + said_nothing


def test_a_dialler_that_is_late_is_told_so(world):
    """It says its hello at all sorts of moments: accepted, or refused by the kernel, and never both. In the microsecond in which
    the acceptor turns to the next one it is neither (docs/PLAN.md), and reset: told so all the same."""
    def is_reset(bell):
        try:
            return bell.recv(1, socket.MSG_DONTWAIT) == b""
        except ConnectionResetError:
            return True
        except BlockingIOError:
            return False

    def part(path):
        listener = Session(path).listener(conftest.PORT)
        accepted, refused, neither, silent = 0, 0, 0, 0
        for i in range(2000):
            source, arena = bound(), client.Arena(slots=1)
            word = client.hello(client.address(conftest.HOST, conftest.PORT), client.address(*source.getsockname()))
            bell = knock(listener["door"])
            pause = time.perf_counter() + (i % 100) * 1e-6
            while time.perf_counter() < pause:
                pass
            end = client.End(bell, arena)
            try:
                socket.send_fds(bell, [word], [source.fileno(), arena.fileno()])
            except (BrokenPipeError, ConnectionResetError):
                refused += 1
            else:
                try:
                    accepted += end.echo()
                except (BrokenPipeError, ConnectionResetError, TimeoutError):
                    neither += 1
                    silent += not is_reset(bell)
                end.close()
            source.close()
            arena.map.close()
            os.close(arena.fd)
        yield accepted, refused, neither, silent
    with world.attacker(part) as attacker:
        accepted, refused, neither, silent = attacker.next(90)
        assert accepted + refused + neither == 2000 and neither <= 4 and silent == 0, (accepted, refused, neither, silent)


def test_knocking_does_not_make_the_victim_think_that_the_daemon_is_gone(world):
    """Whoever accepts a connection without a word looks at its lifeline, which the attacker does not have."""
    def part(path):
        listener = Session(path).listener(conftest.PORT)
        for _ in range(300):
            knock(listener["door"]).close()
        yield listener["id"], honest_after(listener), Session(path).listener(conftest.PORT)["id"]
    with world.attacker(part) as attacker:
        before, _, after = attacker.next()
        assert before == after


def test_a_program_that_never_answers_a_dialler(world):
    """The attacker listens: he does not accept, or keeps what he is told. Who connects is not held up for ever."""
    def part(path):
        session = Session(path)
        tcp = bound(conftest.HOST, 7100)
        tcp.listen(4)
        _, door, lifeline, _ = session.listen(tcp, backlog=4)
        keep.append((door, lifeline))
        yield True
        door.settimeout(10)
        got = [door.accept()[0] for _ in range(2)]
        for one in got:
            word, fds, _, _ = socket.recv_fds(one, 88, 8)
            keep.append((word, fds))
        yield len(got)
    connect = ("import socket,sys\nfor _ in range(4):\n c = socket.create_connection(('%s', 7100), 5)\n c.settimeout(1)\n"
               " c.sendall(b'x')\n try: c.recv(1)\n except TimeoutError: pass\n c.close()" % conftest.HOST)
    with world.attacker(part) as attacker:
        attacker.next()
        words = people.as_user(people.BYSTANDER, [*world.daemon.prefix(), "/usr/bin/python3", "-c", connect])
        began = time.monotonic()
        process.run(words, timeout_s=30)
        assert time.monotonic() - began < 15
        assert attacker.next() == 2


# Whoever holds the other end may send descriptors beside tokens. The kernel closes them, lingering, in the call that reads
# the token or closes the doorbell; which shows only where the attacker's own copy was closed before.
@pytest.mark.parametrize("when", ["it is read", "it is closed"])
def test_what_comes_beside_a_token_does_not_hold_the_victim_up(make_world, when):
    world = make_world(bystander=False)

    def part(path):
        listener = Session(path).listener(conftest.PORT)
        end = dial(listener)
        assert end.echo()
        s, others = client.lingering(4)
        keep.append((end, others))
        if when == "it is read":
            end.publish(b"x")
        else:
            end.put(0, client.HEAD, 1 << 40, "=Q")
        end.ring_bell([s])
        client.close_aside(s)
        yield True
    with world.attacker(part) as attacker:
        attacker.next()
        assert world.victim.echoes(10) < conftest.PATIENCE_S


def test_what_comes_beside_a_token_does_not_hold_the_daemon_up(make_world):
    world = make_world(bystander=False, shards=1)

    def part(path):
        session = Session(path)
        _, end = session.connect_through_daemon(conftest.HOST, conftest.PLAIN_PORT)
        assert end.echo()
        s, others = client.lingering(4)
        keep.append((end, others))
        end.publish(b"x")
        end.ring_bell([s])
        client.close_aside(s)
        yield True
    with world.attacker(part) as attacker:
        attacker.next()
        for _ in range(10):
            world.attach()
    for _ in range(10):   # the attacker has gone
        world.attach()
        time.sleep(0.05)
