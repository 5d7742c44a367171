"""explain of all sockets of a process, of connections that it would make, and of programs that leave theirs to the kernel."""
import json
import os

import pytest
from lib import vmsgrd
from lib.agents import Agent

START = "import ctypes, fcntl; libc = ctypes.CDLL(None, use_errno=True)"
LISTEN = "l = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(l.getsockname()); s, a = l.accept()"
DIRECT = [vmsgrd.route("all", address="127.0.0.0/8", local="no")]
SPAWN = "p = subprocess.Popen({words!r}, pass_fds=[c.fileno()], env={env})"


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
    reasons = {f["reason"] for f in process.ask("explain", process.gives("p.pid"))}
    assert "environment_cleared" in reasons
