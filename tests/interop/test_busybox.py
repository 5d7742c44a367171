"""busybox: its httpd is an inetd of its own kind (a fork and the connection on 0 and 1, sendfile, CGI programs), its nc
gives the connection to a program, its wget reads by stdio."""
import hashlib
import random
import shutil

import pytest

pytestmark = pytest.mark.skipif(not shutil.which("busybox"), reason="no busybox: apt-get install busybox")

CGI = """\
#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n'
printf '%s %s %s\\n' "$REQUEST_METHOD" "$QUERY_STRING" "$REMOTE_ADDR"
exec md5sum
"""


@pytest.fixture
def site(way, tmp_path):
    cgi = tmp_path / "cgi-bin" / "sum"
    cgi.parent.mkdir()
    cgi.write_text(CGI)
    cgi.chmod(0o755)
    (tmp_path / "large").write_bytes(random.Random(1).randbytes(10_000_000))
    (tmp_path / "empty").write_bytes(b"")
    port = way.port()
    way.serve(["busybox", "httpd", "-f", "-p", f"{way.address}:{port}", "-h", tmp_path], port)
    return f"http://{way.address}:{port}"


def test_files(way, site, tmp_path):
    for name in ("large", "empty"):
        got = way.run(["busybox", "wget", "-q", "-O", "-", f"{site}/{name}"], binary=True).stdout
        assert got == (tmp_path / name).read_bytes()
    part = way.run(["curl", "-sS", "-r", "5000000-5999999", f"{site}/large"], binary=True).stdout
    assert part == (tmp_path / "large").read_bytes()[5_000_000:6_000_000]
    way.check_seen(at_least=10_000_000)


def test_cgi_with_a_body(way, site):
    body = random.Random(2).randbytes(300_000)
    said = way.run(["curl", "-sS", "--data-binary", "@-", f"{site}/cgi-bin/sum?a=b"], input=body, binary=True).stdout
    assert said.decode() == f"POST a=b {way.address}\n{hashlib.md5(body).hexdigest()}  -\n"


def test_nc_gives_its_connection_to_a_program(way):
    data = random.Random(3).randbytes(1_000_000)
    port = way.port()
    way.serve(["busybox", "nc", "-ll", "-p", port, "-e", "cat"], port)
    for _ in range(3):
        talk = ["busybox", "nc", way.address, port]
        assert way.run(talk, input=data, binary=True, timeout_s=30).stdout == data
