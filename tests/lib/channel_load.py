"""Message channels under load between two hosts: every message comes back once, in order, unharmed, or this says what went
wrong. Hosts are those of a trunks.Pair; each side is a program of its own, in its host's namespace.

    with channel_load.serve(pair, "b", 7301):
        load = channel_load.start(pair, "a", pair.net["b"].address, 7301, channels=4, seconds=600)
        ...   # cut what you like
        channel_load.all_whole(load)
"""
import hashlib
import json
import os
import random
import struct
import sys
import threading
import time

if __name__ == "__main__":
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from lib import process
from lib.channels import Session

SIZES = (0, 1, 12, 64, 1000, 4096, 16000, 65536, 300_000)
MAX_MESSAGE = 524_272
LONG_MS = 120_000   # beyond every cut of a test; who waits longer has lost something
ENODATA = 61
NUMBERED = b"load"   # begins a message that says which one of its channel it is, for the other side to check


def serve(pair, name, port, address=None):
    """Answers each message with the same; a process.Process."""
    p = process.Process(_argv("serve", pair[name].socket, address or pair.net[name].address, port),
                        name=f"channel server on {name}", netns=pair.net[name], stdout=-1, log=_log(pair))
    assert p.stdout.readline() == b"ready\n"
    process.wait_until(lambda: any(item["address"].endswith(f":{port}") for item in pair[name].status()["listeners"]), 5,
                       f"channel listener {port}")
    return p


def start(pair, name, host, port, *, channels=4, seconds=6.0, pause_ms=2):
    """`channels` channels of one program; it ends after `seconds`."""
    return process.Process(_argv("load", pair[name].socket, host, port, channels, seconds, pause_ms),
                           name=f"channel load on {name}", netns=pair.net[name], stdout=-1, log=_log(pair))


def results(load, timeout_s=90):
    """One dict a channel: error (an errno or None), why, sent and back (messages), same (all that was sent came back)."""
    out, _ = load.stdout.read(), load.wait(timeout_s)
    return json.loads(out)


def all_whole(load, timeout_s=90, at_least=100):
    out = results(load, timeout_s)
    for r in out:
        whole = r["error"] is None and r["same"] and r["sent"] == r["back"] >= at_least
        assert whole, f"{out}\n{process.tail(load.log)}"
    return out


def _log(pair):
    return os.path.join(pair.dir, "channel_load.log")


def _argv(*words):
    return ["/usr/bin/python3", os.path.abspath(__file__), *map(str, words)]


# --- in the programs ----------------------------------------------------------------------------------------------


def _echo(channel):
    expected = 0
    try:
        while True:
            message = channel.recv(MAX_MESSAGE, timeout_ms=-1)
            if message.startswith(NUMBERED):
                number, = struct.unpack_from("<Q", message, len(NUMBERED))
                assert number == expected, f"message {number} instead of {expected}"
            expected += 1
            channel.send(message, timeout_ms=-1)
    except (OSError, AssertionError) as e:
        if getattr(e, "errno", 0) != ENODATA:
            print(f"channel server: {e}", file=sys.stderr, flush=True)
        # Closing without having sent everything back is what the other side notices.
    channel.close()


def _serve(socket, host, port):
    with Session(socket, "server") as s, s.listen(host, int(port), max_message_bytes=MAX_MESSAGE) as listener:
        print("ready", flush=True)
        while True:
            channel = listener.accept(timeout_ms=-1)
            threading.Thread(target=_echo, args=(channel,), daemon=True).start()


class _One:
    def __init__(self, session, host, port, seconds, pause_ms, seed):
        self.channel = session.connect(port, host, max_message_bytes=MAX_MESSAGE, timeout_ms=LONG_MS)
        self.end, self.pause, self.random = time.monotonic() + seconds, pause_ms / 1000, random.Random(seed)
        self.sent = self.back = 0
        self.hashes = {"sent": hashlib.sha256(), "back": hashlib.sha256()}
        self.error = self.why = None
        self.threads = [threading.Thread(target=self.guard, args=(f,)) for f in (self.send, self.receive)]
        for t in self.threads:
            t.start()

    def guard(self, run):
        try:
            run()
        except OSError as e:
            why = self.channel.why()
            self.error = self.error or e.errno
            self.why = self.why or (why[1] if why else None)

    def note(self, way, message):
        self.hashes[way].update(struct.pack("<Q", len(message)) + message)

    def send(self):
        while time.monotonic() < self.end and not self.error:
            size = self.random.choice(SIZES)
            body = self.random.randbytes(size)
            message = NUMBERED + struct.pack("<Q", self.sent) + body[12:] if size >= 12 else body
            self.note("sent", message)
            self.channel.send(message, timeout_ms=LONG_MS)
            self.sent += 1
            time.sleep(self.pause)
        self.channel.finish()

    def receive(self):
        try:
            while True:
                message = self.channel.recv(MAX_MESSAGE, timeout_ms=LONG_MS)
                self.note("back", message)
                self.back += 1
        except OSError as e:
            if e.errno != ENODATA:
                raise

    def result(self):
        for t in self.threads:
            t.join()
        return {"error": self.error, "why": self.why, "sent": self.sent, "back": self.back,
                "same": self.hashes["sent"].digest() == self.hashes["back"].digest()}


def _load(socket, host, port, count, seconds, pause_ms):
    seed = int(os.environ.get("VMSGR_SEED", random.randrange(1 << 32)))
    print(f"channel load: VMSGR_SEED={seed}", file=sys.stderr, flush=True)
    with Session(socket, "load") as s:
        all_of_them = [_One(s, host, int(port), float(seconds), float(pause_ms), seed + i) for i in range(int(count))]
        print(json.dumps([one.result() for one in all_of_them]))


if __name__ == "__main__":
    {"serve": _serve, "load": _load}[sys.argv[1]](*sys.argv[2:])
