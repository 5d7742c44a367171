"""The long run: streams and message channels over one trunk, which is cut about once a second by every means there is.

VMSGR_CUT_SECONDS=600 for ten minutes (`make test-cuts`), VMSGR_SEED to repeat the choices. What is cut lies between the
two daemons: sockets killed, packets rejected and dropped, the link down for up to 20 s, and all the while a relay that
delays, splits, cuts in mid-packet, repeats, loses and corrupts bytes.
"""
import collections
import os
import random
import time

from lib import channel_load, process, trunks
from test_cuts import filtered, kill_sockets, replayed, results, start_streams
from test_streams import serve

SECONDS = float(os.environ.get("VMSGR_CUT_SECONDS", "15"))
LONGEST_S = min(20.0, SECONDS / 5)   # for a link that is down; the trunk's limit is beyond it
OUTAGE_MS = 40_000
STREAM_PORT, CHANNEL_PORT = 7701, 7702
STREAMS = CHANNELS = 4
FAULTS = {"cut": 0.0005, "corrupt": 0.0003, "repeat": 0.0003, "lose": 0.0003, "delay_ms": 2, "piece": 40000}


class Cuts:
    """Each kind takes the time that it lasts. Counts what it did."""

    def __init__(self, pair, relay):
        self.pair, self.random = pair, random.Random(relay.seed)
        self.count, self.longest = collections.Counter(), 0
        self.kinds = {"sockets killed": self.killed, "relay cut": relay.cut_all,
                      "rejected": lambda: self.filtered("reject with tcp reset"),
                      "dropped": lambda: self.filtered("drop"), "link down": self.link_down}

    def one(self):
        name = self.random.choice(list(self.kinds))
        self.count[name] += 1
        began = time.monotonic()
        self.kinds[name]()
        self.longest = max(self.longest, time.monotonic() - began)

    def killed(self):
        kill_sockets(self.pair, trunks.RELAY_PORT)
        kill_sockets(self.pair)

    def filtered(self, verdict):
        with filtered(self.pair.net["b"], verdict):
            time.sleep(self.random.uniform(0.05, 1.5))

    def link_down(self):
        # Mostly short: else a run would be one long pause. One in twelve is as long as they come.
        long = self.random.random() < 1 / 12
        with trunks.link_down(self.pair):
            time.sleep(LONGEST_S if long else self.random.uniform(0.05, 1.5))


def test_everything_arrives_once_through_every_kind_of_cut(own_net):
    a, b = own_net["a"], own_net["b"]
    with trunks.HarmfulRelay(a, f"{b.address}:{trunks.PORT}", FAULTS, kind=True) as relay, \
            trunks.Pair(own_net, via={"a": relay.at}, shards={"a": 2, "b": 2}, outage_ms=OUTAGE_MS) as p, \
            serve(p, "b", STREAM_PORT), channel_load.serve(p, "b", CHANNEL_PORT):
        streams = start_streams(p, count=STREAMS, seconds=SECONDS, port=STREAM_PORT)
        channels = channel_load.start(p, "a", b.address, CHANNEL_PORT, channels=CHANNELS, seconds=SECONDS)
        # A connect during a cut goes direct, and no cut would reach it: so no harm before all of them are on the trunk.
        process.wait_until(lambda: on_trunk(p) == STREAMS + CHANNELS, 30, "all connections on the trunk")
        relay.begin_faults()
        cuts, end = Cuts(p, relay), time.monotonic() + SECONDS - 1
        while time.monotonic() < end:
            time.sleep(cuts.random.uniform(0, 2))
            cuts.one()
        harm = relay.end_faults()   # the rest goes through unharmed
        out = results(streams, 120)
        messages = channel_load.results(channels, 120)
        print(f"cuts: {dict(cuts.count)}, the longest {cuts.longest:.1f} s; relay: {harm}; bytes there and back: "
              f"{sum(r['back'] for r in out)} in streams; messages: {sum(r['back'] for r in messages)}; packets sent "
              f"again: {replayed(p)}; dropped: {dropped(p)}")
        for r in out:
            assert r["error"] is None and r["same"] and r["total"] == r["back"] > 100_000, r
        for r in messages:
            assert r["error"] is None and r["same"] and r["sent"] == r["back"] > 20, r
        assert replayed(p) > 0
        # Nothing was opened anew.
        assert on_trunk(p) == STREAMS + CHANNELS


def on_trunk(pair):
    """How many connections a's programs have opened by trunk, since the daemon began."""
    return sum(t["channels_total"] for t in pair["a"].status()["trunks"] if t["outgoing"])


def dropped(pair):
    out = collections.Counter()
    for name in "ab":
        for t in pair[name].status()["trunks"]:
            out.update({k: n for k, n in t["dropped_by_reason"].items() if n})
    return dict(out)
