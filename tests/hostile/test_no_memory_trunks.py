"""Each allocation of a shard fails once, while connections go over a trunk both ways, the trunk is cut and made anew, and
the configuration is read again. Whose it was sees an error or waits; the daemon goes on, and everything is back
afterwards. VMSGR_SEED, VMSGR_FAILING_SECONDS.
"""
import collections
import json
import random
import select
import signal
import subprocess
import time

import failing_new
import people
from lib import certificates, netns, process, trunks
from lib.process import wait_until
from soak_trunks import ATTACHED, RELAYED, serve
from test_no_memory import ENDS, SECONDS, SEED, board  # noqa: F401  (a fixture)

PATIENCE_S = 20

# For each line: one exchange with each of the servers; how each has ended.
CLIENT = people.ECHO + """
import json, os, socket, sys
def one(host, port):
    with socket.create_connection((host, int(port)), 10) as c:
        for size in (100, 20000):
            echo_text(c, os.urandom(size))
        c.shutdown(socket.SHUT_WR)
        if c.recv(1):
            raise ValueError('more came back')
for line in sys.stdin:
    ends = []
    for host, port in zip(sys.argv[1::2], sys.argv[2::2]):
        try:
            one(host, port)
            ends.append('right')
        except Exception as e:
            ends.append('%s: %s' % (type(e).__name__, e))
    print(json.dumps(ends), flush=True)
"""


class Client:
    def __init__(self, daemon, host, *servers):
        words = [*daemon.prefix(), "/usr/bin/python3", "-c", CLIENT, *map(str, servers)]
        self.process = process.Process(words, name=f"client of {daemon.name}", netns=host, stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE)

    def begin(self):
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def ends(self):
        assert select.select([self.process.stdout], [], [], 3 * PATIENCE_S)[0], f"{self.process.name} hangs"
        return json.loads(self.process.stdout.readline())


class Hosts:
    """Daemon b's allocations fail. On each host there are a server that is attached, one that is not, and a client of the
    other host's."""

    def __init__(self, directory):
        self.net = netns.Network(["a", "b"])
        authority = certificates.Authority(directory, "authority")
        tls = {me: {**authority.sign(me), "names": f"[{other}]"} for me, other in ("ab", "ba")}
        self.pair = trunks.Pair(self.net, tls=tls, outage_ms=5000, routes=trunks.routes_by_trunk("wait"),
                                programs={"b": failing_new.PROGRAM})
        self.others = []

    def __enter__(self):
        try:
            self.pair.__enter__()
            for name in "ab":
                for port in (ATTACHED, RELAYED):
                    self.others.append(serve(self.pair, name, port, port == ATTACHED))
            self.clients = []
            for name, other in ("ab", "ba"):
                at = self.net[other].address
                self.clients.append(Client(self.pair[name], self.net[name], at, ATTACHED, at, RELAYED))
            self.others += [c.process for c in self.clients]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for p in self.others:
            p.kill()
        self.pair.close()
        self.net.close()

    def use(self):
        """How each exchange has ended, of both clients at once."""
        for c in self.clients:
            c.begin()
        return [end for c in self.clients for end in c.ends()]

    def held(self):
        limits = self.pair["b"].status()["limits"]
        return {k: v for k, v in limits.items() if k in ("connections_used", "in_flight_used", "trunk_relay_bytes_used")}


def test_each_allocation_beside_trunks_fails_once(board, tmp_path):  # noqa: F811
    print(f"VMSGR_SEED={SEED}")
    random.seed(SEED)
    with Hosts(str(tmp_path)) as hosts:
        daemon = hosts.pair["b"]
        pid, before = daemon.pid, hosts.held()

        def disturbed(turn):
            """The trunk is made anew, or the configuration is read again, while connections begin."""
            if turn % 3 == 0:
                trunks.kill_sockets(hosts.pair)
            elif turn % 3 == 1:
                daemon.process.signal(signal.SIGHUP)
            return hosts.use()

        board.record()
        for turn in range(6):
            assert disturbed(turn) == ["right"] * 4
        places = board.places()
        board.look_up(places)
        own = [p for p in places if board.may_fail(p)]
        print(f"{len(own)} of {len(places)} places are the daemon's own")
        ends, failed, until, turn = collections.Counter(), [], time.monotonic() + SECONDS, 0
        while time.monotonic() < until:
            random.shuffle(own)
            for place in own:
                nth = 1 if turn < len(own) else random.randint(1, max(places[place] // 3, 1))
                board.arm(place, nth)
                ends.update(disturbed(turn))
                if board.disarm():
                    failed.append(place)
                turn += 1
                assert daemon.pid == pid, f"call {nth} failed in {board.whose(place)}, and the daemon has ended\n" \
                    + process.tail(daemon.log)
                if time.monotonic() > until:
                    break
        board.record(False)
        print(f"{len(set(failed))} places failed, {len(failed)} times in {turn} turns: {dict(ends)}")
        assert all(end == "right" or end.startswith((*ENDS, "OSError: [Errno 101]")) for end in ends), ends
        wait_until(lambda: hosts.use() == ["right"] * 4, PATIENCE_S, "everything works")
        wait_until(lambda: hosts.held() == before, PATIENCE_S, f"everything is back: {before}, {hosts.held()}")
        assert daemon.status()["totals"]["no_memory"] > 0
