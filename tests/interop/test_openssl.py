"""openssl s_server and s_client: a BIO on the socket, select, shutdown and close in the order of TLS's own goodbye."""
import hashlib
import random
import shutil

import pytest

from lib import process

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl: apt-get install openssl")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    at = tmp_path_factory.mktemp("tls")
    process.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
                 "/CN=here", "-keyout", at / "key", "-out", at / "cert"])
    return ["-cert", at / "cert", "-key", at / "key"]


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_large_file(way, certificate, version, tmp_path):
    data = random.Random(5).randbytes(20_000_000)
    (tmp_path / "large").write_bytes(data)
    port = way.port()
    serve = ["openssl", "s_server", "-accept", f"{way.address}:{port}", *certificate, "-WWW", version]
    way.serve(["env", f"--chdir={tmp_path}", *serve], port)
    for _ in range(2):
        said = way.run(["openssl", "s_client", "-connect", f"{way.address}:{port}", "-quiet", "-ign_eof"],
                       input=b"GET /large HTTP/1.0\r\n\r\n", binary=True, timeout_s=60).stdout
        assert hashlib.sha256(said.partition(b"\r\n\r\n")[2]).digest() == hashlib.sha256(data).digest()
    way.check_carried(at_least=2 * len(data))


def test_lines_come_back_reversed(way, certificate):
    port = way.port()
    way.serve(["openssl", "s_server", "-accept", f"{way.address}:{port}", *certificate, "-rev", "-quiet"], port)
    lines = b"".join(b"%d times\n" % n for n in range(200)) + b"CLOSE\n"
    said = way.run(["openssl", "s_client", "-connect", f"{way.address}:{port}", "-quiet"], input=lines,
                   binary=True, timeout_s=30).stdout
    assert said.splitlines()[:200] == [line[::-1] for line in lines.splitlines()[:200]]
