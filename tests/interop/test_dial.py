"""What programs expect of a listener beside its data: a connection is there when connect() has returned, the listeners of
a SO_REUSEPORT group share connections out, TCP_DEFER_ACCEPT holds back connections that say nothing.
"""
import collections
import json
import os
import shutil
import subprocess

import pytest

from lib import ends as lib_ends
from lib.process import wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
COUNT = 10_000
REQUESTS = 2_000
WORKERS = 4
WAYS = ["plain"] if lib_ends.PLAIN else ["plain", "routed"]

NGINX = """\
daemon off;
worker_processes {workers};
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
{user}
events {{ worker_connections 512; }}
http {{
  log_format worker '$pid';
  access_log {dir}/workers.log worker;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  server {{ listen {host}:{port} {option}; location / {{ return 200 "served"; }} }}
  server {{ listen {host}:{status_port}; access_log off; location / {{ stub_status; }} }}
}}
"""
# So many connections, one after the other, a request each.
ASK = """
import socket, sys
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for _ in range(count):
    with socket.create_connection((address, port), 10) as c:
        c.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        answer = b"".join(iter(lambda: c.recv(4096), b""))
        assert answer.endswith(b"served"), answer
"""
# Five connections that say nothing, then ask. What did the server accept meanwhile? The kernel holds them back for a
# second; a machine that stands still for so long tells nothing, and they are made anew.
HESITATE = """
import json, re, socket, sys, time
address, port, status_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def ask(c):
    c.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    return b"".join(iter(lambda: c.recv(4096), b"")).decode()

def accepts():
    with socket.create_connection((address, status_port), 10) as c:
        return int(re.search(r"requests\\s+(\\d+)", ask(c))[1])

for _ in range(20):
    before, since = accepts(), time.monotonic()
    silent = [socket.create_connection((address, port), 10) for _ in range(5)]
    time.sleep(0.3)
    after = accepts()
    if time.monotonic() - since < 0.8:
        break
    for c in silent:
        c.close()
    time.sleep(1)
print(json.dumps({"accepted_silent_ones": after - before - 1, "served": sum(ask(c).endswith("served") for c in silent)}))
"""


@pytest.fixture(scope="module")
def accepts(world):
    program = f"{world.dir}/accept_after_connect"
    subprocess.run([shutil.which("gcc-14") or "gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program,
                    f"{HERE}/accept_after_connect.c"], check=True)
    return program


def prefix(world, way):
    return [*world.netns.prefix, *(world.vmsgrd.prefix() if way == "routed" else [])]


def local_bytes(world):
    return 0 if lib_ends.PLAIN else world.vmsgrd.status()["totals"]["bytes_local"]


def check_all_at_once(world, way, seen, before, count=COUNT):
    assert seen == {"at_once": count, "late": 0}
    if way == "routed":
        wait_until(lambda: local_bytes(world) - before >= count, 5, "all of them to have been local")


@pytest.mark.parametrize("how", ["blocking", "polled"])
@pytest.mark.parametrize("way", WAYS)
def test_one_thread_accepts_what_it_has_just_connected(world, accepts, address, way, how):
    before = local_bytes(world)
    done = subprocess.run([*prefix(world, way), accepts, "one", "6" if ":" in address else "4", how, str(COUNT)],
                          stdout=subprocess.PIPE, timeout=60, check=True)
    check_all_at_once(world, way, json.loads(done.stdout), before)


@pytest.mark.parametrize("way", WAYS)
def test_a_listener_is_found_when_listen_has_returned(world, accepts, address, way):
    before, count = local_bytes(world), 300
    done = subprocess.run([*prefix(world, way), accepts, "fresh", "6" if ":" in address else "4", "blocking", str(count)],
                          stdout=subprocess.PIPE, timeout=60, check=True)
    check_all_at_once(world, way, json.loads(done.stdout), before, count)


@pytest.mark.parametrize("how", ["blocking", "polled"])
@pytest.mark.parametrize("way", WAYS)
def test_a_program_accepts_what_another_has_just_connected(world, accepts, address, way, how):
    before = local_bytes(world)
    to_server, to_client = os.pipe(), os.pipe()
    words = ["6" if ":" in address else "4", how, str(COUNT)]
    programs = []
    for role, fds in (("serve", (to_server[0], to_client[1])), ("dial", (to_client[0], to_server[1]))):
        programs.append(subprocess.Popen([*prefix(world, way), accepts, role, *words, *map(str, fds)], pass_fds=fds,
                                         stdout=subprocess.PIPE))
    for fd in (*to_server, *to_client):
        os.close(fd)
    try:
        outputs = [program.communicate(timeout=60)[0] for program in programs]
    finally:
        for program in programs:
            program.kill()
            program.wait()
    assert [program.returncode for program in programs] == [0, 0]
    check_all_at_once(world, way, json.loads(outputs[0]), before)


class Nginx:
    def __init__(self, ends, option, workers):
        self.ends, self.port, self.status_port = ends, ends.port(), ends.port()
        self.dir = ends.path(f"nginx-dial-{self.port}")
        os.makedirs(self.dir)
        config = f"{self.dir}/nginx.conf"
        with open(config, "w", encoding="ascii") as f:
            f.write(NGINX.format(dir=self.dir, host=ends.url_host, port=self.port, status_port=self.status_port,
                                 option=option, workers=workers, user="user root;" if os.geteuid() == 0 else ""))
        ends.serve(["nginx", "-c", config, "-p", self.dir, "-e", f"{self.dir}/start.log"], self.port)
        # Workers attach and listen a moment after the first of them.
        wait_until(lambda: len(ends.listened(self.port)) >= (workers if option == "reuseport" else 1), 10, "the workers")

    def served(self):
        with open(f"{self.dir}/workers.log", encoding="ascii") as f:
            return collections.Counter(f.read().split())


def test_workers_of_a_reuseport_group_share_the_load(ends):
    nginx = Nginx(ends, "reuseport", WORKERS)
    ends.run(["/usr/bin/python3", "-c", ASK, ends.address, nginx.port, REQUESTS], timeout_s=60)
    counts = nginx.served()
    assert sum(counts.values()) == REQUESTS
    assert len(counts) == WORKERS and min(counts.values()) >= 0.15 * REQUESTS, counts
    ends.check_carried(at_least=REQUESTS * 20)


def test_a_deferring_listener_does_not_see_silent_connections(ends):
    nginx = Nginx(ends, "deferred", 1)
    done = ends.run(["/usr/bin/python3", "-c", HESITATE, ends.address, nginx.port, nginx.status_port], timeout_s=60)
    assert json.loads(done.stdout) == {"accepted_silent_ones": 0, "served": 5}
    ends.check_carried(at_least=5 * 20)
