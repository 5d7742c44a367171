"""What relays may keep of bytes on their way (connections of a peer to servers that are not attached) has a limit in all and for
each peer: what is opened beyond it is refused and counted, and goes another way; what stands goes on; nobody else notices.
"""
import json
import subprocess

from lib import process, trunks
from test_streams import ask, serve

SILENT, ECHO, ATTACHED = 7901, 7902, 7903
MANY = 400

# Accepts and never reads.
SERVER = """
import socket, sys
s = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=4096)
print('ready', flush=True)
held = []
while True:
    held.append(s.accept())
"""

# A connection that is in use, then many to the silent server, each with more than anybody reads; then the first again.
CLIENT = """
import json, os, socket, sys
host, silent, echo, many = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
def exchange(c, count):
    text, got = os.urandom(count), b''
    c.sendall(text)
    while len(got) < count:
        more = c.recv(count - len(got))
        if not more:
            return False
        got += more
    return got == text
first = socket.create_connection((host, echo), 20)
first.sendall(b'e')
good = [exchange(first, 30000)]
held = []
for _ in range(many):
    c = socket.create_connection((host, silent), 20)
    c.setblocking(False)
    try:
        c.send(bytes(100_000))
    except BlockingIOError:
        pass
    held.append(c)
good.append(exchange(first, 30000))
print(json.dumps(good), flush=True)
sys.stdin.read()
"""


def refused(daemon):
    return sum(t["refused_by_reason"].get("memory", 0) for t in daemon.status()["trunks"])


def used(daemon):
    limits = daemon.status()["limits"]
    return limits["trunk_relay_bytes_used"], limits["trunk_relay_bytes"]


def test_relays_keep_no_more_than_they_may(own_net):
    with trunks.Pair(own_net, memory="32M") as p, serve(p, "b", ECHO, attached=False), serve(p, "b", ATTACHED), \
            process.Process(["/usr/bin/python3", "-c", SERVER, own_net["b"].address, SILENT], name="silent server",
                            netns=own_net["b"], stdout=subprocess.PIPE) as silent:
        assert silent.stdout.readline() == b"ready\n"
        host, before = own_net["b"].address, process.resident_kib(p["b"].pid)
        with process.Process([*p["a"].prefix(), "/usr/bin/python3", "-c", CLIENT, host, SILENT, ECHO, MANY], name="client",
                             netns=own_net["a"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
            assert json.loads(client.stdout.readline()) == [True, True]
            now, most = used(p["b"])
            grown = process.resident_kib(p["b"].pid) - before
            print(f"{now} of {most} bytes, {refused(p['b'])} of {MANY} refused; {grown} KiB more in memory")
            assert most == (32 << 20) // 8 and most // 4 < now <= most // 2   # of one peer
            assert refused(p["b"]) > 0
            assert grown < 2 * most // 1024
            assert ask(p, "a", host, ATTACHED, "echo", 100_000)["same"]
        silent.kill()   # as long as it lives it could still read what it was sent
        process.wait_until(lambda: used(p["b"])[0] == 0, 10, "all is given back")
        assert refused(p["b"]) < MANY
        count = refused(p["b"])
        assert ask(p, "a", host, ECHO, "echo", 1_000_000)["same"]
        assert refused(p["b"]) == count
