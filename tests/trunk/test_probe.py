"""Peers that nobody has named: the daemon of a peer's host is asked, and no program waits for the answer."""
import shutil
import subprocess

import pytest

from lib import certificates, process, trunks, vmsgrd
from test_streams import ask, serve

PROBE = "{port: %d, timeout_ms: 500, absent_s: 2}" % trunks.PORT
HOLD = """
import socket, sys
c = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20); c.sendall(b'e')
print(c.fileno(), flush=True); sys.stdin.read()
"""


def pair_of(net, probe=PROBE, **keys):
    return trunks.Pair(net, named=False, probe=probe, **keys)


def totals(p, name="a"):
    return p[name].status()["totals"]


def learnt(p, state, name="a"):
    return [t for t in p[name].status()["trunks"] if t["learnt"] and t["state"] == state]


def refused(p, address="10.99.0.2", port=7599):
    out = ask(p, "a", address, port, "refused")
    assert out["error"] == 111 and out["took_s"] < 0.3, out   # as fast as without us


def test_the_first_connect_goes_direct_and_later_ones_by_trunk(own_net):
    with pair_of(own_net) as p, serve(p, "b", 7501):
        assert ask(p, "a", "10.99.0.2", 7501, "echo", 100_000)["same"]
        assert totals(p)["bytes_trunk"] == 0
        process.wait_until(lambda: learnt(p, "up"), 5, "the peer is learnt")
        assert ask(p, "a", "10.99.0.2", 7501, "echo", 100_000)["same"]
        assert totals(p)["bytes_trunk"] == 200_001
        assert totals(p)["trunk_probes"] == 1 and totals(p)["trunk_probes_absent"] == 0
        assert learnt(p, "up")[0]["address"] == f"10.99.0.2:{trunks.PORT}"


@pytest.mark.parametrize("silent", [False, True])
def test_a_host_without_a_daemon_is_remembered_for_a_time(own_net, silent):
    p = pair_of(own_net)
    try:
        p["a"].start()
        if silent:
            process.run(["nft", "add table inet t; add chain inet t in { type filter hook input priority 0; }; "
                         f"add rule inet t in tcp dport {trunks.PORT} drop"], netns=own_net["b"])
        for _ in range(3):
            refused(p)
        process.wait_until(lambda: learnt(p, "absent"), 3, "the answer")
        for _ in range(3):
            refused(p)
        t = totals(p)
        assert (t["trunk_probes"], t["trunk_probes_absent"]) == (1, 1)
        process.wait_until(lambda: not learnt(p, "absent"), 5, "it is forgotten")
        refused(p)
        assert totals(p)["trunk_probes"] == 2
    finally:
        p.close()


def test_people_see_why_a_connection_is_direct(own_net):
    p = pair_of(own_net, probe="{port: %d, absent_s: 60}" % trunks.PORT)
    try:
        p["a"].start()
        with serve(p, "b", 7502, attached=False):
            refused(p)
            process.wait_until(lambda: learnt(p, "absent"), 3, "the answer")
            hold = process.Process([*p["a"].prefix(), "/usr/bin/python3", "-c", HOLD, "10.99.0.2", "7502"], name="hold",
                                   netns=own_net["a"], stdout=-1, stdin=subprocess.PIPE)
            fd = int(hold.stdout.readline())
            done = process.run([vmsgrd.VMSGR, "explain", str(hold.pid), str(fd), "--socket", p["a"].socket])
            assert "path direct" in done.stdout and f"no daemon answers at 10.99.0.2:{trunks.PORT}" in done.stdout
            table = process.run([vmsgrd.VMSGR, "trunks", "--socket", p["a"].socket]).stdout
            assert "absent" in table and f"10.99.0.2:{trunks.PORT}" in table
            hold.stop()
    finally:
        p.close()


def test_only_where_the_daemons_own_routes_lead(own_net):
    routes = [vmsgrd.route("v4", address="10.99.0.2/32", via="trunk"),
              vmsgrd.route("lo", address="127.0.0.0/8", via="trunk"), vmsgrd.route("all", via="direct")]
    p = pair_of(own_net, routes=routes)
    try:
        p["a"].start()
        own = p["a"].prefix(routes=[vmsgrd.route("mine", via="trunk")])
        own_net["b"].ip("addr", "add", "10.99.0.50/24", "dev", "eth0")
        code = "import socket, sys; sys.exit(socket.socket().connect_ex((sys.argv[1], 7599)) != 111)"
        for address, probes in (("10.99.0.50", 0), ("127.0.0.1", 0), ("10.99.0.2", 1)):   # nor this host itself
            process.run([*own, "/usr/bin/python3", "-c", code, address], netns=own_net["a"])
            assert totals(p)["trunk_probes"] == probes
    finally:
        p.close()


def test_no_more_hosts_are_asked_than_the_limit(own_net):
    own_net["b"].ip("addr", "add", "10.99.0.50/24", "dev", "eth0")
    p = pair_of(own_net, probe="{port: %d, peers: 1}" % trunks.PORT)
    try:
        p["a"].start()
        refused(p)
        refused(p, "10.99.0.50")
        t = totals(p)
        assert (t["trunk_probes"], t["trunk_probes_skipped"]) == (1, 1)
    finally:
        p.close()


def test_a_learnt_peer_that_restarts_is_found_again(own_net):
    with pair_of(own_net) as p:
        refused(p)
        process.wait_until(lambda: learnt(p, "up"), 5, "the peer is learnt")
        p["b"].stop()
        process.wait_until(lambda: learnt(p, "absent"), 5, "it is away")
        refused(p)
        p["b"].start()

        def found():
            refused(p)
            return learnt(p, "up")
        process.wait_until(found, 10, "it is found again", every_s=0.3)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
@pytest.mark.parametrize("name, state", [("b", "up"), ("stranger", "absent")])
def test_with_tls_a_learnt_peer_shows_a_name_of_the_list(own_net, directory, name, state):
    ca = certificates.Authority(directory, "ca")
    tls = {"a": {**ca.sign("a"), "names": "[b]"}, "b": {**ca.sign(name), "names": "[a]"}}
    with pair_of(own_net, tls=tls, routes=trunks.routes_by_trunk("direct")) as p, serve(p, "b", 7503):
        assert ask(p, "a", "10.99.0.2", 7503, "echo", 1000)["same"]
        process.wait_until(lambda: learnt(p, state), 5, state)
        assert ask(p, "a", "10.99.0.2", 7503, "echo", 1000)["same"]
        assert (totals(p)["bytes_trunk"] > 0) == (state == "up")
