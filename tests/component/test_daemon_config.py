"""vmsgrd and what is wrong with its configuration or its place: one line, exit code not 0, nothing half started."""
import os
import socket

import pytest

pytestmark = pytest.mark.fast

BROKEN = [
    ("", "is empty"),
    ("sokcet: /tmp/x", ":1: sokcet: unknown key; did you mean 'socket'?"),
    ("socket: {s}\nroutes:\n  - name: a\n    via: driect\n", ":4: routes[0].via: 'driect' is not one of"),
    ("socket: {s}\ntrunk: {listen: 10.0.0.1}\n", "is not an address with its port such as 10.0.0.1:6790"),
    ("socket: {s}\ntrunk: {packet_bytes: 1000}\n", "trunk.packet_bytes: '1000' is not a multiple of 64"),
    ("socket: {s}\ntrunk: {tls: {ca: /etc/hostname}}\n", "trunk.tls: needs all of ca, certificate and key"),
    ("socket: {s}\ntrunks: [{name: a, connect: '10.0.0.1:1'}]\n", "trunks[0]: 'addresses' is missing"),
    ("socket: {s}\nshards: many\n", ":2: shards: 'many' is not a number"),
    ("socket: {s}\nlimits:\n  ring_bytes: 300000\n", ":3: limits.ring_bytes: '300000' is not a power of two"),
    ("socket: [\n", "not valid YAML"),
    ("socket: relative.sock\n", "not an absolute path"),
]


@pytest.mark.parametrize("text,says", BROKEN)
def test_broken_configuration_is_one_line_and_nothing_starts(daemon_command, here, write, text, says):
    path = write(text.replace("{s}", f"{here}/v.sock"))
    done = daemon_command("--config", path)
    assert done.code != 0
    done.refused(done.code, "vmsgrd: ", path, says)
    assert os.listdir(here) == [os.path.basename(path)]


def test_missing_configuration_is_named(daemon_command, here):
    done = daemon_command("--config", f"{here}/none.yaml")
    assert done.code != 0
    done.refused(done.code, f"{here}/none.yaml", "No such file or directory")


@pytest.mark.parametrize("words", [["--bogus"], ["--config"], ["extra"], ["--poll-mode", "lazy"]])
def test_wrong_usage_is_one_line(daemon_command, words):
    daemon_command(*words).refused(2, "vmsgrd: ")


def test_help_and_version_are_no_errors(daemon_command):
    assert daemon_command("--version").out.startswith("vmsgrd ")
    assert "--config" in daemon_command("--help").out


def test_taken_socket_is_refused_and_left_alone(daemon_command, daemon, write):
    done = daemon_command("--config", write(f"socket: {daemon.socket}\nroutes: []\n"))
    assert done.code != 0
    done.refused(done.code, "vmsgrd: ", daemon.socket)
    assert daemon.status()["daemon"]["pid"] > 0


def test_file_in_the_sockets_place_is_not_removed(daemon_command, here, write):
    path = write("precious", "v.sock")
    done = daemon_command("--config", write(f"socket: {path}\nroutes: []\n"))
    assert done.code != 0
    done.refused(done.code, path)
    with open(path, encoding="ascii") as f:
        assert f.read() == "precious"


def test_place_without_permission_is_named(daemon_command, here, write):
    os.mkdir(f"{here}/closed", 0o700)
    done = daemon_command("--config", write(f"socket: {here}/closed/v.sock\nroutes: []\n"), user=65534)
    assert done.code != 0
    done.refused(done.code, f"{here}/closed", "Permission denied")


def test_stale_socket_is_taken_over(here):
    from lib import vmsgrd
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stale.bind(f"{here}/vmsgrd.sock")
    stale.close()
    with vmsgrd.Vmsgrd(here, routes=[vmsgrd.route("all")], shards=1, memory="64M") as daemon:
        assert daemon.status()["daemon"]["shards"] == 1
    assert not os.path.exists(f"{here}/vmsgrd.sock")
