"""memcached: one thread accepts and hands connections to others, and all of them wait with libevent. Many clients at
once, values up to a megabyte, many keys in one answer, and a server that answers in pieces as its clients read
slowly."""
import os
import shutil

import pytest

CHECK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "memcached_check.py")
pytestmark = pytest.mark.skipif(not shutil.which("memcached"), reason="no memcached: apt-get install memcached")


def test_values_of_many_clients(way):
    port = way.port()
    user = ["-u", "root"] if os.geteuid() == 0 else []
    way.serve(["memcached", "-l", way.address, "-p", port, "-t", "3", "-m", "128", *user], port)
    way.run(["/usr/bin/python3", CHECK, way.address, port], timeout_s=60)
    way.check_carried(at_least=10_000_000)
