"""A memcached client of its own (text protocol) that checks every value it gets back, on several connections at
once."""
import random
import socket
import sys
import threading
import time


class Client:
    def __init__(self, address, port):
        self.socket = socket.create_connection((address, port), timeout=20)
        self.file = self.socket.makefile("rb")

    def line(self, text):
        self.socket.sendall(text.encode() + b"\r\n")
        return self.file.readline().strip().decode()

    def set(self, key, data):
        self.socket.sendall(b"set %s 0 0 %d\r\n%s\r\n" % (key.encode(), len(data), data))
        assert self.file.readline() == b"STORED\r\n"

    def ask(self, *keys):
        self.socket.sendall(b"get " + " ".join(keys).encode() + b"\r\n")

    def values(self):
        found = {}
        while (line := self.file.readline()) != b"END\r\n":
            _, key, _, size = line.split()
            found[key.decode()] = self.file.read(int(size) + 2)[:-2]
        return found

    def get(self, *keys):
        self.ask(*keys)
        return self.values()


def work(client, name, seed):
    dice = random.Random(seed)
    known = {}
    for n in range(60):
        key = f"{name}-{dice.randrange(20)}"
        known[key] = dice.randbytes(dice.choice([0, 1, 100, 5000, 70_000]))
        client.set(key, known[key])
        some = dice.sample(sorted(known), min(len(known), 5))
        assert client.get(*some, "nothing") == {k: known[k] for k in some}
        if n % 20 == 0:
            assert client.line(f"delete {key}") == "DELETED"
            del known[key]
    assert client.get(*known) == known


def main():
    where = (sys.argv[1], int(sys.argv[2]))
    failed = []

    def one(n):
        try:
            work(Client(*where), f"c{n}", n)
        except BaseException as e:
            failed.append(f"client {n}: {e!r}")

    threads = [threading.Thread(target=one, args=(n,)) for n in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    slow, data = Client(*where), random.Random(9).randbytes(1_000_000)
    slow.set("large", data)
    slow.ask(*["large"] * 8)         # more than any buffer holds
    time.sleep(0.2)
    counter = Client(*where)         # others are served meanwhile
    counter.set("n", b"0")
    assert [counter.line("incr n 1") for _ in range(500)] == [str(n + 1) for n in range(500)]
    for _ in range(8):
        assert slow.file.readline().startswith(b"VALUE large") and slow.file.read(1_000_002)[:-2] == data
    assert slow.file.readline() == b"END\r\n"
    sys.exit("\n".join(failed) or 0)


main()
