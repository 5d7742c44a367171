"""A server of Python's asyncio that starts a program for each connection: with pipes between, or with the connection
itself as its input and output, while others stay open. The client is asyncio, too, with a program that writes to its
connection."""
import os

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = "/usr/bin/python3"


@pytest.mark.parametrize("how", ["pipes", "handed-over"])
def test_a_program_for_each_connection(way, how):
    port = way.port()
    way.serve([PYTHON, f"{HERE}/asyncio_server.py", way.address, port, how], port)
    way.run([PYTHON, f"{HERE}/asyncio_client.py", way.address, port], timeout_s=60)
    (way.check_carried if how == "pipes" else way.check_seen)(at_least=2 * 12 * 200_000)
