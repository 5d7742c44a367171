"""Java's NIO: one thread, a selector, channels that do not wait, gathering writes and transferTo(); clients with
threads of their own. A JDK is large, so nothing installs it: the test runs where there is one."""
import os
import shutil
import subprocess

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
pytestmark = pytest.mark.skipif(not shutil.which("javac"), reason="no JDK")
OPTIONS = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"]


@pytest.fixture(scope="module")
def classes(world):
    directory = os.path.join(world.dir, "java")
    subprocess.run(["javac", "-d", directory, f"{HERE}/NioEcho.java"], check=True)
    return directory


def test_a_selector_echoes(way, classes):
    port = way.port()
    java = ["java", *OPTIONS, "-cp", classes, "NioEcho"]
    way.serve([*java, "serve", way.address, port], port, timeout_s=30)
    assert way.run([*java, "ask", way.address, port], timeout_s=60).stdout == "done\n"
    way.check_carried(at_least=2 * 8 * 400_000)
