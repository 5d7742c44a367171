"""For tests of servers that are reloaded under load: clients that must not notice."""
import os
import subprocess

from lib import process

LOAD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "http_load.py")


class Load:
    """Clients that ask all the time while the context lasts."""

    def __init__(self, ends, port, wanted, threads=3):
        self.process = process.Process(
            [*ends.client_prefix, "/usr/bin/python3", LOAD, ends.address, port, threads, wanted],
            netns=ends.world.netns, stdin=subprocess.PIPE, stdout=subprocess.PIPE, log=ends.path(f"load-{port}"))
        self.log, self.requests = ends.path(f"load-{port}"), 0

    def __enter__(self):
        self.process.stdout.readline()
        return self

    def __exit__(self, kind, *_):
        self.process.stdin.close()
        self.requests = int(self.process.stdout.readline() or 0)
        code = self.process.wait(30)
        if kind is None:
            assert code == 0, process.tail(self.log)
