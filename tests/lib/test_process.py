"""The helpers' own promise: nothing stays behind, even when the test run itself is killed."""
import os
import signal
import socket
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lib import netns, process  # noqa: E402

RUN = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)   # a shell's background job begins with it ignored
sys.path.insert(0, sys.argv[1])
from lib import netns, process
directory = process.make_dir("vt-")
child = process.Process(["sh", "-c", "sleep 1000 & trap '' TERM; sleep 1001; sleep 1002"])
space = netns.Netns("test") if netns.why_not() is None else child
print(child.pid, space.pid, directory, flush=True)
if sys.argv[2] == "raise":
    raise RuntimeError("a failing test")
time.sleep(1000)
"""


def session_members(sid):
    return process.guard.members(sid, 0)


@pytest.mark.parametrize("how", ["raise", "SIGKILL", "SIGINT", "SIGTERM"])
def test_nothing_stays_behind_after_the_run_ends_by(how):
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    run = subprocess.Popen([sys.executable, "-c", RUN, tests, how], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                           text=True)
    child, space, directory = run.stdout.readline().split()
    if how != "raise":
        assert session_members(int(child)) and os.path.isdir(directory)
        run.send_signal(getattr(signal, how))
    run.wait(20)
    process.wait_until(lambda: not session_members(int(child)) and not session_members(int(space))
                       and not os.path.exists(directory), 10, "processes and directory to be gone")


def test_a_program_that_ends_early_is_reported_with_its_log(tmp_path):
    log = str(tmp_path / "log")
    started = process.Process(["sh", "-c", "echo the reason >&2; exit 3"], log=log, name="thing")
    with pytest.raises(process.Failed, match="(?s)thing ended with 3 .*the reason"):
        started.wait_ready(lambda: False, 5, "readiness")


def test_a_timeout_ends_the_whole_program():
    with pytest.raises(process.Failed, match="no end after 0.3 s"):
        process.run(["sh", "-c", "sleep 1003 & sleep 1004"], timeout_s=0.3)


@pytest.mark.skipif(netns.why_not() is not None, reason="needs namespaces")
def test_hosts_reach_one_another_over_ipv4_and_ipv6():
    with netns.Network(["a", "b"]) as network:
        code = "import socket,sys;s=socket.create_server((sys.argv[1],7000),family=int(sys.argv[2]));s.accept()"
        for address, family in ((network["b"].address, socket.AF_INET), (network["b"].address6, socket.AF_INET6)):
            with process.Process([sys.executable, "-c", code, address, str(int(family))], netns=network["b"]):
                process.wait_until(lambda: netns.tcp_sockets(network["b"], ("LISTEN",)), 5, "a listener")
                assert netns.connect_all([(address, 7000)], network["a"])[0][0] == 0
