"""vmsgr ping, perf, send and recv as a person uses them, against a real vmsgrd."""
import contextlib
import hashlib
import json
import os
import pty
import subprocess

import pytest
from lib import process, vmsgrd
from lib.channels import Session, wait_for_listener

pytestmark = pytest.mark.fast


class Waiting:
    """A command that says where it waits, on its last word of the first line."""

    def __init__(self, daemon, *words, says="stdout", **how):
        self.process = subprocess.Popen([vmsgrd.VMSGR, *words, "--socket", daemon.socket], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, **how)
        self.at = getattr(self.process, says).readline().decode().split()[-1]
        wait_for_listener(daemon, int(self.at.rpartition(":")[2]))

    def __enter__(self):
        return self

    def end(self, timeout_s=20):
        out, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out, err.decode()

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


def run(daemon, *words, **how):
    done = subprocess.run([vmsgrd.VMSGR, *words, "--socket", daemon.socket], capture_output=True, timeout=60, **how)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_ping(daemon):
    with Waiting(daemon, "perf", "--serve", "127.0.0.1:0") as server:
        code, out, err = run(daemon, "ping", server.at, "--count", "3", "--interval-ms", "1", "--size", "100")
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert len(lines) == 4 and lines[0].startswith(f"100 bytes from {server.at} (local): seq=1 time="), out
        assert lines[3].startswith("3 there and back: min "), out
        doc = json.loads(run(daemon, "ping", server.at, "--count", "2", "--interval-ms", "0", "--json")[1])
        assert (doc["peer"], doc["local"], doc["count"], doc["bytes"]) == (server.at, True, 2, 64)
        assert 0 < doc["min_us"] <= doc["p50_us"] <= doc["max_us"]


def test_perf_over_tcp_between_two_daemons(daemon, other_daemon):
    with Waiting(other_daemon, "perf", "--serve", "127.0.0.1:0") as server:
        code, out, err = run(daemon, "perf", server.at, "--sizes", "64,65536", "--seconds", "0.1", "--json")
        assert (code, err) == (0, "")
        doc = json.loads(out)
        assert (doc["local"], [r["bytes"] for r in doc["results"]]) == (False, [64, 65536])


def test_perf_alone_measures_this_machine(daemon):
    code, out, err = run(daemon, "perf", "--sizes", "0,64,1000", "--seconds", "0.1", "--batch", "16")
    assert (code, err) == (0, "")
    assert "local (shared memory)" in out and "batches of 16" in out
    rows = [line.split() for line in out.splitlines()[3:]]
    assert [row[0] for row in rows] == ["0", "64", "1000"] and all(float(row[1]) > 0 for row in rows)
    code, out, err = run(daemon, "perf", "--sizes", "65537", "--seconds", "0.1")
    assert (code, out) == (2, "") and "65537 is more than the 65536 that both sides take" in err


@pytest.mark.parametrize("far", [False, True])
def test_a_file_goes_across_and_appears_when_it_is_whole(daemon, other_daemon, here, far):
    data = os.urandom(3_000_001)
    with open(f"{here}/in", "wb") as f:
        f.write(data)
    with Waiting(other_daemon if far else daemon, "recv", "127.0.0.1:0", f"{here}/out", "--json", says="stderr") as r:
        code, out, err = run(daemon, "send", r.at, f"{here}/in")
        assert (code, out) == (0, "") and err.startswith("sent 3000001 bytes in "), err
        code, out, err = r.end()
    assert code == 0, err
    doc = json.loads(out)
    assert doc["bytes"] == 3000001 and len(doc["xxh64"]) == 16
    with open(f"{here}/out", "rb") as f:
        assert hashlib.sha256(f.read()).digest() == hashlib.sha256(data).digest()
    assert not os.path.exists(f"{here}/out.part")


@pytest.mark.parametrize("data,xxh64", [(b"", "ef46db3751d8e999"), (b"a", "d24ec4f1a98c6e5b"), (b"abc", "44bc2cf5ad770999"),
                                        (b"Nobody inspects the spammish repetition", "fbcea83c8a378bf1"),
                                        (bytes(i * 7 % 251 for i in range(50000)), "6b6c743e3a3ac877")],
                         ids=["nothing", "a", "abc", "39 bytes", "50,000 bytes"])
def test_standard_input_and_output_and_the_known_hashes(daemon, data, xxh64):
    with Waiting(daemon, "recv", ":0", says="stderr") as r:
        code, out, _ = run(daemon, "send", r.at, "--json", input=data)
        assert (code, json.loads(out)["xxh64"]) == (0, xxh64)
        assert r.end()[:2] == (0, data)


def test_progress_is_shown_on_a_terminal(daemon, here):
    with open(f"{here}/in", "wb") as f:
        f.truncate(50_000_000)
    ours, theirs = pty.openpty()
    with Waiting(daemon, "recv", ":0", "/dev/null", says="stderr") as r:
        p = subprocess.Popen([vmsgrd.VMSGR, "send", r.at, f"{here}/in", "--socket", daemon.socket], stderr=theirs)
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):   # EIO: the other end of the terminal is closed
            while piece := os.read(ours, 4096):
                shown += piece
        os.close(ours)
        assert p.wait(20) == 0
    assert b"100%" in shown and b"=====" in shown, shown


def test_a_transfer_that_breaks_leaves_no_file_and_says_so(daemon, here):
    with Waiting(daemon, "recv", ":0", f"{here}/out", says="stderr") as r:
        p = subprocess.Popen([vmsgrd.VMSGR, "send", r.at, "--socket", daemon.socket], stdin=subprocess.PIPE)
        p.stdin.write(bytes(100_000))
        p.stdin.flush()
        process.wait_until(lambda: os.path.exists(f"{here}/out.part") and os.path.getsize(f"{here}/out.part"), 5, "data")
        p.kill()
        p.wait()
        p.stdin.close()
        code, out, err = r.end()
    assert (code, out) == (1, b"") and "cut short after " in err and "without closing" in err, err
    assert os.listdir(here) == []


def test_commands_name_a_partner_of_another_kind(daemon, here):
    with open(f"{here}/in", "wb") as f:
        f.write(b"x")
    with Waiting(daemon, "perf", "--serve", ":0") as server:
        code, _, err = run(daemon, "send", server.at, f"{here}/in")
        assert code == 1 and err == "vmsgr: send: the other side is no `vmsgr recv`\n"
    with Waiting(daemon, "recv", ":0", f"{here}/out", says="stderr") as r:
        code, _, err = run(daemon, "ping", r.at)
        assert code == 1 and "no answer: is the other side `vmsgr perf --serve`?" in err
        assert r.end()[0] == 1
    code, _, err = run(daemon, "send", ":1", f"{here}/none")
    assert code == 1 and "cannot read" in err and "No such file" in err
    code, _, err = run(daemon, "ping", "127.0.0.1:1")
    assert code == 1 and "nobody listens on 127.0.0.1:1: start the other side first" in err


def test_recv_is_no_server_for_a_session_of_the_library(daemon, here):
    """What a program of its own sends is refused with one line."""
    with Waiting(daemon, "recv", ":0", f"{here}/out", says="stderr") as r, Session(daemon.socket) as s:
        with s.connect(int(r.at.rpartition(":")[2])) as c:
            c.send(b"x" * 100)
            code, _, err = r.end()
        assert code == 1 and "the other side is no `vmsgr send`" in err
    assert os.listdir(here) == []
