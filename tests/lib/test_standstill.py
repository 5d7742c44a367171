"""A failure counts, unless the machine stood still."""
import os
import subprocess
import sys

LIB = os.path.dirname(os.path.abspath(__file__))
CONFTEST = f"""
import sys
sys.path.insert(0, {os.path.dirname(LIB)!r})
from lib import standstill
from lib.standstill import pytest_runtest_protocol, pytest_terminal_summary
"""
TESTS = """
import os
from lib import standstill

def runs(name):
    with open(name, "a") as f:
        f.write("x")
    return os.path.getsize(name)

def test_fails():
    runs("fails")
    assert False

def test_is_late(still):
    assert runs("late") == 2

def test_is_always_late(still):
    runs("always")
    assert False
"""
# As if the sleeper had found it.
STILL = """
import pytest, time
@pytest.fixture
def still():
    now = time.monotonic()
    with open(f"/proc/self/fd/{standstill._sleeper._out.fileno()}", "ab") as f:
        f.write(b"%f %f\\n" % (now, now + 0.25))
"""


def test_what_fails_while_the_machine_stands_still_is_run_again(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST + STILL)
    (tmp_path / "test_it.py").write_text(TESTS)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=tmp_path, stdout=subprocess.PIPE,
                          text=True, check=False)
    assert done.returncode == 1 and "2 failed, 1 passed" in done.stdout, done.stdout
    assert {name: len((tmp_path / name).read_text()) for name in ("fails", "late", "always")} == \
        {"fails": 1, "late": 2, "always": 3}
    again = [line for line in done.stdout.splitlines() if line.startswith("ran again")]
    assert again == ["ran again, as the machine stood still for 0.25 s: test_it.py::test_is_late",
                     "ran again, as the machine stood still for 0.25, 0.25 s: test_it.py::test_is_always_late"]
