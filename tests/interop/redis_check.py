"""A small redis client of its own (RESP over a blocking socket) that checks every value it gets back."""
import hashlib
import random
import socket
import sys
import threading
import time


class Client:
    def __init__(self, address, port):
        self.socket = socket.create_connection((address, port), timeout=20)
        self.file = self.socket.makefile("rb")

    def send(self, *words):
        words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))

    def reply(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError("connection ended")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return rest

    def __call__(self, *words):
        self.send(*words)
        return self.reply()


def value(n):
    return hashlib.sha256(str(n).encode()).digest() * (1 + n % 37)


def values(address, port):
    """Single requests of growing size, then a long pipeline whose answers pile up before they are read."""
    client, dice = Client(address, port), random.Random(5)
    for size in (0, 1, 100, 4095, 4096, 65535, 65536, 300000, 1 << 20, 3 << 20):
        data = dice.randbytes(size)
        assert client("SET", f"size-{size}", data) == b"OK"
        assert client("GET", f"size-{size}") == data, f"value of {size} bytes differs"
    for n in range(2000):
        client.send("SET", f"p{n}", value(n))
        client.send("GET", f"p{n}")
    for n in range(2000):
        assert client.reply() == b"OK"
        assert client.reply() == value(n), f"pipelined value {n} differs"


def snapshot(address, port):
    """BGSAVE forks the server; its clients go on writing and reading in the meantime."""
    client = Client(address, port)
    for n in range(2000):
        assert client("SET", f"k{n}", value(n)) == b"OK"
    before = client("LASTSAVE")
    time.sleep(1.1)                      # LASTSAVE counts whole seconds
    client("BGSAVE")
    until, n = time.monotonic() + 20, 2000
    while client("LASTSAVE") == before and time.monotonic() < until:
        assert client("SET", f"k{n}", value(n)) == b"OK"
        assert client("GET", f"k{n}") == value(n)
        n += 1
    assert b"rdb_last_bgsave_status:ok" in client("INFO", "persistence")
    assert client("LASTSAVE") != before, "no snapshot within 20 s"
    assert Client(address, port)("PING") == b"PONG"   # and new clients still come in


def verify(address, port):
    client = Client(address, port)
    for n in range(2000):
        assert client("GET", f"k{n}") == value(n), f"value {n} differs after the restart"


def blocking(address, port):
    waiter, got = Client(address, port), []
    thread = threading.Thread(target=lambda: got.append(waiter("BLPOP", "queue", "15")))
    thread.start()
    time.sleep(0.3)
    Client(address, port)("RPUSH", "queue", "x")
    thread.join(10)
    assert got == [[b"queue", b"x"]], got


if __name__ == "__main__":
    {"values": values, "snapshot": snapshot, "verify": verify, "blocking": blocking}[sys.argv[3]](
        sys.argv[1], int(sys.argv[2]))
