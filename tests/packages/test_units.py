"""vmsgrd.service under a running systemd: what apt starts, reloads, upgrades and removes, and what the watchdog does."""
import os
import re
import time

import pytest
from conftest import install, installed, newer
from lib import process

# A client and a server that say how many of their messages came back, until they are killed.
ECHO = """
import socket, sys, threading, time
listener = socket.create_server(("127.0.0.1", 6900))
def serve(c):
    while data := c.recv(100):
        c.sendall(data)
threading.Thread(target=lambda: serve(listener.accept()[0]), daemon=True).start()
c = socket.create_connection(("127.0.0.1", 6900))
n = 0
while True:
    c.sendall(b"hello")
    assert c.recv(100) == b"hello"
    n += 1
    if n % 10 == 0:
        print(n, flush=True)
    time.sleep(0.01)
"""
DIRECT = "routes:\n  - {name: echo, ports: 6900, via: direct, local: no}\n"


@pytest.fixture(scope="module")
def machine(boot, debs):
    [made] = boot("host-u")
    install(made, debs)
    return made


@pytest.fixture
def echo(machine):
    """A program whose connection the daemon carries."""
    machine.write("/etc/vmsgr/vmsgrd.yaml", DIRECT)
    machine.systemctl("restart", "vmsgrd")
    log = f"{machine.folder}/echo.log"
    with process.Process(["vmsgr", "run", "--", "python3", "-c", ECHO], netns=machine, log=log) as made:
        def goes_on():
            before = process.tail(log, 1)
            made.wait_ready(lambda: process.tail(log, 1) != before, 10, "go on")
        goes_on()
        assert carried(machine) > 0
        made.goes_on = goes_on
        yield made


def carried(machine):
    return len(re.findall(" direct ", machine.run("vmsgr", "conns").stdout))


def test_apt_starts_it_and_it_says_that_it_is_ready(machine):
    shown = machine.show("vmsgrd", "ActiveState", "Type", "StatusText", "NRestarts", "WatchdogUSec", "UnitFileState")
    assert shown.pop("StatusText").endswith("shards, 1 routes")
    assert shown == {"ActiveState": "active", "Type": "notify", "NRestarts": "0", "WatchdogUSec": "1min", "UnitFileState": "enabled"}
    worker = machine.show("vmsgrd", "MainPID")["MainPID"]
    assert re.search(r"^Uid:\s+(\d+)\s", machine.run("cat", f"/proc/{worker}/status").stdout, re.M)[1] != "0"
    assert "Failed" not in machine.journal("-u", "vmsgrd")


def test_reload_reads_the_configuration_and_says_what_is_wrong_with_it(machine, echo):
    machine.write("/etc/vmsgr/vmsgrd.yaml", "  - {name: more, ports: 6901, via: direct}\n", "a")
    machine.systemctl("reload", "vmsgrd")
    assert machine.show("vmsgrd", "StatusText")["StatusText"].endswith("2 routes")
    machine.write("/etc/vmsgr/vmsgrd.yaml", "no_such_key: 1\n", "a")
    assert machine.systemctl("reload", "vmsgrd", check=False).returncode != 0
    assert "no_such_key" in machine.systemctl("status", "vmsgrd").stdout and machine.state("vmsgrd") == "active"
    echo.goes_on()


def test_an_upgrade_takes_over_and_the_service_goes_on(machine, debs, echo):
    before = machine.show("vmsgrd", "MainPID", "InvocationID")
    install(machine, newer(machine, debs))
    after = machine.show("vmsgrd", "MainPID", "InvocationID", "ActiveState", "NRestarts")
    assert after["ActiveState"] == "active" and after["NRestarts"] == "0"
    assert after["InvocationID"] == before["InvocationID"] and after["MainPID"] != before["MainPID"]
    echo.goes_on()
    assert carried(machine) > 0
    assert process.wait_until(lambda: not machine.run("ps", "-p", before["MainPID"], check=False).stdout.count("vmsgrd"), 20, "no old one")
    machine.systemctl("reload", "vmsgrd")   # of the new one
    echo.goes_on()
    machine.systemctl("restart", "vmsgrd")
    assert machine.state("vmsgrd") == "active"


def test_the_watchdog_starts_one_that_hangs_anew(machine):
    os.makedirs(machine.path("/etc/systemd/system/vmsgrd.service.d"), exist_ok=True)
    machine.write("/etc/systemd/system/vmsgrd.service.d/watchdog.conf", "[Service]\nWatchdogSec=3\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", "vmsgrd")
    time.sleep(5)   # longer than the watchdog waits: it is told in time
    shown = machine.show("vmsgrd", "NRestarts", "MainPID")
    assert shown["NRestarts"] == "0"
    machine.run("kill", "-STOP", shown["MainPID"])
    process.wait_until(lambda: machine.show("vmsgrd", "NRestarts")["NRestarts"] == "1" and machine.state("vmsgrd") == "active", 40,
                       "another vmsgrd", every_s=0.5)
    assert "Watchdog timeout" in machine.journal("-u", "vmsgrd")
    machine.run("vmsgr", "status")


def test_removal_leaves_what_is_carried_and_purge_ends_it(machine, echo):
    machine.apt("remove", "vmsgr", "vmsgr-preload", "vmsgr-ceph")
    assert not os.path.lexists(machine.path("/usr/sbin/vmsgrd"))
    echo.goes_on()
    machine.apt("purge", *sorted(installed(machine)), "vmsgr", "vmsgr-preload", "vmsgr-ceph")
    assert machine.run("pgrep", "vmsgrd", check=False).stdout == ""
    assert not os.path.lexists(machine.path("/etc/vmsgr"))
