"""Run by people.Innocent, attached, as a user of its own: attaches anew, connects and echoes without end, to a program of the
same host and through the daemon, and measures each of it. A line on stdin asks for what was seen since the last one.

argv: host, control socket, ports.
"""
import json
import os
import select
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import client  # noqa: E402

host, control, ports = sys.argv[1], sys.argv[2], [int(p) for p in sys.argv[3:]]
took, errors, rounds = [], [], 0
PAUSE_S = 0.002


def timed(what, *words):
    began = time.monotonic()
    result = what(*words)
    took.append(time.monotonic() - began)
    return result


def connect(port):
    c = socket.create_connection((host, port), 10)
    c.settimeout(10)
    return c


def echo(c):
    text = b"%d " % rounds * 50
    c.sendall(text)
    got = b""
    while len(got) < len(text):
        more = c.recv(len(text) - len(got))
        if not more:
            raise ConnectionError("end of file")
        got += more
    if got != text:
        raise ValueError("other bytes came back")


def attach():
    session = client.Session(control)
    assert session.stands()
    session.sock.close()
    for memory in (session.segment, session.registry):
        memory.close()
    for fd in (session.segment_fd, session.registry_fd):
        os.close(fd)


stay = [connect(p) for p in ports]
print("up", flush=True)
while True:
    try:
        timed(attach)
        for c, p in zip(stay, ports):
            timed(echo, c)
            new = timed(connect, p)
            timed(echo, new)
            new.close()
    except Exception as e:
        errors.append(f"{type(e).__name__}: {e}")
        time.sleep(0.05)
    rounds += 1
    if select.select([sys.stdin], [], [], PAUSE_S)[0]:
        if not sys.stdin.readline():
            sys.exit()
        took.sort()
        print(json.dumps({"count": len(took), "worst": took[-1] if took else 0,
                          "p999": took[min(len(took) - 1, int(len(took) * 0.999))] if took else 0,
                          "errors": errors}), flush=True)
        took, errors = [], []
