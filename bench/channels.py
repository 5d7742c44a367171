"""Message channels of libvmsgr, beside the bare ring below them and TCP with one write a message, in the same run.

Between two processors this may be a machine with two minds: where a virtual one is moved among caches, everything that two
processors share becomes five times slower, for seconds at a time. So each measurement lies between two of the bare ring,
is taken again when these differ, and "of bare ring" compares it with them.
"""
import json

from record import Metric
from world import World, process, vmsgrd

CHANNEL = f"{vmsgrd.BIN}/bench_channel"
RING = f"{vmsgrd.BIN}/bench_ring"
RING_BYTES = 1 << 20   # the daemon's default
AGREE, ATTEMPTS = 1.2, 6
TCP, SEND, MORE, IN_PLACE, DIRECT = "TCP write", "channel", "channel MORE", "channel in place", "by vmsgrd"


def channels(settings, recorder):
    """Two threads with a session each: one way at 64 B and 4 KiB, and there and back; local, and through two daemons."""
    if settings.plain:
        return
    seconds = settings.seconds / 6
    with World(settings) as world, vmsgrd.Vmsgrd(world.dir, routes=[vmsgrd.route("all")], netns=world.netns,
                                                 name="other", shards=1) as other:
        here = world.daemon.socket

        def value(*words):
            return json.loads(process.run([str(w) for w in words], netns=world.netns).stdout)["value"]

        def channel(what, size, *sockets):
            return value(CHANNEL, what, size, seconds, *sockets)

        def ring(size):
            if size == 64:
                return value(RING, "single", RING_BYTES, seconds)
            return value(RING, "bulk", RING_BYTES, seconds, size) * 1e9 / size

        def between(bare, measure):
            """(measured, its share of what the bare ring did before and after it)."""
            for _ in range(ATTEMPTS):
                before, found, after = bare(), measure(), bare()
                if max(before, after) <= AGREE * min(before, after):
                    break
            return found, found / ((before + after) / 2)

        for size in (64, 4096):
            ways = {TCP: ("tcp", "tcp"), SEND: ("send", here), MORE: ("more", here), IN_PLACE: ("inplace", here),
                    DIRECT: ("more", here, other.socket)}

            def one_way(what, *sockets, size=size):
                rate, share = between(lambda: ring(size), lambda: channel(what, size, *sockets))
                return {"messages": rate / 1e6, "of bare ring": share}
            recorder.alternate(f"channel {size} B", {n: lambda w=w: one_way(*w) for n, w in ways.items()}, {
                "messages": Metric("million/s"),
                "of bare ring": Metric("x", absolute=True, targets={SEND: 0.6 if size == 64 else 0.8})}, warm_up=False)

        def spinning():
            us, share = between(lambda: value(RING, "rtt", RING_BYTES, seconds), lambda: channel("rtt", 64, here))
            return {"spinning": us, "of bare ring": share}
        recorder.alternate("channel there and back", {SEND: spinning}, {
            "spinning": Metric("us", higher=False),
            "of bare ring": Metric("x", higher=False, absolute=True, targets={SEND: 1.4})}, warm_up=False)
        ways = {TCP: lambda: channel("tcprtt", 64, "tcp"), SEND: lambda: channel("sleep", 64, here),
                DIRECT: lambda: channel("sleep", 64, here, other.socket)}
        recorder.alternate("channel asleep", {name: lambda f=f: {"round trip": f()} for name, f in ways.items()}, {
            "round trip": Metric("us", higher=False)}, warm_up=False)
