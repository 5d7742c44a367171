"""explain of connections in plain mode, of programs that were given them, and of programs that leave theirs to the kernel. The
process has a connection to itself; what happens to it is done by the preload library alone."""
import json
import os
import shutil
import subprocess

import pytest
from lib import vmsgrd
from lib.agents import Agent

START = "import ctypes, fcntl; libc = ctypes.CDLL(None, use_errno=True)"
LISTEN = "l = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(l.getsockname()); s, a = l.accept()"
DIRECT = [vmsgrd.route("all", address="127.0.0.0/8", local="no")]
SPAWN = "p = subprocess.Popen({words!r}, pass_fds=[c.fileno()], env={env})"
SEND = """
path = '/tmp/vmsgr-test-%d' % os.getpid()
receiver = "import socket, time; u = socket.socket(socket.AF_UNIX); u.bind('%s'); u.listen(1); print(flush=True); "
receiver = receiver % path + "w, a = u.accept(); got = socket.recv_fds(w, 1, 1); time.sleep(60)"
p = subprocess.Popen(['/usr/bin/python3', '-c', receiver], stdout=subprocess.PIPE, env={})
p.stdout.readline()
mine = socket.socket(socket.AF_UNIX)
mine.connect(path)
os.unlink(path)
socket.send_fds(mine, [b'x'], [c.fileno()])
"""
AIO = """
block = ctypes.create_string_buffer(168)
text = ctypes.create_string_buffer(b'hello')
struct.pack_into('=iiiiQQ', block, 0, c.fileno(), 0, 0, 0, ctypes.addressof(text), 5)
struct.pack_into('=i', block, 44, 1)
libc.aio_write(block)
"""


class Process:
    """An interpreter with a connection of its own: `c` made, `s` accepted."""

    def __init__(self, ask, prefix):
        self.ask, self.agent = ask, Agent(prefix)
        self.does(START)
        self.does(LISTEN)

    def does(self, code):
        self.agent.run(code)

    def gives(self, text):
        return int(self.agent(text))

    def explain(self, pid, fd):
        return self.ask("explain", pid, fd)

    @property
    def pid(self):
        return self.agent.process.pid


@pytest.fixture(params=["local", "direct"])
def process(request, daemon, vmsgr):
    def ask(*words):
        done = vmsgr(*words, "--json", "--socket", daemon.socket)
        assert done.code == 0, done
        return json.loads(done.out)
    made = Process(ask, daemon.prefix(DIRECT if request.param == "direct" else None))
    yield made
    made.agent("p.kill() if 'p' in names else None")
    made.agent.kill()


@pytest.fixture(scope="module")
def static_sleep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("static")
    with open(folder / "s.c", "w", encoding="ascii") as f:
        f.write("#include <unistd.h>\nint main(void) { return (int)sleep(60); }\n")
    subprocess.run([shutil.which("gcc-14") or "gcc", "-static", "-o", folder / "sleep", folder / "s.c"], check=True)
    return str(folder / "sleep")


def check_alien(process, cause):
    """Of the giver, of the alien beside it, and of the alien alone."""
    fd, alien = process.gives("c.fileno()"), process.gives("p.pid")
    for pid in (process.pid, alien):
        found = process.explain(pid, fd)
        assert (found["reason"], found["cause"], found["accelerated"]) == ("plain_mode", cause, False), found
    there = process.gives("c.getpeername()[1]")
    process.does("c.close()")
    assert process.explain(alien, fd)["reason"] == "plain_mode"   # the other end may not have noticed
    process.does("s.setblocking(False)")
    process.agent("s.recv(1)")
    found = process.explain(alien, fd)
    assert (found["reason"], found["cause"]) == ("plain_mode", cause), found
    assert found["connection"]["peer"] == f"127.0.0.1:{there}"


def test_a_static_program_has_it(process, static_sleep):
    process.does(SPAWN.format(words=[static_sleep], env=None))
    check_alien(process, "static")


def test_a_program_without_the_environment_has_it(process):
    process.does(SPAWN.format(words=["/bin/sleep", "60"], env={}))
    check_alien(process, "no_preload")


@pytest.mark.parametrize("cause, code, fd", [
    ("stdio", "import io; keep = os.dup(0); os.dup2(c.fileno(), 2)", "c.fileno()"),
    ("aio", AIO, "c.fileno()"),
    ("receiver_without_library", SEND, "c.fileno()")], ids=["stdio", "aio", "receiver"])
def test_use_past_the_library_is_named(process, cause, code, fd):
    fd = process.gives(fd)
    process.does(code)
    found = process.explain(process.pid, fd)
    assert (found["reason"], found["cause"]) == ("plain_mode", cause), found


@pytest.mark.parametrize("cause, code", [
    ("io_uring", "libc.syscall(425, 0, None)"), ("seccomp", "libc.prctl(22, 2, None, 0, 0)"),
    ("deepbind", "ctypes.CDLL('libm.so.6', mode=os.RTLD_NOW | os.RTLD_DEEPBIND)")])
def test_a_program_that_leaves_its_connections_to_the_kernel(process, cause, code):
    process.does(code)
    found = process.explain(process.pid, process.gives("c.fileno()"))
    assert (found["reason"], found["cause"]) == ("plain_mode", cause), found
    process.does("k = socket.create_server(('127.0.0.1', 0)); d = socket.create_connection(k.getsockname())")
    found = process.explain(process.pid, process.gives("d.fileno()"))
    assert (found["reason"], found["cause"]) == ("left_to_kernel", cause), found
    found = process.ask("explain", process.pid, "--to", "127.0.0.1:7")
    assert (found["reason"], found["cause"]) == ("left_to_kernel", cause), found


def test_all_sockets_and_planned_connections(process, vmsgr, daemon):
    all_of_it = process.ask("explain", process.pid)
    carried = {f["fd"] for f in all_of_it if f["accelerated"]}
    assert {process.gives(f"{x}.fileno()") for x in "csl"} <= carried
    lines = vmsgr("explain", process.pid, "--socket", daemon.socket).out.splitlines()
    assert len(lines) == len(all_of_it) and any(": accelerated: " in line or "accelerated: " in line for line in lines)
    for to, reason in (("127.0.0.1:7", "would_be_carried"), ("10.0.0.1:7", "no_route")):
        assert process.ask("explain", process.pid, "--to", to)["reason"] == reason
    assert process.ask("explain", os.getpid(), "--to", "127.0.0.1:7")["reason"] == "library_not_loaded"
    done = vmsgr("explain", process.pid, "--to", "127.0.0.1:7", "--json", "--socket", "/no/daemon")
    assert json.loads(done.out)["reason"] == "would_fall_back"


def test_a_cleared_environment_is_named(process):
    process.does(SPAWN.format(words=["/usr/bin/python3", "-c",
                                     "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(flush=True); "
                                     "time.sleep(60)"], env={}).replace("env=", "stdout=subprocess.PIPE, env="))
    process.does("p.stdout.readline()")
    found = process.explain(process.gives("p.pid"), process.gives("c.fileno()"))
    assert found["reason"] == "plain_mode"
    reasons = {f["reason"] for f in process.ask("explain", process.gives("p.pid"))}
    assert reasons == {"plain_mode", "environment_cleared"}
