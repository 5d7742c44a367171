"""Message channels while the link between the daemons is cut in every way: programs see nothing, or ECONNRESET beyond
the limit."""
import random
import time

import pytest

from lib import channel_load, trunks
from test_cuts import SECONDS, kill_sockets, replayed


@pytest.fixture(scope="module")
def cut_pair(net):
    with trunks.Pair(net, shards={"a": 2, "b": 2}, outage_ms=5000) as p, channel_load.serve(p, "b", 7301):
        yield p


def start(pair, **how):
    return channel_load.start(pair, "a", pair.net["b"].address, 7301, **how)


def test_killed_sockets_are_not_seen(cut_pair):
    before = replayed(cut_pair)
    load = start(cut_pair, seconds=SECONDS)
    end = time.monotonic() + SECONDS - 1
    while time.monotonic() < end:
        time.sleep(random.random())
        kill_sockets(cut_pair)
    channel_load.all_whole(load)
    assert replayed(cut_pair) > before


def test_a_link_that_is_down_for_a_while_is_not_seen(cut_pair):
    load = start(cut_pair, seconds=5)
    time.sleep(1)
    with trunks.link_down(cut_pair):
        time.sleep(2.5)
    channel_load.all_whole(load)


def test_beyond_the_limit_exactly_those_channels_are_reset(cut_pair):
    """A channel between two programs of one host goes on."""
    host = cut_pair.net["a"].address
    with channel_load.serve(cut_pair, "a", 7305):
        load = start(cut_pair, seconds=30)
        beside = channel_load.start(cut_pair, "a", host, 7305, seconds=8)
        time.sleep(1)
        began = time.monotonic()
        with trunks.link_down(cut_pair):
            out = channel_load.results(load)
            took = time.monotonic() - began
        for r in out:
            assert r["error"] == 104 and "10.99.0.2:7301" in r["why"], r
        assert 4 < took < 12, took
        channel_load.all_whole(beside)
    cut_pair.wait_up(15)
    channel_load.all_whole(start(cut_pair, seconds=1), at_least=50)


@pytest.mark.parametrize("faults", [{"cut": 0.002, "piece": 20000}, {
    "cut": 0.002, "corrupt": 0.001, "repeat": 0.001, "lose": 0.001, "delay_ms": 3, "piece": 5000}],
    ids=["cuts", "everything"])
def test_a_relay_that_harms_the_bytes_is_not_seen(own_net, faults):
    with trunks.HarmfulRelay(own_net["a"], f"{own_net['b'].address}:{trunks.PORT}", faults) as relay, \
            trunks.Pair(own_net, via={"a": relay.at}, packet_bytes=4096) as p, channel_load.serve(p, "b", 7301):
        channel_load.all_whole(start(p, seconds=SECONDS), at_least=20)
        done = relay.end_faults()
        assert done["connections"] > 1, done
