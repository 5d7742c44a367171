"""What programs do with the descriptors of their connections, beside reading and writing (descriptors.c)."""
import os
import shutil
import subprocess

import pytest
from lib import process, vmsgrd

HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture(scope="module")
def descriptors():
    folder = process.make_dir("vc-")
    program = f"{folder}/descriptors"
    subprocess.run([shutil.which("gcc-14") or "gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", program,
                    f"{HERE}/descriptors.c"], check=True)
    yield program
    process.remove_dir(folder)


@pytest.mark.parametrize("what", ["messages", "refused", "handlers"])
def test_the_checks_find_nothing_wrong_with_the_kernel(descriptors, what):
    process.run([descriptors, what], timeout_s=60)


@pytest.mark.parametrize("what", ["messages", "refused", "handlers"])
@pytest.mark.parametrize("way", ["local", "direct"])
def test_they_behave_as_kernel_sockets(descriptors, daemon, way, what):
    """messages: SCM_RIGHTS by sendmmsg. refused: dup3. handlers: close, connect and fork in a signal handler, which
    wait for nobody. A deadlock shows as a time-out."""
    routes = [vmsgrd.route("all", address="127.0.0.0/8", **({"local": "no"} if way == "direct" else {}))]
    process.run([*daemon.prefix(routes=routes), descriptors, what], timeout_s=60)
