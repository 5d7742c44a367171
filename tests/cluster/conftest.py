"""Real Ceph clusters. VMSGR_PLAIN=1 runs the same tests on kernel sockets alone (no vmsgrd needed)."""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lib import ceph, netns  # noqa: E402
from lib.standstill import pytest_runtest_protocol, pytest_terminal_summary  # noqa: E402, F401


@pytest.fixture(autouse=True, scope="session")
def _needs():
    why = netns.why_not() or ceph.why_not()
    if why:
        pytest.skip(why)
