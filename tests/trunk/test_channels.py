"""Message channels of libvmsgr over trunks: nothing that programs see is different, whatever happens to the link."""
import contextlib
import hashlib
import json
import os
import struct
import subprocess
import threading
import time

import pytest

from lib import channel_load, process, trunks, vmsgrd
from test_cuts import kill_sockets, replayed
from test_streams import opened

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ASK = f"""
import json, os, sys, time
sys.path.insert(0, {TESTS!r})
from lib import channels
s, host, port, out = channels.Session(sys.argv[1], 'asker'), sys.argv[2], int(sys.argv[3]), {{}}
exec(sys.argv[4])
print(json.dumps(out))
"""
FAILS = """
began = time.monotonic()
try: s.connect(port, host)
except channels.Failed as e: out = {'errnum': e.errno, 'text': e.strerror}
out['took_s'] = time.monotonic() - began
"""
STRANGER = """
import socket, sys
s = socket.create_server((sys.argv[1], int(sys.argv[2]))); print('ready', flush=True)
while True:
    c = s.accept()[0]; c.sendall(b'HTTP/1.1 400 Bad Request\\r\\n\\r\\n'); c.recv(1000); c.recv(1000)
"""


def ask(pair, name, host, port, code):
    """`out` of a program of that host that has a session `s`."""
    done = process.run(["/usr/bin/python3", "-c", ASK, pair[name].socket, host, str(port), code],
                       netns=pair.net[name], timeout_s=60)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def server(pair):
    with channel_load.serve(pair, "b", 7301):
        yield pair.net["b"].address, 7301


def test_channels_go_over_the_trunk_and_every_message_comes_back(pair, server):
    before = opened(pair)
    out = channel_load.all_whole(channel_load.start(pair, "a", *server, seconds=2))
    assert opened(pair) == before + len(out) == before + 4


@pytest.mark.timed
def test_both_ways_at_once_and_ipv6(pair, server):
    before = opened(pair, "b")
    with channel_load.serve(pair, "a", 7302, address=pair.net["a"].address6):
        there = channel_load.start(pair, "a", *server, seconds=2)
        back = channel_load.start(pair, "b", pair.net["a"].address6, 7302, seconds=2)
        channel_load.all_whole(there)
        channel_load.all_whole(back)
    assert opened(pair, "b") == before + 4


def test_requests_and_replies_and_large_messages_in_place(pair, server):
    """One client, as a program of another host sees it: boundaries, maximum, addresses, who it is."""
    out = ask(pair, "a", server[0], server[1], """
c = s.connect(port, host, max_message_bytes=524272)
out['max'], out['local'] = c.max, c.is_local
times = []
for i in range(300):
    began = time.monotonic(); c.send(bytes([i % 256]) * 64); assert c.recv() == bytes([i % 256]) * 64
    times.append(time.monotonic() - began)
out['median_us'] = sorted(times)[150] * 1e6
requests = [c.irecv(1000) for _ in range(3)]
sends = [c.isend(b'first'), c.isend(b''), c.isend(b'x' * 1000)]
out['sent'] = [channels.wait(r) for r in sends]
out['came'] = [channels.wait(r) for r in requests]
data = os.urandom(524272); c.send(data); out['large'] = c.recv() == data
c.finish()
try: c.recv()
except OSError as e: out['end'] = e.errno
""")
    print(f"a round trip of 64 bytes takes {out['median_us']:.0f} us")
    assert out | {"median_us": 0} == {"max": 524272, "local": False, "sent": [5, 0, 1000], "came": [5, 0, 1000],
                                      "large": True, "end": 61, "median_us": 0}


def test_a_peer_that_refuses_and_one_that_is_no_channel(pair):
    host = pair.net["b"].address
    out = ask(pair, "a", host, 7399, FAILS)
    assert out["errnum"] == 111 and out["took_s"] < 0.5, out
    assert out["text"] == f"nobody listens on {host}:7399: start the other side first"
    with process.Process(["/usr/bin/python3", "-c", STRANGER, host, "7303"], name="stranger", netns=pair.net["b"],
                         stdout=-1) as stranger:
        assert stranger.stdout.readline() == b"ready\n"
        before = opened(pair)
        out = ask(pair, "a", host, 7303, FAILS)
        assert out["errnum"] == 71 and "is no message channel" in out["text"] and out["took_s"] < 2, out
        assert opened(pair) == before + 1


