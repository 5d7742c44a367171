"""vmsgrd as a service manager sees it: what it tells on $NOTIFY_SOCKET, and what it writes into the journal."""
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from lib import process, vmsgrd

CONFIG = "shards: 2\nmemory: 256M\nroutes:\n  - {{name: all, via: direct}}\nsocket: {here}/v.sock\n"


class Manager:
    """The socket of a service manager, and a daemon that was started with it."""

    def __init__(self, here, write, watchdog_s=0.0):
        self.config = write(CONFIG.format(here=here), "v.yaml")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"{here}/notify")
        self.socket.settimeout(10)
        env = {"NOTIFY_SOCKET": f"{here}/notify"}
        if watchdog_s:
            env["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        self.daemon = process.Process([vmsgrd.VMSGRD, "--config", self.config], log=f"{here}/log", env=env)

    def next(self, but=b"WATCHDOG=1"):
        while True:
            said = self.socket.recv(4096)
            if said != but:
                return said.decode()

    def close(self):
        self.daemon.stop()
        self.socket.close()


@pytest.fixture
def manager(here, write):
    made = []
    yield lambda *a: made.append(Manager(here, write, *a)) or made[-1]
    for m in made:
        m.close()


@pytest.mark.fast
def test_ready_is_said_when_it_answers(manager, here):
    m = manager()
    assert m.next() == "READY=1\nSTATUS=2 shards, 1 routes"
    process.run([vmsgrd.VMSGR, "status", "--socket", f"{here}/v.sock"])
    m.daemon.signal(signal.SIGTERM)
    assert m.next().startswith("STOPPING=1\n")
    assert m.daemon.wait(20) == 0


@pytest.mark.fast
def test_reload_is_said_and_how_it_came_out(manager):
    m = manager()
    m.next()
    with open(m.config, "a", encoding="ascii") as f:
        f.write("no_such_key: 1\n")
    m.daemon.signal(signal.SIGHUP)
    assert m.next().startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert "SIGHUP changed nothing: " in m.next()


def test_watchdog_hears_of_it_as_long_as_its_shards_run(manager):
    m = manager(0.6)
    m.next()
    for _ in range(4):
        assert m.socket.recv(4096) == b"WATCHDOG=1"
    m.daemon.signal(signal.SIGSTOP)
    m.socket.settimeout(1.5)
    with pytest.raises(TimeoutError):
        while True:
            m.socket.recv(4096)
    m.daemon.signal(signal.SIGCONT)
    assert m.socket.recv(4096) == b"WATCHDOG=1"


# In a mount namespace of its own: the journal's socket has a fixed path.
JOURNALLED = r"""
import json, os, socket, subprocess, sys
vmsgrd, config = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
os.makedirs("/run/systemd/journal")
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.bind("/run/systemd/journal/socket")
journal.settimeout(20)
ours, theirs = socket.socketpair()
at = os.fstat(theirs.fileno())
p = subprocess.Popen([vmsgrd, "--config", config], stderr=theirs,
                     env={**os.environ, "JOURNAL_STREAM": f"{at.st_dev}:{at.st_ino}"})
theirs.close()
def read_until(word):
    while True:
        entries.append(dict(line.split("=", 1) for line in journal.recv(65536).decode().splitlines()))
        if word in entries[-1]["MESSAGE"]:
            return
entries = []
read_until(" ready: ")
p.terminate()
read_until(" stops: ")
code = p.wait(20)
ours.settimeout(5)
print(json.dumps({"entries": entries, "code": code, "stderr": ours.recv(65536).decode()}))
"""


@pytest.mark.fast
@pytest.mark.skipif(os.geteuid() != 0, reason="root alone makes mount namespaces")
def test_log_goes_into_the_journal_with_fields(here, write):
    config = write(CONFIG.format(here=here), "v.yaml")
    done = subprocess.run(["unshare", "--mount", sys.executable, "-c", JOURNALLED, vmsgrd.VMSGRD, config],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    seen = json.loads(done.stdout)
    ready = next(e for e in seen["entries"] if "ready: socket" in e["MESSAGE"])
    stops = seen["entries"][-1]
    assert (ready["PRIORITY"], ready["VMSGR_SHARD"], ready["VMSGR_PART"]) == ("6", "0", "vmsgrd")
    assert stops["MESSAGE"].startswith("vmsgrd stops") and stops["SYSLOG_IDENTIFIER"] == "vmsgrd"
    assert (seen["code"], seen["stderr"]) == (0, "")
