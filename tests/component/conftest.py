"""The command line and the daemon as people meet them: real binaries, real sockets, one line for each mistake."""
import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lib import process, vmsgrd  # noqa: E402
from lib.standstill import pytest_runtest_protocol, pytest_terminal_summary  # noqa: E402, F401

ENVIRONMENT = ("VMSGR_SOCKET", "VMSGR_ROUTES", "VMSGR_LOG", "VMSGR_PRELOAD", "VMSGR_SPIN_US",
               "LD_PRELOAD")


def pytest_configure(config):
    config.addinivalue_line("markers", "fast: part of `make check`, well below a second")


@pytest.fixture(autouse=True, scope="session")
def _built():
    assert os.access(vmsgrd.VMSGR, os.X_OK), f"{vmsgrd.VMSGR} is not built; run make"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def here():
    """A directory with a short path."""
    path = process.make_dir("vc-")
    yield path
    process.remove_dir(path)


@pytest.fixture
def write(here):
    def write_file(text, name="file.yaml", mode=0o644):
        path = os.path.join(here, name)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(path, mode)
        return path
    return write_file


class Done:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __repr__(self):
        return f"exit {self.code}, stdout {self.out!r}, stderr {self.err!r}"

    def refused(self, code, *parts):
        """One line on stderr with all these parts, nothing on stdout."""
        assert self.code == code, self
        assert self.out == "", self
        assert self.err.count("\n") == 1 and self.err.endswith("\n"), self
        for part in parts:
            assert part in self.err, (part, self)
        return self


def run_words(*words, env=None, timeout_s=20, user=None):
    done = subprocess.run([str(w) for w in words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=timeout_s, env={**os.environ, **(env or {})}, user=user,
                          **({"group": user, "extra_groups": []} if user is not None else {}))
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def vmsgr():
    return lambda *words, **how: run_words(vmsgrd.VMSGR, *words, **how)


@pytest.fixture
def daemon_command():
    return lambda *words, **how: run_words(vmsgrd.VMSGRD, *words, **how)


LOOPBACK = [vmsgrd.route("closed", address="127.0.0.9", via="deny"),
            vmsgrd.route("kernel", address="127.0.0.8", via="posix"),
            vmsgrd.route("loopback", address="127.0.0.0/8"),
            vmsgrd.route("loopback6", address="::1")]


@pytest.fixture(scope="session")
def daemon():
    """One vmsgrd that carries loopback, for all tests that do not harm it."""
    if vmsgrd.why_not():
        pytest.fail(vmsgrd.why_not())
    with vmsgrd.Vmsgrd(process.make_dir("vc-"), routes=LOOPBACK) as running:
        yield running


@pytest.fixture(scope="session")
def other_daemon():
    """A second vmsgrd: a channel between programs of the two goes over TCP."""
    with vmsgrd.Vmsgrd(process.make_dir("vc-"), routes=LOOPBACK, name="other") as running:
        yield running