def test_a_killed_program_is_seen_at_the_other_end(pair, server):
    load = channel_load.start(pair, "a", *server, seconds=60)
    time.sleep(1)
    assert load.alive()
    with channel_load.serve(pair, "b", 7304) as short:
        doomed = channel_load.start(pair, "a", server[0], 7304, seconds=60)
        time.sleep(1)
        short.kill()
        for r in channel_load.results(doomed, 20):
            # 32: the end of file came first, and what was sent after it was answered by a reset
            assert r["error"] in (32, 104) and "connect anew" in r["why"], r
    load.kill()
    process.wait_until(lambda: all(t["channels"] == 0 for n in "ab" for t in pair[n].status()["trunks"]), 10,
                       "no channel left")


# --- the commands, as a person uses them ---------------------------------------------------------------------------


def vmsgr(pair, name, *words):
    done = process.run([vmsgrd.VMSGR, *words, "--socket", pair[name].socket], netns=pair.net[name], timeout_s=60)
    return done.stdout, done.stderr


@contextlib.contextmanager
def waiting(pair, name, *words, port, **how):
    """A command that listens on a port."""
    with process.Process([vmsgrd.VMSGR, *words, "--socket", pair[name].socket], netns=pair.net[name], stdout=-1,
                         name=words[0], **how) as p:
        process.wait_until(lambda: any(item["address"].endswith(f":{port}") for item in pair[name].status()["listeners"]),
                           5, f"port {port}")
        yield p


def test_ping_and_perf(pair):
    before, at = opened(pair), f"{pair.net['b'].address}:7311"
    with waiting(pair, "b", "perf", "--serve", at, port=7311):
        out, err = vmsgr(pair, "a", "ping", at, "--count", "3", "--interval-ms", "1")
        assert out.splitlines()[0].startswith(f"64 bytes from {at} (by vmsgrd): seq=1 time=") and not err, out
        assert out.splitlines()[3].startswith("3 there and back: min "), out
        out, err = vmsgr(pair, "a", "perf", at, "--sizes", "64,65536", "--seconds", "0.2", "--json")
        doc = json.loads(out)
        assert not err and (doc["local"], [r["bytes"] for r in doc["results"]]) == (False, [64, 65536])
        assert all(r["messages_per_s"] > 100 and r["round_trip_us"]["count"] > 10 for r in doc["results"]), doc
    assert opened(pair) == before + 2


def test_what_is_sent_while_the_link_is_cut_arrives_whole(pair, directory):
    before, at = opened(pair), f"{pair.net['b'].address}:7312"
    replayed_before, piece = replayed(pair), os.urandom(1 << 20)
    with waiting(pair, "b", "recv", at, f"{directory}/out", "--json", port=7312) as receiver, \
            process.Process([vmsgrd.VMSGR, "send", at, "--socket", pair["a"].socket], netns=pair.net["a"], name="send",
                            stdin=subprocess.PIPE) as sender:
        done = threading.Event()

        # A cut counts when it met bytes on their way.
        def cut():
            cuts, limit = 0, time.monotonic() + 20
            try:
                while (cuts < 5 or replayed(pair) == replayed_before) and time.monotonic() < limit:
                    with trunks.link_down(pair):   # what is sent now does not arrive
                        time.sleep(0.1)
                        kill_sockets(pair)
                    cuts += 1
                    pair.wait_up(20)
                    time.sleep(0.05)
            finally:
                done.set()
        threading.Thread(target=cut).start()
        count, sent = 0, hashlib.sha256()
        while not done.is_set():
            data = struct.pack("<Q", count) + piece[8:]
            sender.stdin.write(data)
            sent.update(data)
            count += 1
        sender.stdin.close()
        assert sender.wait(60) == 0 and receiver.wait(60) == 0
        assert json.loads(receiver.stdout.read())["bytes"] == count << 20
    assert replayed(pair) > replayed_before and opened(pair) == before + 1
    with open(f"{directory}/out", "rb") as f:
        assert hashlib.file_digest(f, "sha256").digest() == sent.digest()
