"""A peer that sends wrong packets: counted by reason, never delivered, and the daemon lives."""
import pytest

import hostile
from lib import process, trunks
from test_streams import ask, serve


def counts(pair):
    out = {}
    for t in pair["b"].status()["trunks"]:
        if not t["outgoing"]:
            for reason, n in t["dropped_by_reason"].items():
                out[reason] = out.get(reason, 0) + n
    return out


def attack(pair, *words):
    done = process.run(["/usr/bin/python3", hostile.__file__, pair.net["b"].address, str(trunks.PORT), *words],
                       netns=pair.net["a"], timeout_s=40)
    assert done.stdout == "fine\n", words


@pytest.fixture(scope="module")
def server(pair):
    with serve(pair, "b", 7201):
        yield 7201


@pytest.fixture(autouse=True)
def still_lives(pair, server):
    yield
    assert ask(pair, "a", pair.net["b"].address, server, "echo", 10000)["same"]


@pytest.mark.parametrize("lie", sorted(hostile.LIES))
def test_a_wrong_packet_ends_its_connection_and_is_counted(pair, lie):
    reason = hostile.REASONS[lie]
    before = counts(pair).get(reason, 0)
    attack(pair, lie)
    process.wait_until(lambda: counts(pair).get(reason, 0) == before + 1, 5, f"{reason} counted")


def test_nothing_of_a_wrong_packet_is_delivered(pair, server):
    attack(pair, "not_delivered", str(server))


def test_data_beyond_the_credit_reset_the_channel(pair, server):
    before = counts(pair).get("beyond_credit", 0)
    attack(pair, "beyond_credit", str(server))
    assert counts(pair).get("beyond_credit", 0) > before


def test_a_wrong_greeting_and_a_wrong_hello_are_refused(pair):
    before = counts(pair)
    attack(pair, "greeting")
    attack(pair, "bad_hello")
    after = counts(pair)
    assert after.get("bad_magic", 0) == before.get("bad_magic", 0) + 1
    assert after.get("bad_version", 0) == before.get("bad_version", 0) + 1
    assert sum(after.values()) == sum(before.values()) + 3


def test_a_session_that_nobody_has_is_not_continued(pair):
    before = counts(pair).get("bad_cookie", 0)
    attack(pair, "unknown_session")
    assert counts(pair)["bad_cookie"] == before + 1


def test_who_says_nothing_is_not_waited_for(pair):
    attack(pair, "silence")


def test_loopback_is_not_served(pair):
    attack(pair, "refused")


def test_others_may_not_connect(pair):
    pair.net["b"].ip("addr", "add", "10.99.0.77/24", "dev", "eth0")
    code = """import socket, sys
s = socket.socket(); s.bind(('10.99.0.77', 0)); s.settimeout(5); s.connect((sys.argv[1], int(sys.argv[2])))
try: print(len(s.recv(1)))
except ConnectionResetError: print(0)"""
    done = process.run(["/usr/bin/python3", "-c", code, pair.net["b"].address, str(trunks.PORT)], netns=pair.net["b"])
    assert done.stdout == "0\n"
