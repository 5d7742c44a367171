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


@pytest.fixture(scope="module")
def wildcards(pair):
    """Ports on which somebody listens at every address of b: an attached program, and one that is not."""
    with serve(pair, "b", 7202, address="::"), serve(pair, "b", 7203, address="::", attached=False):
        yield 7202, 7203


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


@pytest.mark.parametrize("to", ["127.0.0.1", "127.255.0.1", "::1", "::ffff:127.0.0.1",
                                "0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "::ffff:224.0.0.1", "ff02::1",
                                "255.255.255.255", "::ffff:255.255.255.255", "10.99.0.250", "10.99.0.255"])
def test_only_addresses_of_the_host_itself_are_served(pair, wildcards, to):
    for port in wildcards:
        attack(pair, "refused", to, str(port))


def test_each_own_address_is_served(pair, wildcards):
    pair.net["b"].ip("addr", "replace", "10.99.0.78/24", "dev", "eth0")   # a secondary one
    for to in (pair.net["b"].address, pair.net["b"].address6, "10.99.0.78", "::ffff:10.99.0.78"):
        for port in wildcards:
            attack(pair, "served", to, str(port))


def test_greeting_and_hello_have_one_limit(pair):
    attack(pair, "late")


def test_strangers_of_one_address_leave_room_for_others(pair):
    """64 places are for one source; what follows a greeting takes a place as well."""
    attack(pair, "crowd", "70", "64")


def test_several_connections_of_one_session(pair):
    attack(pair, "older")


def test_others_may_not_connect(pair):
    pair.net["b"].ip("addr", "add", "10.99.0.77/24", "dev", "eth0")
    code = """import socket, sys
s = socket.socket(); s.bind(('10.99.0.77', 0)); s.settimeout(5); s.connect((sys.argv[1], int(sys.argv[2])))
try: print(len(s.recv(1)))
except ConnectionResetError: print(0)"""
    done = process.run(["/usr/bin/python3", "-c", code, pair.net["b"].address, str(trunks.PORT)], netns=pair.net["b"])
    assert done.stdout == "0\n"
