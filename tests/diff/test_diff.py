"""pytest wrapper of the differential socket test.

VMSGR_SOCKDIFF         the sockdiff binary
VMSGR_DIFF_PREFIX      what a routed role is started with, e.g. "vmsgr run --routes FILE --"
VMSGR_DIFF_DIRECT_PREFIX     the same, with routes that say local: no
VMSGR_DIFF_FAR_PREFIX        a server that is attached to another daemon
VMSGR_DIFF_TRUNK_PREFIX      a client whose connections go there over a trunk
VMSGR_DIFF_ONLY        a glob, to run a part
"""
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
SOCKDIFF = os.environ.get("VMSGR_SOCKDIFF", "")
PREFIXES = {option: os.environ.get(f"VMSGR_DIFF_{name}", "") for option, name in (
    ("--prefix", "PREFIX"), ("--direct-prefix", "DIRECT_PREFIX"), ("--far-prefix", "FAR_PREFIX"),
    ("--trunk-prefix", "TRUNK_PREFIX"))}

pytestmark = pytest.mark.skipif(not SOCKDIFF, reason="VMSGR_SOCKDIFF is not set")


def run(*args, capsys=None):
    command = [sys.executable, str(HERE / "diff_sockets.py"), "--sockdiff", SOCKDIFF, *args]
    if os.environ.get("VMSGR_DIFF_ONLY"):
        command += ["--only", os.environ["VMSGR_DIFF_ONLY"]]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=1200)
    print(done.stdout)
    pending = [line for line in done.stdout.splitlines() if line.startswith(("PENDING", "NO LONGER DIFFERS in"))]
    if pending and capsys:
        with capsys.disabled():
            print("", *pending, sep="\n")
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.fixture(scope="session")
def baseline(tmp_path_factory):
    return str(tmp_path_factory.mktemp("sockdiff") / "baseline.json")


def test_kernel_sockets_agree_with_themselves(baseline):
    run("--combos", "", "--baseline", baseline)


@pytest.mark.parametrize("combo", ["rp", "pr", "rr", "ll", "tt", "pt"])
def test_routed_sockets_behave_like_kernel_sockets(combo, baseline, capsys):
    if not all(PREFIXES.values()):
        pytest.skip("VMSGR_DIFF_PREFIX and its kin are not set")
    run("--combos", combo, "--baseline", baseline, *(f"{option}={text}" for option, text in PREFIXES.items()),
        capsys=capsys)
