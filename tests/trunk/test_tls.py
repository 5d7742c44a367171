"""TLS on trunks: both certificates are checked, names too, and renewed without a restart."""
import pytest

from lib import certificates, process, trunks
from test_streams import ask, serve

pytestmark = pytest.mark.skipif(certificates.why_not() is not None, reason=certificates.why_not() or "")


def pair_of(net, a, b):
    return trunks.Pair(net, tls={"a": a, "b": b})


def test_streams_go_over_tls_and_survive_a_cut(own_net, directory):
    ca = certificates.Authority(directory, "ca")
    a, b = {**ca.sign("hosta"), "names": "[hostb]"}, {**ca.sign("hostb"), "names": "[hosta]"}
    with pair_of(own_net, a, b) as p, serve(p, "b", 7301):
        assert ask(p, "a", own_net["b"].address, 7301, "echo", 5_000_000)["same"]
        assert p["a"].status()["totals"]["bytes_trunk"] >= 10_000_000
        from test_cuts import all_whole, kill_sockets, start_streams
        streams = start_streams(p, count=2, seconds=3, port=7301)
        process.wait_until(lambda: p["a"].status()["trunks"][0]["bytes_out"] > 6_000_000, 10, "streams run")
        kill_sockets(p)
        all_whole(streams)


@pytest.mark.parametrize("wrong", ["name", "authority", "plain"])
def test_a_peer_without_the_right_certificate_gets_nothing(own_net, directory, wrong):
    ca, other = certificates.Authority(directory, "ca"), certificates.Authority(directory, "other")
    b = {**ca.sign("hostb"), "names": "[hosta]"}
    a = {"name": ca.sign("stranger"), "authority": {**other.sign("hosta"), "ca": ca.ca}, "plain": None}[wrong]
    p = pair_of(own_net, a, b)
    try:
        for d in p.daemons.values():
            d.start()
        with pytest.raises(process.Failed):
            process.wait_until(lambda: p.sessions("a") or p.sessions("b", outgoing=False), 3, "a session")
        assert p["b"].process.alive()
        with serve(p, "b", 7302):   # and programs go the direct way
            assert ask(p, "a", own_net["b"].address, 7302, "echo", 10000)["same"]
        assert p["a"].status()["totals"]["bytes_trunk"] == 0
    finally:
        p.close()


def test_certificates_are_renewed_without_a_restart(own_net, directory):
    ca = certificates.Authority(directory, "ca")
    b = {**ca.sign("hostb"), "names": "[hosta]"}
    ca.sign("stranger", file="hosta")   # a wrong name first
    a = {"ca": ca.ca, "certificate": f"{directory}/hosta.pem", "key": f"{directory}/hosta.key"}
    p = pair_of(own_net, a, b)
    try:
        for d in p.daemons.values():
            d.start()
        with pytest.raises(process.Failed):
            process.wait_until(lambda: p.sessions("a"), 2, "a session")
        ca.sign("hosta")
        process.wait_until(lambda: p.sessions("a"), 15, "a session with the new certificate")
    finally:
        p.close()
