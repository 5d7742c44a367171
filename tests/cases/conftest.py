"""Programs that do with their sockets what others do not. Each test runs with both ends on kernel sockets, which are the
oracle, and with one or both ends routed; what it asserts has to hold in all of them.

pp plain; rp, pr only the server, only the client routed; rr both, through vmsgrd; ll both, memory to memory.
"""
import os
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lib import process, vmsgrd  # noqa: E402
from lib.agents import Agent  # noqa: E402
from lib.standstill import pytest_runtest_protocol, pytest_terminal_summary  # noqa: E402, F401

HERE = os.path.dirname(os.path.abspath(__file__))
MODES = ["pp", "rp", "pr", "rr", "ll"]


class World:
    def __init__(self):
        self.dir = process.make_dir("vc-")
        os.chmod(self.dir, 0o755)
        route = vmsgrd.route("v4", address="127.0.0.0/8", ports="1024-65535")
        self.vmsgrd = vmsgrd.Vmsgrd(self.dir, routes=[route], shards=1).start()
        self._direct = [dict(route, local="no")]

    def prefix(self, letter):
        if letter == "p":
            return []
        return self.vmsgrd.prefix(self._direct if letter == "r" else None)

    def build(self, source, *options):
        program = os.path.join(self.dir, os.path.splitext(source)[0] + "".join(options).replace("-", "_"))
        if not os.path.exists(program):
            subprocess.run([shutil.which("gcc-14") or "gcc", "-O1", "-Wall", "-Wextra", "-Werror", *options, "-o", program,
                            os.path.join(HERE, source), "-pthread"], check=True)
        return program

    def close(self):
        self.vmsgrd.stop()
        process.remove_dir(self.dir)


class Ends:
    """A server and a client in one mode, each an interpreter; `pair` makes a connection, `s` and `c`."""

    def __init__(self, world, mode):
        self.world, self.mode = world, mode
        self.agents = []
        self.server, self.client = self.agent(mode[0]), self.agent(mode[1])

    def agent(self, letter):
        self.agents.append(Agent(self.world.prefix(letter)))
        return self.agents[-1]

    def listen(self):
        self.server("!l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)")
        self.server("!l.bind(('127.0.0.1', 0)); l.listen(16)")
        return int(self.server("l.getsockname()[1]"))

    def pair(self):
        port = self.listen()
        self.client(f"!c = socket.create_connection(('127.0.0.1', {port})); c.settimeout(20)")
        self.server("!s, a = l.accept()")

    def close(self):
        for a in self.agents:
            a.kill()


@pytest.fixture(scope="session")
def world():
    if vmsgrd.why_not():
        pytest.skip(vmsgrd.why_not())
    made = World()
    yield made
    made.close()


@pytest.fixture(params=MODES)
def ends(request, world):
    made = Ends(world, request.param)
    yield made
    made.close()
