"""A failure counts, unless the machine stood still."""
import os
import subprocess
import sys

LIB = os.path.dirname(os.path.abspath(__file__))
CONFTEST = f"""
import sys
sys.path.insert(0, {os.path.dirname(LIB)!r})
from lib import standstill
standstill.SLEEPER = "import time; time.sleep(60)"   # says nothing of its own
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

def test_leaves_late(still, ends):
    runs("leaves")
"""
# As if the sleeper had found it.
STILL = """
import pytest, time
@pytest.fixture
def still():
    now = time.monotonic()
    with open(f"/proc/self/fd/{standstill._sleeper._out.fileno()}", "ab") as f:
        f.write(b"%f %f\\n" % (now, now + 0.25))
@pytest.fixture
def ends():
    yield
    assert False
"""


def test_what_fails_while_the_machine_stands_still_is_run_again(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST + STILL)
    (tmp_path / "test_it.py").write_text(TESTS)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=tmp_path, stdout=subprocess.PIPE,
                          text=True, check=False)
    assert done.returncode == 1 and "2 failed, 2 passed, 1 error" in done.stdout, done.stdout
    assert {name: len((tmp_path / name).read_text()) for name in ("fails", "late", "always", "leaves")} == \
        {"fails": 1, "late": 2, "always": 3, "leaves": 1}
    lines = done.stdout.splitlines()
    again = lines.index("ran again, as the machine stood still: test_it.py::test_is_late")
    assert lines[again + 1].startswith("    0.25: ") and "assert 1 == 2" in lines[again + 1], done.stdout
    assert lines[again + 2] == "ran again, as the machine stood still: test_it.py::test_is_always_late"
    assert sum(line.startswith("    0.25: ") for line in lines) == 3
