"""socat: relays by select with half closes on both sides, forks for each connection, and gives connections away: to a
program on its standard input and output (nofork), to a shell, or through a socketpair."""
import random
import shutil

import pytest

pytestmark = pytest.mark.skipif(not shutil.which("socat"), reason="no socat: apt-get install socat")

SERVICES = {
    "cat": "EXEC:cat",                       # through a socketpair; the connection stays socat's
    "nofork": "EXEC:cat,nofork",             # cat has the connection itself
    "shell": "SYSTEM:'cat; printf end'",
    "answer": "EXEC:'wc -c'",                # which comes once all has been read
}


def listen(way, what, port=None, *options):
    port = port or way.port()
    way.serve(["socat", "-t20", *options, f"TCP4-LISTEN:{port},bind={way.address},reuseaddr,fork", what], port)
    return port


def talk(way, port, data, *options):
    return way.run(["socat", "-t20", *options, "STDIO", f"TCP4:{way.address}:{port}"], input=data, binary=True,
                   timeout_s=30).stdout


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
@pytest.mark.parametrize("service", SERVICES)
def test_a_program_behind_a_listener(way, service, size):
    data = random.Random(size).randbytes(size)
    wanted = {"shell": data + b"end", "answer": b"%d\n" % size}.get(service, data)
    port = listen(way, SERVICES[service])
    for _ in range(3):
        assert talk(way, port, data) == wanted


def test_a_chain_of_relays(way):
    """The first listens on an address and connects to the second; each direction ends by itself."""
    data = random.Random(7).randbytes(2_000_000)
    inner = listen(way, "EXEC:cat")
    outer = listen(way, f"TCP4:{way.address}:{inner}")
    assert talk(way, outer, data) == data
    assert talk(way, outer, data, "-b", "100") == data
    way.check_carried(at_least=len(data))


def test_a_file_one_way(way, tmp_path):
    """-u: nothing comes back, and each side shuts down what it does not use."""
    data = random.Random(8).randbytes(5_000_000)
    (tmp_path / "file").write_bytes(data)
    port = listen(way, f"OPEN:{tmp_path}/file,rdonly", None, "-U")
    done = way.run(["socat", "-u", f"TCP4:{way.address}:{port}", "STDOUT"], binary=True, timeout_s=30)
    assert done.stdout == data
