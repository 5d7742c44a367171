"""HAProxy, which is server and client at once, and its reload: the new process takes the listeners from the old one
over a unix socket (-x), the old one finishes what it has (-sf). Clients see nothing of it."""
import hashlib
import os
import random
import shutil
import subprocess
import time

import pytest

from lib import process
from reloads import Load

pytestmark = pytest.mark.skipif(not shutil.which("haproxy"), reason="no haproxy: apt-get install haproxy")

CONFIG = """\
global
  stats socket {dir}/stats level admin expose-fd listeners
  maxconn 200
defaults
  mode http
  timeout connect 10s
  timeout client 20s
  timeout server 20s
  option http-server-close
frontend f
  bind {address}:{port}
  default_backend b
backend b
  server one {address}:{backend}
frontend raw
  mode tcp
  bind {address}:{raw}
  default_backend raw
backend raw
  mode tcp
  server one {address}:{backend}
"""
# /N: so many bytes; an upload is answered by its hash.
BACKEND = """
import hashlib, http.server, random, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, data):
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        n = int(self.path[1:] or 0)
        self.answer(random.Random(n).randbytes(n) if n else b"served")
    def do_PUT(self):
        self.answer(hashlib.sha256(self.rfile.read(int(self.headers["Content-Length"]))).hexdigest().encode())
    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 100

Server((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""
SIZE = 3_000_000


class Haproxy:
    def __init__(self, ends):
        self.ends, self.port, self.raw, backend = ends, ends.port(), ends.port(), ends.port()
        self.dir = ends.path(f"haproxy-{self.port}")
        os.makedirs(self.dir)
        with open(f"{self.dir}/config", "w", encoding="ascii") as f:
            f.write(CONFIG.format(dir=self.dir, address=ends.address, port=self.port, raw=self.raw, backend=backend))
        ends.serve(["/usr/bin/python3", "-c", BACKEND, ends.address, backend], backend)
        self.process = self.start()

    def start(self, *words):
        return self.ends.serve(["haproxy", "-db", "-f", f"{self.dir}/config", *words], self.port)

    def reload(self):
        old = self.process
        self.process = self.start("-x", f"{self.dir}/stats", "-sf", old.pid)
        return old

    def url(self, path, port=None):
        return f"http://{self.ends.address}:{port or self.port}/{path}"


@pytest.fixture
def haproxy(way):
    return Haproxy(way)


def test_bodies_both_ways(way, haproxy, tmp_path):
    data = random.Random(SIZE).randbytes(SIZE)
    (tmp_path / "data").write_bytes(data)
    for port in (haproxy.port, haproxy.raw):
        assert way.run(["curl", "-sSf", haproxy.url(SIZE, port)], binary=True).stdout == data
        said = way.run(["curl", "-sSf", "-T", tmp_path / "data", haproxy.url("x", port)]).stdout
        assert said == hashlib.sha256(data).hexdigest()
    way.check_carried(at_least=4 * SIZE)


def test_reload_under_load(way, haproxy):
    with Load(way, haproxy.port, "served") as load:
        for _ in range(3):
            slow = subprocess.Popen([*way.world.netns.prefix, *way.client_prefix, "curl", "-sSf", "--limit-rate", "8M",
                                     haproxy.url(SIZE)], stdout=subprocess.PIPE)
            time.sleep(0.1)
            old = haproxy.reload()
            # What the old process was serving goes on to its end.
            assert hashlib.sha256(slow.communicate(timeout=20)[0]).digest() == \
                hashlib.sha256(random.Random(SIZE).randbytes(SIZE)).digest()
            process.wait_until(lambda old=old: not old.alive(), 20, "the old process to end")
    assert load.requests > 30
    way.check_carried(at_least=load.requests * 6 + 3 * SIZE)
