"""Trunks in the Prometheus metrics: a series for each session, round trips as they are measured."""
import re

from lib import process, trunks

PORT = 9847


def test_a_trunk_is_up_and_its_round_trips_are_counted(own_net):
    with trunks.Pair(own_net, top=f"metrics: {{listen: {PORT}}}\n"):
        def text():
            return process.run(["curl", "-s", f"http://127.0.0.1:{PORT}/metrics"], netns=own_net["a"]).stdout

        def counts():
            series = r'vmsgr_trunk_rtt_seconds_count\{trunk="b",direction="outgoing",shard="0",lane="0"\} (\d+)'
            return int((re.findall(series, text()) or ["0"])[0])
        process.wait_until(lambda: counts() >= 3, 15, "three round trips to be counted")
        assert 'vmsgr_trunk_up{trunk="b",direction="outgoing",shard="0",lane="0"} 1\n' in text()
        assert 'vmsgr_trunk_encrypted{trunk="b",direction="outgoing",shard="0",lane="0"} 0\n' in text()
