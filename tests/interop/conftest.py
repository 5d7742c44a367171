"""Real programs against each other: `ends` comes in every combination of routed and plain, IPv4 and IPv6.

VMSGR_PLAIN=1 runs the same tests on kernel sockets alone (no vmsgrd needed).
"""
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lib import ends as lib_ends  # noqa: E402
from lib import netns  # noqa: E402
from lib.standstill import pytest_runtest_protocol, pytest_terminal_summary  # noqa: E402, F401


@pytest.fixture(scope="session")
def world():
    if netns.why_not():
        pytest.skip(netns.why_not())
    made = lib_ends.World()
    yield made
    made.close()


@pytest.fixture(params=lib_ends.ADDRESSES.values(), ids=lib_ends.ADDRESSES.keys())
def address(request):
    return request.param


@pytest.fixture(params=lib_ends.COMBINATIONS)
def ends(request, world, address):
    made = lib_ends.Ends(world, request.param, address)
    yield made
    made.close()


@pytest.fixture(params=lib_ends.WAYS)
def way(request, world):
    """Ends on IPv4 alone, and also with both ends routed and never local: for programs that take their time."""
    made = lib_ends.Ends(world, request.param, lib_ends.ADDRESSES["v4"])
    yield made
    made.close()
