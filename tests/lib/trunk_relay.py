"""A TCP relay that is unkind: delays, splits, cuts in mid-packet, repeats and corrupts bytes, at random from a seed.

    python3 trunk_relay.py LISTEN TARGET SEED [name=probability ...]

Runs inside a namespace. Faults are per piece of data that passes: cut, corrupt, repeat, lose; and `delay_ms`, `piece` (the
largest piece). With `kind=1` data pass unharmed until SIGHUP. SIGUSR1 stops the faults, SIGUSR2 cuts every connection now.
Prints `ready`.
"""
import random
import signal
import socket
import sys
import threading
import time


def endpoint(text):
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


class Relay:
    def __init__(self, listen, target, seed, faults):
        self.target, self.faults, self.kind = target, faults, bool(faults.pop("kind", 0))
        self.random, self.open, self.lock = random.Random(seed), set(), threading.Lock()
        self.done = {name: 0 for name in ("cut", "corrupt", "repeat", "lose", "connections")}
        family = socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
        self.listener = socket.socket(family)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(listen)
        self.listener.listen(64)

    def happens(self, name):
        with self.lock:
            hit = not self.kind and self.random.random() < self.faults.get(name, 0)
            self.done[name] += hit
            return hit

    def below(self, n):
        with self.lock:
            return self.random.randrange(n)

    def cut(self, pair):
        for s in pair:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.open.discard(pair)

    def cut_all(self):
        for pair in list(self.open):
            self.cut(pair)

    def carry(self, source, to, pair):
        piece = int(self.faults.get("piece", 65536))
        try:
            while True:
                data = source.recv(1 + self.below(piece))
                if not data:
                    break
                if self.faults.get("delay_ms") and not self.kind:
                    time.sleep(self.below(int(self.faults["delay_ms"]) + 1) / 1000)
                if self.happens("corrupt"):
                    at = self.below(len(data))
                    data = data[:at] + bytes([data[at] ^ (1 + self.below(255))]) + data[at + 1:]
                if self.happens("repeat"):
                    data += data
                if self.happens("lose"):
                    data = data[:self.below(len(data))]
                if self.happens("cut"):
                    to.sendall(data[:self.below(len(data))])
                    break
                to.sendall(data)
        except OSError:
            pass
        self.cut(pair)

    def serve(self):
        while True:
            a, _ = self.listener.accept()
            try:
                b = socket.create_connection(self.target, timeout=2)
                b.settimeout(None)
            except OSError:
                a.close()
                continue
            for s in (a, b):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.done["connections"] += 1
            pair = (a, b)
            self.open.add(pair)
            threading.Thread(target=self.carry, args=(a, b, pair), daemon=True).start()
            threading.Thread(target=self.carry, args=(b, a, pair), daemon=True).start()


def main():
    listen, target, seed = endpoint(sys.argv[1]), endpoint(sys.argv[2]), int(sys.argv[3])
    faults = {k: float(v) for k, v in (word.split("=") for word in sys.argv[4:])}
    relay = Relay(listen, target, seed, faults)

    def be_kind(*_):
        relay.kind = True
        print(relay.done, flush=True)

    def be_unkind(*_):
        relay.kind = False
    signal.signal(signal.SIGHUP, be_unkind)
    signal.signal(signal.SIGUSR1, be_kind)
    signal.signal(signal.SIGUSR2, lambda *_: relay.cut_all())
    print("ready", flush=True)
    relay.serve()


if __name__ == "__main__":
    main()
