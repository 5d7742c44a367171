"""vmsgr ceph verify on OSDs that are none: what it makes of connections that the kernel has."""
import json
import socket

import pytest
from lib import process, vmsgrd

NUMBER = 7777
OSD = """
import socket, sys
s = socket.socket()
if sys.argv[-1] == "deferred":
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)   # what via: local leaves to TCP
s.bind(("127.0.0.1", int(sys.argv[-2])))
s.listen(5)
c = s.accept()[0]
while c.recv(10):
    c.sendall(b"here")
"""
CLIENT = """
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.sendall(b"there"); s.recv(10); print("ready", flush=True); s.recv(10)
"""


@pytest.fixture
def daemon(here):
    with vmsgrd.Vmsgrd(here, routes=[vmsgrd.route("osds", address="127.0.0.0/8", ports="1024-65535", via="local")]) as made:
        yield made


def verify(daemon, here):
    with open(f"{here}/ceph", "w", encoding="ascii") as f:
        f.write("echo '{\"mons\": []}'\n")
    words = [vmsgrd.VMSGR, "--socket", daemon.socket, "ceph", "verify", "--json", "--ceph", f"sh {here}/ceph", "--osd", str(NUMBER)]
    done = process.run(words, check=False)
    [report] = json.loads(done.stdout)
    return done.returncode, report


def osd(daemon, here, *how):
    port = process.free_port()
    words = [*daemon.prefix(), "bash", "-c", 'exec -a ceph-osd "$@"', "bash", "/usr/bin/python3", "-c", OSD, "--id", str(NUMBER), str(port),
             *(how or ["as ever"])]
    made = process.Process(words, log=f"{here}/osd.log", name="ceph-osd")
    made.wait_ready(lambda: f":{port} " in process.run(["ss", "-Hltn"]).stdout, 20, "listen")
    return made, port


def test_a_connection_with_a_plain_program_is_as_it_should_be_where_a_route_says_local(daemon, here):
    one, port = osd(daemon, here)
    with one, socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(b"there")
        assert s.recv(10) == b"here"
        code, report = verify(daemon, here)
    assert (code, report["attached"], report["carried"], report["kernel"], report["wrong"]) == (0, True, 0, 1, []), report


@pytest.mark.parametrize("how", [[], ["deferred"]])
def test_one_of_two_programs_of_the_daemon_has_to_be_carried(daemon, here, how):
    one, port = osd(daemon, here, *how)
    with one, process.Process([*daemon.prefix(), "/usr/bin/python3", "-c", CLIENT, str(port)], log=f"{here}/client.log") as client:
        client.wait_ready(lambda: "ready" in process.tail(f"{here}/client.log"), 20, "be connected")
        code, report = verify(daemon, here)
    names = [text for text in report["wrong"] if "route osds names it, but it is the kernel's" in text]
    assert (code, report["carried"], len(names)) == ((1, 0, 1) if how else (0, 1, 0)), report
