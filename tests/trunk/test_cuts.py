"""Connections between the daemons are cut in every way; programs see nothing of it, or ECONNRESET beyond the limit."""
import json
import random
import time

import pytest

from lib import channel_load, process, trunks
from lib.trunks import filtered, kill_sockets
from test_streams import serve

SECONDS = 6.0
STREAMS = 4

# Sends blocks for a while and wants each back, whole and in order; says how it went.
STREAM = """
import hashlib, json, os, socket, sys, threading, time
host, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
c = socket.create_connection((host, port), timeout=60); c.sendall(b'e')
sent, got, total, back, error = hashlib.sha256(), hashlib.sha256(), 0, 0, None
def send():
    global total, error
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            data = os.urandom(1 + int.from_bytes(os.urandom(2), 'little')); sent.update(data); c.sendall(data)
            total += len(data); time.sleep(0.002)
        c.shutdown(socket.SHUT_WR)
    except OSError as e: error = e.errno
t = threading.Thread(target=send); t.start()
try:
    while True:
        d = c.recv(1 << 16)
        if not d: break
        got.update(d); back += len(d)
except OSError as e: error = e.errno
t.join()
print(json.dumps({'error': error, 'same': sent.digest() == got.digest(), 'total': total, 'back': back}))
"""


def start_streams(pair, count=STREAMS, seconds=SECONDS, port=7101, origin="a"):
    to = pair.net["b" if origin == "a" else "a"].address
    return [process.Process([*pair[origin].prefix(), "/usr/bin/python3", "-c", STREAM, to, str(port), str(seconds)],
                            name=f"stream {i}", netns=pair.net[origin], stdout=-1) for i in range(count)]


def results(streams, timeout_s=90):
    out = []
    for s in streams:
        s.wait(timeout_s)
        out.append(json.loads(s.stdout.read()))
    return out


def all_whole(streams):
    for r in results(streams):
        assert r["error"] is None and r["same"] and r["total"] == r["back"] > 100_000, r


@pytest.fixture(scope="module")
def cut_pair(net):
    with trunks.Pair(net, shards={"a": 2, "b": 2}, outage_ms=5000) as p:
        with serve(p, "b", 7101):
            yield p


def replayed(pair):
    return sum(t["replayed"] for n in "ab" for t in pair[n].status()["trunks"])


def test_killed_sockets_are_not_seen(cut_pair):
    streams = start_streams(cut_pair)
    end = time.monotonic() + SECONDS - 1
    before = replayed(cut_pair)
    while time.monotonic() < end:
        time.sleep(random.random())
        kill_sockets(cut_pair)
    all_whole(streams)
    assert replayed(cut_pair) > before


@pytest.mark.parametrize("verdict", ["drop", "reject with tcp reset"])
def test_packets_filtered_for_a_while_are_not_seen(cut_pair, verdict):
    streams = start_streams(cut_pair)
    time.sleep(1)
    with filtered(cut_pair.net["b"], verdict):
        time.sleep(2.5)
    all_whole(streams)


def test_a_link_that_is_down_for_a_while_is_not_seen(cut_pair):
    streams = start_streams(cut_pair)
    time.sleep(1)
    with trunks.link_down(cut_pair):
        time.sleep(2.5)
    all_whole(streams)


def test_beyond_the_limit_the_channels_are_reset_and_others_are_not(cut_pair):
    # Only what a has opened: the sessions that b made go on.
    with serve(cut_pair, "a", 7104), channel_load.serve(cut_pair, "b", 7105), channel_load.serve(cut_pair, "a", 7106):
        a, b = (cut_pair.net[name].address for name in "ab")
        streams = start_streams(cut_pair, count=2, seconds=20)
        channels = channel_load.start(cut_pair, "a", b, 7105, channels=2, seconds=20)
        others = start_streams(cut_pair, count=2, seconds=12, port=7104, origin="b")
        other_channels = channel_load.start(cut_pair, "b", a, 7106, channels=2, seconds=12)
        time.sleep(1)
        with filtered(cut_pair.net["b"], "drop", ["tcp dport"]):
            began = time.monotonic()
            out = results(streams) + channel_load.results(channels)
            took = time.monotonic() - began
            assert all(r["error"] in (104, 32) for r in out), out
            assert 4 < took < 12, took
            assert all(p.alive() for p in (*others, other_channels))
        all_whole(others)
        channel_load.all_whole(other_channels)
    cut_pair.wait_up(15)
    all_whole(start_streams(cut_pair, seconds=2))


def test_a_restarted_peer_resets_what_was_open_at_once(own_net):
    with trunks.Pair(own_net, outage_ms=30000) as p:
        with serve(p, "b", 7102):
            streams = start_streams(p, count=2, seconds=20, port=7102)
            time.sleep(1)
            began = time.monotonic()
            p["b"].kill()
            p["b"].start()
            out = results(streams)
            assert all(r["error"] in (104, 32) for r in out), out
            assert time.monotonic() - began < 8
        p.wait_up()


@pytest.mark.parametrize("faults", [
    {"cut": 0.002, "piece": 20000}, {"corrupt": 0.001, "repeat": 0.001, "lose": 0.001, "piece": 30000},
    {"cut": 0.002, "corrupt": 0.001, "repeat": 0.001, "lose": 0.001, "delay_ms": 3, "piece": 5000}],
    ids=["cuts", "damage", "everything"])
def test_a_relay_that_harms_the_bytes_is_not_seen(own_net, faults):
    with trunks.HarmfulRelay(own_net["a"], f"{own_net['b'].address}:{trunks.PORT}", faults) as relay, \
            trunks.Pair(own_net, via={"a": relay.at}, packet_bytes=4096) as p, serve(p, "b", 7103):
        all_whole(start_streams(p, port=7103))
        done = relay.end_faults()
        assert done["connections"] > 1, done
