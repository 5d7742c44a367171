"""lighttpd: one process, epoll, sendfile and writev, keep-alive with many requests at once, uploads to a CGI program."""
import hashlib
import os
import random
import shutil

import pytest

LIGHTTPD = shutil.which("lighttpd") or "/usr/sbin/lighttpd"
pytestmark = pytest.mark.skipif(not os.path.exists(LIGHTTPD), reason="no lighttpd: apt-get install lighttpd")

CONFIG = """\
server.modules = ("mod_cgi")
server.document-root = "{dir}"
server.bind = "{address}"
server.port = {port}
server.network-backend = "{backend}"
server.upload-dirs = ("{dir}")
cgi.assign = (".sh" => "/bin/sh")
"""


@pytest.fixture(params=["sendfile", "writev"])
def site(request, way, tmp_path):
    port = way.port()
    for n in range(30):
        (tmp_path / f"file-{n}").write_bytes(random.Random(n).randbytes(n * 60_000))
    (tmp_path / "sum.sh").write_text("printf 'Content-Type: text/plain\\r\\n\\r\\n'; exec sha256sum\n")
    (tmp_path / "conf").write_text(CONFIG.format(dir=tmp_path, address=way.address, port=port, backend=request.param))
    way.serve([LIGHTTPD, "-D", "-f", tmp_path / "conf"], port)
    return f"http://{way.address}:{port}"


def test_many_files_on_few_connections(way, site, tmp_path):
    got = tmp_path / "got"
    got.mkdir()
    way.run(["curl", "-sS", "--fail", "-Z", "--parallel-max", "6", f"{site}/file-[0-29]", "-o", got / "#1"])
    for n in range(30):
        assert (got / f"{n}").read_bytes() == (tmp_path / f"file-{n}").read_bytes()
    part = way.run(["curl", "-sS", "--fail", "-r", "1000000-1099999", f"{site}/file-29"], binary=True).stdout
    assert part == (tmp_path / "file-29").read_bytes()[1_000_000:1_100_000]
    way.check_carried(at_least=20_000_000)


def test_uploads(way, site):
    for size in (0, 10, 3_000_000):
        body = random.Random(size).randbytes(size)
        said = way.run(["curl", "-sS", "--fail", "--data-binary", "@-", f"{site}/sum.sh"], input=body, binary=True).stdout
        assert said.decode().split()[0] == hashlib.sha256(body).hexdigest()
