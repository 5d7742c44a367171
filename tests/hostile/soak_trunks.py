"""The part of the soak that goes over trunks: two daemons in namespaces of their own, a client whose connections go to an
attached server and to one that is not (a relay), and a trunk that is cut again and again.
"""
import json
import os
import random
import select
import subprocess
import time

import people
from lib import netns, process, trunks
from lib.process import wait_until

ATTACHED, RELAYED = 7801, 7802
CONNECT_S = 60

# On `pause` it completes what is under way and says what its connections have come to, by port: how many, and bytes each way.
CLIENT = people.ECHO + """
import json, os, random, socket, sys, threading
host, ports, limit_s = sys.argv[1], sys.argv[2:4], int(sys.argv[4])
done, errors, idle, run = {p: [0, 0] for p in ports}, [], threading.Semaphore(0), threading.Event()
def one(port):
    bytes = 0
    with socket.create_connection((host, int(port)), limit_s) as c:
        for _ in range(random.randint(1, 30)):
            text = os.urandom(random.randint(1, 20000))
            echo_text(c, text)
            bytes += len(text)
        c.shutdown(socket.SHUT_WR)
        if c.recv(1):
            raise ValueError('more came back')
    done[port][0] += 1
    done[port][1] += bytes
def load(port):
    while True:
        if not run.is_set():
            idle.release()
            run.wait()
        try:
            one(port)
        except Exception as e:
            errors.append('%s: %s: %s' % (port, type(e).__name__, e))
run.set()
for p in ports:
    threading.Thread(target=load, args=[p], daemon=True).start()
print('up', flush=True)
for line in sys.stdin:
    if line == 'pause\\n':
        run.clear()
        for _ in ports:
            idle.acquire()
        print(json.dumps([done, errors]), flush=True)
    else:
        run.set()
"""


def serve(pair, name, port, attached):
    """An echo server on that host."""
    words = [*(pair[name].prefix() if attached else []), "/usr/bin/python3", "-c", people.SERVER, pair.net[name].address, port]
    log = f"{pair.dir}/server-{name}-{port}.log"
    server = process.Process(words, name=f"server {name}:{port}", netns=pair.net[name], log=log)
    try:
        server.wait_ready(lambda: '"up"' in process.tail(log), 20, "listen")
    except BaseException:
        server.kill()
        raise
    return server


class TrunkLoad:
    def __init__(self):
        self.cuts = 0
        self.net = netns.Network(["a", "b"])
        self.pair = trunks.Pair(self.net, outage_ms=CONNECT_S * 1000, routes=trunks.routes_by_trunk("wait"))
        self.to = self.net["b"].address
        self.servers, self.client = [], None

    def __enter__(self):
        try:
            self.pair.__enter__()
            for port in (ATTACHED, RELAYED):
                self.servers.append(serve(self.pair, "b", port, port == ATTACHED))
            words = [*self.pair["a"].prefix(), "/usr/bin/python3", "-c", CLIENT, self.to, ATTACHED, RELAYED, CONNECT_S]
            self.client = process.Process(words, name="client of trunks", netns=self.net["a"], stdin=subprocess.PIPE,
                                          stdout=subprocess.PIPE)
            assert self.client.stdout.readline() == b"up\n"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for p in (self.client, *self.servers):
            if p:
                p.kill()
        self.pair.close()
        self.net.close()

    def cut(self):
        """In one of the ways there are, for a moment."""
        def filtered(verdict):
            with trunks.filtered(self.net["b"], verdict):
                time.sleep(random.uniform(0.05, 0.5))

        def link_down():
            with trunks.link_down(self.pair):
                time.sleep(random.uniform(0.05, 0.5))
        self.cuts += 1
        random.choice((lambda: trunks.kill_sockets(self.pair), lambda: filtered("drop"),
                       lambda: filtered("reject with tcp reset"), link_down))()

    def say(self, word):
        self.client.stdin.write(word)
        self.client.stdin.flush()

    def measured(self):
        """What both daemons hold while nothing is under way, and that each byte of a connection that is over was counted once,
        on its way there and on its way back."""
        self.say(b"pause\n")
        assert select.select([self.client.stdout], [], [], 2 * CONNECT_S)[0], "the client hangs"
        done, errors = json.loads(self.client.stdout.readline())
        assert errors == [], errors
        echoed = {name: sum(done[str(port)][1] for port in ports)
                  for name, ports in (("a", (ATTACHED, RELAYED)), ("b", (ATTACHED,)))}

        def counted():
            totals = {name: self.pair[name].status()["totals"] for name in "ab"}
            return all(totals[n]["bytes_in"] == totals[n]["bytes_out"] == echoed[n] and totals[n]["connections_open"] == 0
                       for n in "ab")
        wait_until(counted, 15, f"counted is what was echoed, {echoed}")
        time.sleep(4)   # memory rests for a moment before it is given back
        found = {}
        for name in "ab":
            daemon = self.pair[name]
            found[name] = {"descriptors": len(os.listdir(f"/proc/{daemon.pid}/fd")),
                           "relay_bytes": daemon.status()["limits"]["trunk_relay_bytes_used"],
                           "resident_kib": process.resident_kib(daemon.pid)}
        print(f"trunk: {done}, {self.cuts} cuts, {found}")
        self.say(b"go\n")
        return found

    @staticmethod
    def check(before, after, more_kib):
        """A session that was ended and begun anew holds a descriptor more or less for a moment."""
        for name in "ab":
            assert after[name]["descriptors"] <= before[name]["descriptors"] + 2, (before, after)
            assert after[name]["relay_bytes"] == before[name]["relay_bytes"] == 0, (before, after)
            assert after[name]["resident_kib"] - before[name]["resident_kib"] < more_kib, (before, after)
