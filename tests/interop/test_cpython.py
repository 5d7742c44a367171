"""A part of CPython's own tests, memory to memory: nothing may fail. `make test-suites` runs more, and compares with plain."""
import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "suites"))

import cpython  # noqa: E402
from lib import process  # noqa: E402

PYTHON = cpython.interpreter()
pytestmark = pytest.mark.skipif(PYTHON is None, reason=cpython.NOT_THERE)


@pytest.fixture(scope="module")
def suite():
    made = cpython.Suite(PYTHON, os.path.join(process.ROOT, "build/test-logs/suites"), patience_s=120)
    yield made
    made.close()


@pytest.mark.parametrize("module", ["test_socket", "test_socketserver", "test_httpservers", "test_ftplib"])
def test_nothing_fails_memory_to_memory(suite, module):
    known = cpython.read_known()
    outcome = suite.run(module, "local", label=".part")
    assert not outcome.trouble
    assert outcome.connections > 50, "its connections were not carried"
    failed = [t for t, result in outcome.tests.items() if result == "failed"]
    assert [t for t in failed if cpython.reason_for(known, t, "local") is None] == []
