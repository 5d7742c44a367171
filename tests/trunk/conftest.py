"""Two hosts in network namespaces, each with a vmsgrd, and trunks between them."""
import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from lib import netns, process, trunks, vmsgrd  # noqa: E402
from lib.standstill import pytest_runtest_protocol, pytest_terminal_summary  # noqa: E402, F401


def pytest_configure(config):
    config.addinivalue_line("markers", "timed: judges time under load; nothing is to run beside it")


def pytest_collection_modifyitems(items):
    why = netns.why_not() or vmsgrd.why_not()
    for item in items:
        if why:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="module")
def net():
    with netns.Network(["a", "b"]) as n:
        yield n


@pytest.fixture(scope="module")
def pair(net):
    """Daemons on both hosts, a connected to b by a trunk and b to a."""
    with trunks.Pair(net) as p:
        yield p


@pytest.fixture
def own_net():
    """For a test with daemons of its own."""
    with netns.Network(["a", "b"]) as n:
        yield n


@pytest.fixture
def directory():
    path = process.make_dir("vt-")
    yield path
    process.remove_dir(path)
