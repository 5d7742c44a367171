"""pytest wrapper of the differential socket test.

VMSGR_SOCKDIFF         the sockdiff binary
VMSGR_DIFF_PREFIX      what a routed role is started with, e.g. "vmsgr run --routes FILE --"
VMSGR_DIFF_DIRECT_PREFIX     the same, with routes that say local: no
VMSGR_DIFF_SERVER_PREFIX, VMSGR_DIFF_CLIENT_PREFIX     if they differ
VMSGR_DIFF_ONLY        a glob, to run a part
"""
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
SOCKDIFF = os.environ.get("VMSGR_SOCKDIFF", "")
COMMON = os.environ.get("VMSGR_DIFF_PREFIX", "")
SERVER = os.environ.get("VMSGR_DIFF_SERVER_PREFIX", COMMON)
CLIENT = os.environ.get("VMSGR_DIFF_CLIENT_PREFIX", COMMON)
DIRECT = os.environ.get("VMSGR_DIFF_DIRECT_PREFIX", "")

pytestmark = pytest.mark.skipif(not SOCKDIFF, reason="VMSGR_SOCKDIFF is not set")


def run(*args):
    command = [sys.executable, str(HERE / "diff_sockets.py"), "--sockdiff", SOCKDIFF, *args]
    if os.environ.get("VMSGR_DIFF_ONLY"):
        command += ["--only", os.environ["VMSGR_DIFF_ONLY"]]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=1200)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.fixture(scope="session")
def baseline(tmp_path_factory):
    return str(tmp_path_factory.mktemp("sockdiff") / "baseline.json")


def test_kernel_sockets_agree_with_themselves(baseline):
    run("--combos", "", "--baseline", baseline)


@pytest.mark.parametrize("combo", ["rp", "pr", "rr", "ll"])
def test_routed_sockets_behave_like_kernel_sockets(combo, baseline):
    if not SERVER or not CLIENT or not DIRECT:
        pytest.skip("VMSGR_DIFF_PREFIX is not set")
    run("--combos", combo, "--baseline", baseline,
        "--server-prefix", SERVER, "--client-prefix", CLIENT, "--direct-prefix", DIRECT)
