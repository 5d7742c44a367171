"""What vmsgrd gives up after its start: its user, its capabilities, system calls; and what the systemd unit allows."""
import os
import re
import shutil
import subprocess

import pytest

from lib import process, vmsgrd
from lib.process import ROOT

ALL = [vmsgrd.route("all", address="127.0.0.0/8")]
ECHO = """
import socket, sys, threading
s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(9)
def serve():
    c, _ = s.accept(); c.sendall(c.recv(100))
threading.Thread(target=serve).start()
c = socket.create_connection(s.getsockname()); c.sendall(b'hello'); assert c.recv(100) == b'hello'
"""
CAP_CHOWN, CAP_DAC_READ_SEARCH, CAP_SYS_NICE, CAP_SYS_RESOURCE = 0, 2, 23, 24


def status_of(pid):
    """Of all threads: /proc/PID/status as a dictionary each."""
    out = []
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/status", encoding="ascii") as f:
            out.append(dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line))
    return out


def works(daemon, user=None):
    command = [*daemon.prefix(), "/usr/bin/python3", "-c", ECHO]
    if user:
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command]
    process.run(command)


def test_it_becomes_its_user_and_keeps_no_capability(here):
    os.chmod(here, 0o755)
    daemon = vmsgrd.Vmsgrd(here, routes=ALL, config="user: nobody\naccess: {mode: 0666}\n", shards=2)
    with daemon:
        for s in status_of(daemon.pid):
            assert s["Uid"].split() == s["Gid"].split() == ["65534"] * 4
            assert all(int(s[f"Cap{x}"], 16) == 0 for x in ("Inh", "Prm", "Eff", "Bnd", "Amb")), s
            assert s["NoNewPrivs"] == "1" and s["Seccomp"] == "2"
        assert os.stat(daemon.socket).st_uid == 65534
        works(daemon)
        works(daemon, user=2001)
        assert daemon.status()["totals"]["locals_opened"] >= 2
    # What it has left is in nobody's way.
    with vmsgrd.Vmsgrd(here, routes=ALL, config="user: nobody\n") as again:
        works(again)


def test_as_root_it_keeps_the_capabilities_that_it_uses(here):
    with vmsgrd.Vmsgrd(here, routes=ALL) as daemon:
        used = sum(1 << cap for cap in (CAP_CHOWN, CAP_DAC_READ_SEARCH, CAP_SYS_NICE, CAP_SYS_RESOURCE))
        for s in status_of(daemon.pid):
            assert int(s["CapEff"], 16) & ~used == int(s["CapPrm"], 16) & ~used == int(s["CapBnd"], 16) & ~used == 0
            assert s["Seccomp"] == "2"


def test_the_filter_can_be_turned_off(here):
    with vmsgrd.Vmsgrd(here, routes=ALL, config="seccomp: no\n") as daemon:
        assert {s["Seccomp"] for s in status_of(daemon.pid)} == {"0"}


# Runs the words after $1 where the system call $1 fails with EPERM, as SystemCallFilter does.
REFUSING = """
import ctypes, os, struct, sys
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, int(sys.argv[1])), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *s) for s in steps))
program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0, ctypes.get_errno()
os.execv(sys.argv[2], sys.argv[2:])
"""
CAPSET = 126


def test_a_service_manager_that_has_taken_all_may_refuse_to_be_asked(here, write):
    os.chmod(here, 0o777)
    config = write(f"socket: {here}/v.sock\nshards: 1\nroutes: []\n")
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--",
             "/usr/bin/python3", "-c", REFUSING, str(CAPSET), vmsgrd.VMSGRD, "--config", config]
    with process.Process(words, log=f"{here}/log") as daemon:
        asked = [vmsgrd.VMSGR, "status", "--socket", f"{here}/v.sock"]
        daemon.wait_ready(lambda: process.run(asked, check=False).returncode == 0, 20, "answer")


def test_an_unknown_user_is_one_line(here, write, daemon_command):
    done = daemon_command("--config", write(f"socket: {here}/v.sock\nuser: nosuchuser\nroutes: []\n"))
    done.refused(1, "vmsgrd: user: there is no user nosuchuser on this machine")


def test_another_user_needs_root(here, write, daemon_command):
    os.chmod(here, 0o777)
    done = daemon_command("--config", write(f"socket: {here}/v.sock\nuser: daemon\nroutes: []\n"), user=65534)
    done.refused(1, "cannot become user daemon", "start vmsgrd as root or as that user")


@pytest.mark.skipif(shutil.which("gdb") is None and shutil.which("strace") is None, reason="no strace")
def test_what_is_not_in_the_list_is_refused(here):
    """The daemon's own process, told by a debugger to make calls that it never makes."""
    with vmsgrd.Vmsgrd(here, routes=ALL, shards=1) as daemon:
        out = process.run(["/usr/bin/python3", os.path.join(os.path.dirname(__file__), "inject_call.py"), str(daemon.pid)])
        assert out.stdout.split() == ["59", "-1", "101", "-1", "165", "-1", "39", str(daemon.pid)]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
def test_the_units_exposure_is_at_most_2(here):
    with open(f"{ROOT}/packaging/vmsgrd.service.in", encoding="ascii") as f:
        unit = f.read().replace("@CMAKE_INSTALL_FULL_SBINDIR@", "/usr/sbin")
    with open(f"{here}/vmsgrd.service", "w", encoding="ascii") as f:
        f.write(unit)
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", f"{here}/vmsgrd.service"], capture_output=True,
                          text=True, check=False)
    score = re.search(r"exposure level for vmsgrd.service: ([0-9.]+)", done.stdout)
    assert score and float(score[1]) <= 2.0, done.stdout[-300:] + done.stderr
