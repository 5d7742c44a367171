"""vmsgr top: as lines, and on a terminal (tmux) of 80x24 and of more."""
import json
import re
import subprocess
import time

import pytest
from lib import process, vmsgrd

from held import Held
from test_views import Program

ROUTES = [vmsgrd.route("wire", address="127.0.0.0/8", local="no")]


@pytest.fixture(scope="module")
def daemon():
    with vmsgrd.Vmsgrd(process.make_dir("vt-"), routes=ROUTES) as running:
        yield running


@pytest.fixture(scope="module")
def stalled(daemon):
    """A program that sends, and one that does not read."""
    with Program(daemon.prefix(), "serve", "127.0.0.1", 0) as server:
        _, port, _ = server.says()
        with Program(daemon.prefix(), "connect", "127.0.0.1", port) as client:
            server.says(), client.says()
            client.does("send", 16 << 20)
            process.wait_until(lambda: any((c["program_stalls_s"] or 0) > 1 for c in daemon.status()["connections"]), 20,
                               "the stall")
            yield server, client, int(port)


class Screen:
    """vmsgr top in a terminal of its own."""

    def __init__(self, here, daemon, columns, rows, *words, **env):
        self.tmux = ["tmux", "-S", f"{here}/tmux", "-f", "/dev/null"]
        command = [vmsgrd.VMSGR, "--socket", daemon.socket, "top", "--interval", "0.2", *words]
        subprocess.run([*self.tmux, "new-session", "-d", "-x", str(columns), "-y", str(rows), *command], check=True,
                       env={"TERM": "xterm-256color", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", **env})

    def text(self, *how):
        done = subprocess.run([*self.tmux, "capture-pane", "-p", *how], capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else None

    def types(self, *keys):
        subprocess.run([*self.tmux, "send-keys", *keys], check=True)

    def shows(self, *parts, without=()):
        def there():
            text = self.text() or ""
            return all(p in text for p in parts) and not any(w in text for w in without)
        try:
            process.wait_until(there, 10, f"the screen to show {parts} without {without}")
        except process.Failed as e:
            pytest.fail(f"{e}\n{self.text()}")
        return self.text()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run([*self.tmux, "kill-server"], capture_output=True)


def test_views_at_80_by_24(here, daemon, stalled):
    server, client, port = stalled
    with Screen(here, daemon, 80, 24) as screen:
        text = screen.shows("1 programs", "PROGRAM", "IN/S", "h help, q quit", str(client.pid), str(server.pid))
        assert len(text.splitlines()) <= 24 and max(map(len, text.splitlines())) <= 80, text
        assert text.splitlines()[0].startswith("vmsgrd ") and text.splitlines()[2].startswith("shards: 0 "), text
        screen.types("2")
        text = screen.shows("PEER", "wire", "program ", "direct")
        row = next(line for line in text.splitlines() if line.split()[:1] == [str(server.pid)])
        assert re.search(r"\d+%", row) and re.search(r"program \d+s", row), text
        screen.types("3")
        screen.shows("TRUNK", "none")
        screen.types("4")
        screen.shows("THREAD", "running")
        screen.types("Tab")
        screen.shows("PROGRAM", "FELL BACK")


def test_a_wider_screen_shows_more_columns(here, daemon, stalled):
    with Screen(here, daemon, 140, 40, "--view", "connections") as screen:
        text = screen.shows("LOCAL", "PROGRAM", "STALL", "RING")
        assert max(map(len, text.splitlines())) <= 140


def test_sort_filter_freeze_and_help(here, daemon, stalled):
    server, client, _ = stalled
    with Screen(here, daemon, 100, 30) as screen:
        screen.shows("sort OUT/S", str(client.pid))
        screen.types("s")
        screen.shows("sort STALLED")
        screen.types("r")
        screen.shows("sort STALLED reversed")
        screen.types("/", str(server.pid))
        screen.shows(f"filter: {server.pid}_", without=[f"{client.pid} "])
        screen.types("Enter")
        screen.shows(f"filter {server.pid}")
        screen.types("Escape")
        screen.shows(str(client.pid), without=["filter"])
        screen.types("f")
        frozen = screen.shows("FROZEN")
        time.sleep(0.6)
        assert screen.text() == frozen
        screen.types("f", "h")
        screen.shows("sort by the next column", without=["FROZEN", "UID"])
        screen.types("h")
        screen.shows("UID")
        screen.types("q")
        process.wait_until(lambda: screen.text() is None, 5, "top to end")


def test_a_held_shard_is_seen_and_the_screen_lives(here, daemon, stalled):
    with Screen(here, daemon, 80, 24, "--view", "shards") as screen:
        screen.shows("running", without=["stopped"])
        with Held([daemon.status()["shards"][0]["thread"]]):
            screen.shows("0 stopped")
            screen.types("2")
            screen.shows("PEER", "wire")
        screen.types("4")
        screen.shows("running", without=["stopped"])


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}], ids=["colours", "NO_COLOR"])
def test_alarms_are_red_unless_the_user_wants_no_colours(here, daemon, stalled, env):
    with Screen(here, daemon, 100, 30, "--view", "connections", **env) as screen:
        screen.shows("program ", "PEER")
        red = re.search(r"\x1b\[(\d+;)*31m", screen.text("-e"))
        assert (red is not None) == (not env), screen.text("-e")


def test_a_daemon_that_ends_ends_it(here):
    daemon = vmsgrd.Vmsgrd(here, routes=ROUTES)
    with daemon:
        done = subprocess.Popen([vmsgrd.VMSGR, "--socket", daemon.socket, "top", "--count", "1000", "--interval", "0.1"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(0.5)
    assert done.wait(10) == 3 and "no vmsgrd" in done.stderr.read()


def test_without_a_terminal_it_prints_lines(vmsgr, daemon, stalled):
    server, client, _ = stalled
    done = vmsgr("top", "--socket", daemon.socket, "--interval", "0.2")
    lines = done.out.splitlines()
    assert done.code == 0 and "\x1b" not in done.out and lines[3].split()[:3] == ["PID", "UID", "PROGRAM"], done
    assert {str(server.pid), str(client.pid)} <= {line.split()[0] for line in lines[4:]}
    twice = vmsgr("top", "--socket", daemon.socket, "--interval", "0.1", "--count", "2", "--view", "shards").out
    assert twice.count("SHARD") == 2
    done = vmsgr("top", "--json", "--socket", daemon.socket, "--interval", "0.1", "--view", "connections",
                 "--filter", "wire", "--sort", "PID")
    rows = json.loads(done.out)["rows"]
    assert [int(r["PID"]) for r in rows] == sorted([server.pid, client.pid], reverse=True)
    assert rows[0]["ROUTE"] == "wire" and {r["RING"] for r in rows} != {"0%"}


def test_mistakes_are_one_line(vmsgr, daemon, here):
    vmsgr("top", "--socket", daemon.socket, "--sort", "nothing").refused(2, "no column nothing in programs")
    vmsgr("top", "--socket", daemon.socket, "--view", "nothing").refused(2, "--view")
    vmsgr("top", "--socket", f"{here}/none").refused(3, "no vmsgrd")
