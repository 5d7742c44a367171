"""vmsgr drain beside trunks: what goes over one cannot go back to the kernel, is named, and goes on as long as the daemon runs."""
import json
import time

from lib import process, trunks, vmsgrd
from lib.agents import Agent


def test_what_goes_over_a_trunk_is_left_and_goes_on(own_net):
    with trunks.Pair(own_net) as pair, Agent(pair["b"].prefix(), inside=own_net["b"]) as server, \
            Agent(pair["a"].prefix(), inside=own_net["a"]) as client:
        server("!l = socket.create_server(('10.99.0.2', 0))")
        client(f"!c = socket.create_connection(('10.99.0.2', {int(server('l.getsockname()[1]'))}))")
        server("!s = l.accept()[0]")
        client("!c.sendall(b'before')")
        assert server("s.recv(6, socket.MSG_WAITALL)") == "b'before'"
        began = time.monotonic()
        done = process.run([vmsgrd.VMSGR, "drain", "--json", "--socket", pair["a"].socket], check=False)
        left = json.loads(done.stdout)["connections_left"]
        assert done.returncode == 1 and [c["cause"] for c in left] == ["trunk"] and time.monotonic() - began < 30
        client("!c.sendall(b'after')")
        assert server("s.recv(5, socket.MSG_WAITALL)") == "b'after'"
        assert process.run([vmsgrd.VMSGR, "drain", "--cancel", "--socket", pair["a"].socket], check=False).returncode == 0


def test_what_is_new_finds_another_way_and_relays_are_told(own_net):
    with trunks.Pair(own_net) as pair, Agent([], inside=own_net["b"]) as plain, \
            Agent(pair["b"].prefix(), inside=own_net["b"]) as server, \
            Agent(pair["a"].prefix(), inside=own_net["a"]) as client:
        plain("!l = socket.create_server(('10.99.0.2', 0))")
        client(f"!c = socket.create_connection(('10.99.0.2', {int(plain('l.getsockname()[1]'))}))")
        plain("!s = l.accept()[0]")
        done = process.run([vmsgrd.VMSGR, "drain", "--json", "--socket", pair["b"].socket], check=False)
        said = json.loads(done.stdout)
        assert done.returncode == 1 and (said["relays_left"], said["connections_left"]) == (1, []), said
        server("!l = socket.create_server(('10.99.0.2', 0))")
        client(f"!d = socket.create_connection(('10.99.0.2', {int(server('l.getsockname()[1]'))}))")
        server("!s = l.accept()[0]")
        client("!d.sendall(b'new')")
        assert server("s.recv(3, socket.MSG_WAITALL)") == "b'new'"
        assert sorted(c["path"] for c in pair["a"].status()["connections"]) == ["direct", "trunk"]
        client("!c.sendall(b'old')")
        assert plain("s.recv(3, socket.MSG_WAITALL)") == "b'old'"
