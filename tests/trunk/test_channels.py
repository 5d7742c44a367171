"""Message channels of libvmsgr over trunks: nothing that programs see is different, whatever happens to the link."""
import random
import time

import pytest

from lib import channel_load, process, trunks
from test_cuts import SECONDS, kill_sockets, replayed
from test_streams import opened


@pytest.fixture(scope="module")
def server(pair):
    with channel_load.serve(pair, "b", 7301):
        yield pair.net["b"].address, 7301


def test_channels_go_over_the_trunk_and_every_message_comes_back(pair, server):
    before = opened(pair)
    out = channel_load.all_whole(channel_load.start(pair, "a", *server, seconds=2))
    assert opened(pair) == before + len(out) == before + 4


def test_both_ways_at_once_and_ipv6(pair, server):
    before = opened(pair, "b")
    with channel_load.serve(pair, "a", 7302, address=pair.net["a"].address6):
        there = channel_load.start(pair, "a", *server, seconds=2)
        back = channel_load.start(pair, "b", pair.net["a"].address6, 7302, seconds=2)
        channel_load.all_whole(there)
        channel_load.all_whole(back)
    assert opened(pair, "b") == before + 4
