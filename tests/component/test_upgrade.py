"""vmsgrd --upgrade: a new vmsgrd takes over from the one that runs, with all that it carries; where it cannot, the old one
goes on. VMSGR_UPGRADES: how many in a row."""
import os
import re
import shutil
import signal
import socket
import statistics
import struct
import threading
import time
import urllib.request

import pytest

from lib import process, vmsgrd
from lib.agents import Agent
from lib.loads import BEATS, CONNECTS, ECHO, longest_pauses_ms

from test_custody import WIRE, connect, daemon, pair  # noqa: F401
from test_custody_programs import DIRECT, ROUTES, Load
from test_custody_steps import DiesAt
from test_keeper import gone, worker_after
from test_privileges import status_of
from test_supervised import manager  # noqa: F401

UPGRADES = int(os.environ.get("VMSGR_UPGRADES", "10"))
PAUSE_MS = 250   # the median of the longest pauses

def works(pair, daemon):
    """The old connection, and one that is new."""
    server, client = pair
    client("!c.sendall(b'ping')")
    assert server("s.recv(4)") == "b'ping'"
    server("!s.sendall(b'pong')")
    assert client("c.recv(4)") == "b'pong'"
    client("!d = socket.create_connection(c.getpeername(), timeout=20)")
    server("!t, a = l.accept()")
    server("!t.sendall(b'news')")
    assert client("d.recv(4)") == "b'news'"
    carried = [c for c in daemon.status()["connections"] if c["state"] == "established"]
    assert len(carried) == 4, carried
    client("!d.close()")
    server("!t.close()")


def adopt(daemon, done):
    """The new keeper, of an upgrade that this file has started itself."""
    daemon.process = process.Adopted(int(re.search(r"\(pid (\d+)\) has taken over", done.stdout)[1]), log=daemon.log)


def test_a_connection_and_a_listener_go_on(daemon, pair):
    before = daemon.process.pid, daemon.pid
    works(pair, daemon)
    for _ in range(3):
        vmsgrd.upgraded(daemon)
        works(pair, daemon)
    assert daemon.process.pid not in before and daemon.pid not in before and gone(before[1])
    assert daemon.status()["daemon"]["pid"] == daemon.process.pid
    server, client = pair
    client("!c.close()")
    assert server("s.recv(1)") == "b''"
    daemon.stop()
    assert not [n for n in os.listdir(os.path.dirname(daemon.socket)) if n.endswith((".sock", ".stats", ".upgrade"))]


def test_a_worker_that_is_killed_after_it_is_replaced(daemon, pair):
    vmsgrd.upgraded(daemon)
    pid = daemon.pid
    os.kill(pid, signal.SIGKILL)
    worker_after(daemon, pid)
    works(pair, daemon)
    vmsgrd.upgraded(daemon)
    works(pair, daemon)


def test_young_connections_and_requests_under_way_are_not_lost(daemon):
    with Agent(daemon.prefix()) as server, Agent(daemon.prefix()) as client:
        server("!HOST = '127.0.0.1'")
        server.run(ECHO)
        client(f"!AT = ('127.0.0.1', {int(server('l.getsockname()[1]'))})")
        client.run(CONNECTS)
        client.begin("connects(8)")
        time.sleep(0.5)
        for _ in range(4):
            vmsgrd.upgraded(daemon)
        client.end()
        assert client("(failed[:5], young[:5])") == "([], [])"
        assert int(client("made")) > 300 and float(client("longest")) < 1


def test_local_listeners_are_found_in_the_new_list(here):
    with vmsgrd.Vmsgrd(here, routes=[vmsgrd.route("all", address="127.0.0.0/8")]) as daemon, \
            Agent(daemon.prefix()) as server, Agent(daemon.prefix()) as client:
        server("!l = socket.create_server(('127.0.0.1', 0))")
        client(f"!at = ('127.0.0.1', {int(server('l.getsockname()[1]'))})")
        client("!c = socket.create_connection(at)")
        server("!s, a = l.accept()")
        sessions = {s["id"] for s in daemon.status()["sessions"]}
        for n in range(3):
            vmsgrd.upgraded(daemon)
            client("!c.sendall(b'ping')")
            assert server("s.recv(4)") == "b'ping'"
            client("!d = socket.create_connection(at)")
            server("!t, a = l.accept()")
            server("!m = socket.create_server(('127.0.0.1', 0))")
            client(f"!e = socket.create_connection(('127.0.0.1', {int(server('m.getsockname()[1]'))}))")
            server("!u, a = m.accept()")
            assert {s["id"] for s in daemon.status()["sessions"]} == sessions
            paths = [c["path"] for c in daemon.status()["connections"]]
            assert paths == ["local"] * 6, (n, paths)
            for agent, names in ((client, "de"), (server, "tum")):
                for name in names:
                    agent(f"!{name}.close()")


def test_the_configuration_is_read_anew(daemon, pair):
    with open(daemon.config, encoding="ascii") as f:
        text = f.read()
    with open(daemon.config, "w", encoding="ascii") as f:
        f.write(text.split("routes:")[0] + vmsgrd.routes_yaml([vmsgrd.route("other", address="127.0.0.0/8", local="no")])
                + "limits: {connections: 5000}\n")
    vmsgrd.upgraded(daemon)
    routes = process.run_json([vmsgrd.VMSGR, "routes", "--json", "--socket", daemon.socket])
    assert [r["name"] for r in routes] == ["other"]
    works(pair, daemon)


def test_what_else_listens_goes_on(here):
    """Metrics, status, and the address of trunks, which the new worker listens on when the old one has ended."""
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
        metrics, trunks = a.getsockname()[1], b.getsockname()[1]
    config = f"metrics: {{listen: 127.0.0.1:{metrics}}}\ntrunk: {{listen: 127.0.0.1:{trunks}}}\n"
    with vmsgrd.Vmsgrd(here, routes=WIRE, config=config) as daemon:
        for _ in range(2):
            vmsgrd.upgraded(daemon)
            socket.create_connection(("127.0.0.1", trunks), timeout=5).close()
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:
                assert b"vmsgr_worker_restarts_total 0" in answer.read()
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(5)
                s.connect(daemon.socket + ".stats")
                s.sendall(b"health\n")
                assert s.recv(10000).startswith(b"{")


def test_a_daemon_of_another_user_is_upgraded_by_root(here):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    os.chmod(here, 0o755)
    with vmsgrd.Vmsgrd(here, routes=WIRE, config="user: nobody\n") as daemon, \
            Agent(daemon.prefix()) as server, Agent(daemon.prefix()) as client:
        connect(server, client)
        for _ in range(2):
            vmsgrd.upgraded(daemon)
            for pid in (daemon.process.pid, daemon.pid):
                for s in status_of(pid):
                    assert s["Uid"].split() == ["65534"] * 4 and s["Seccomp"] == "2"
                    assert all(int(s[f"Cap{x}"], 16) == 0 for x in ("Inh", "Prm", "Eff", "Bnd", "Amb")), s
            works((server, client), daemon)


@pytest.mark.parametrize("old, new, said", [
    ("shards: 2", "shards: 1", "`shards` would change from 2 to 1"),
    ("memory: 256M", "memory: 256G", "memory"),
    ("routes:", "rootes:", "rootes"),
])
def test_a_configuration_that_cannot_take_over_is_refused(daemon, pair, old, new, said):
    with open(daemon.config, encoding="ascii") as f:
        text = f.read()
    with open(daemon.config, "w", encoding="ascii") as f:
        f.write(text.replace(old, new))
    before = daemon.process.pid, daemon.pid
    done = daemon.upgrade()
    assert done.returncode != 0 and said in done.stderr and done.stderr.count("\n") == 1, done
    assert (daemon.process.pid, daemon.pid) == before
    works(pair, daemon)


def test_reload_of_the_same_program_reads_the_configuration(daemon, pair):
    before = daemon.process.pid, daemon.pid
    done = process.run([vmsgrd.VMSGRD, "--reload", "--config", daemon.config])
    assert done.stdout == "vmsgrd has read its configuration again: 2 shards, 1 routes\n"
    with open(daemon.config, "a", encoding="ascii") as f:
        f.write("no_such_key: 1\n")
    done = process.run([vmsgrd.VMSGRD, "--reload"], check=False, env={"VMSGR_SOCKET": daemon.socket})
    assert done.returncode == 1, done   # without a file it looks at the usual place
    assert (daemon.process.pid, daemon.pid) == before and daemon.status()["daemon"]["reloads"] == 1
    works(pair, daemon)


def test_reload_of_another_program_is_an_upgrade(here):
    copy = os.path.join(here, "vmsgrd-old")
    shutil.copy(vmsgrd.VMSGRD, copy)
    with vmsgrd.Vmsgrd(here, routes=WIRE, program=copy) as daemon:
        old = daemon.process
        done = process.run([vmsgrd.VMSGRD, "--reload", "--config", daemon.config])
        assert "has taken over from" in done.stdout, done
        assert old.wait(5) == 0
        adopt(daemon, done)
        assert daemon.status()["daemon"]["pid"] == daemon.process.pid


def test_without_a_daemon_it_says_what_to_do(here):
    daemon = vmsgrd.Vmsgrd(here, routes=WIRE)
    done = daemon.upgrade()
    assert done.returncode == 1 and "start it without --upgrade" in done.stderr, done


# The first bytes of keeper::upgrade_message, which every version reads: magic, protocol, step, text.
HEAD = struct.Struct("=QII480s")
MESSAGE_BYTES = 1600   # in protocol 1
MAGIC, HELLO, REFUSAL = 0x6461726770557356, 1, 3


def say_hello(daemon, protocol=1, ledger=99):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.settimeout(5)
        s.connect(daemon.socket + ".upgrade")
        rest = struct.pack("=II", ledger, 1) + bytes(MESSAGE_BYTES)
        s.send((HEAD.pack(MAGIC, protocol, HELLO, b"9.9.9") + rest)[:MESSAGE_BYTES])
        magic, _, step, text = HEAD.unpack(s.recv(8192)[:HEAD.size])
        assert magic == MAGIC and step == REFUSAL
        return text.rstrip(b"\0").decode()




def test_another_ledger_or_protocol_is_refused_and_changes_nothing(daemon, pair):
    before = daemon.process.pid, daemon.pid
    assert "write down what is carried in different ways" in say_hello(daemon)
    assert "upgrades in another way" in say_hello(daemon, protocol=2)
    assert (daemon.process.pid, daemon.pid) == before
    works(pair, daemon)
    vmsgrd.upgraded(daemon)


def test_a_refusal_ends_the_new_one(here):
    """As an old vmsgrd that does not know its ledger gives it."""
    daemon = vmsgrd.Vmsgrd(here, routes=WIRE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as l:
        l.bind(daemon.socket + ".upgrade")
        l.listen()

        def refuse():
            s, _ = l.accept()
            s.recv(8192)
            s.send(HEAD.pack(MAGIC, 7, REFUSAL, b"another ledger") + bytes(3000))
            s.close()
        t = threading.Thread(target=refuse)
        t.start()
        done = daemon.upgrade()
        t.join()
    assert done.returncode == 1 and "no upgrade: another ledger" in done.stderr, done


def test_strangers_may_not_upgrade(daemon):
    assert os.stat(daemon.socket + ".upgrade").st_mode & 0o777 == 0o600
    if os.geteuid() == 0:
        done = process.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", vmsgrd.VMSGRD, "--upgrade",
                            "--config", daemon.config], check=False)
        assert done.returncode == 1 and "only root and vmsgrd's own user" in done.stderr, done


# The new one's keeper or worker. A worker takes over with getsockopt; before that it makes none on its main thread.
CRASHES = {
    "at its start": "memfd_create:signal=SEGV:when=1",
    "while its reactors start": "epoll_create1:signal=KILL:when=1",
    "as it would say that it stands by": "sendto:signal=KILL:when=1",
    "taking over a connection": "getsockopt:signal=KILL:when=4",
    "taking over, late": "accept4:signal=KILL:when=1",
    "its keeper, before it says so": "sendmsg:signal=KILL:when=2",
    "its keeper, giving to the worker": "sendmsg:signal=KILL:when=3",
    "its keeper, having given all": "sendmsg:signal=KILL:when=4",
    "its keeper, as it is ready": "sendmsg:signal=KILL:when=5",
}
HANGS = {
    "before standby": "epoll_create1:signal=STOP:when=1",
    "while taking over": "getsockopt:signal=STOP:when=4",
}


@pytest.mark.parametrize("rule", CRASHES.values(), ids=CRASHES)
def test_a_new_one_that_crashes_leaves_the_old_one(daemon, pair, rule):
    keeper = daemon.process.pid
    works(pair, daemon)
    for _ in range(2):
        done = daemon.upgrade(before=vmsgrd.injected(rule))
        assert done.returncode != 0, done
        assert daemon.process.pid == keeper and daemon.process.alive()
        works(pair, daemon)
    vmsgrd.upgraded(daemon)
    works(pair, daemon)


@pytest.mark.parametrize("rule", HANGS.values(), ids=HANGS)
def test_a_new_one_that_hangs_is_killed(daemon, pair, rule):
    keeper = daemon.process.pid
    began = time.monotonic()
    done = daemon.upgrade(before=vmsgrd.injected(rule))
    assert done.returncode != 0 and time.monotonic() - began < 12, done
    assert daemon.process.pid == keeper and daemon.process.alive()
    works(pair, daemon)
    assert "this vmsgrd goes on" in process.tail(daemon.log, 300)
    vmsgrd.upgraded(daemon)
    works(pair, daemon)


def hanging(daemon):
    """An upgrade that stands still before its worker stands by."""
    p = process.Process([*vmsgrd.injected(HANGS["before standby"]), vmsgrd.VMSGRD, "--upgrade", "--config", daemon.config])
    process.wait_until(lambda: "prepares to take over" in process.tail(daemon.log, 100), 10, "the upgrade to begin")
    return p


def test_a_second_upgrade_meanwhile_is_refused(daemon, pair):
    with hanging(daemon):
        done = daemon.upgrade()
        assert done.returncode == 1 and "another upgrade is under way" in done.stderr, done
    works(pair, daemon)


def test_an_order_to_stop_ends_both(daemon):
    with hanging(daemon) as new:
        assert daemon.stop() == 0
        process.wait_until(lambda: not new.alive(), 5, "the new one to end")
    assert not os.path.exists(daemon.socket)


# As it answers, gives the first entries, says that these were all, and says `yours`.
@pytest.mark.parametrize("nth, goes_on", [(1, False), (2, False), (3, False), (4, True)])
def test_an_old_keeper_that_is_killed_meanwhile(daemon, pair, nth, goes_on):
    """What it has not given is lost with it, as with any keeper that is killed; once it has given all, nothing is."""
    server, client = pair
    with DiesAt(daemon.process.pid, "sendmsg", nth):
        done = process.run([vmsgrd.VMSGRD, "--upgrade", "--config", daemon.config], check=False)
    assert daemon.process.wait(5) == -signal.SIGKILL
    assert (done.returncode == 0) == goes_on, done
    if goes_on:
        adopt(daemon, done)
        works(pair, daemon)
        vmsgrd.upgraded(daemon)
        works(pair, daemon)
    else:
        assert client("c.recv(1)").startswith("ConnectionResetError")
        with vmsgrd.Vmsgrd(os.path.dirname(daemon.socket), routes=WIRE) as again:
            assert again.status()["daemon"]["pid"] == again.process.pid
        daemon.process = None


def test_an_old_keeper_that_dies_before_it_has_handed_over_ends_the_new_one(daemon):
    with hanging(daemon) as new:
        for child in vmsgrd.descendants(new.pid):
            os.kill(child, signal.SIGCONT)
        daemon.process.kill()
        process.wait_until(lambda: not new.alive(), 10, "the new one to end")
    with vmsgrd.Vmsgrd(os.path.dirname(daemon.socket), routes=WIRE) as again:
        assert again.status()["daemon"]["pid"] == again.process.pid
    daemon.process = None


def test_the_service_manager_is_told_who_the_main_process_is(manager, here):  # noqa: F811
    m = manager(0.6)
    assert m.next().startswith("READY=1\n")
    old = m.daemon.pid
    done = process.run([vmsgrd.VMSGRD, "--upgrade", "--config", m.config])
    pid = int(re.search(r"pid (\d+)", done.stdout)[1])
    m.daemon.wait(5)
    m.daemon = process.Adopted(pid)
    assert pid != old
    assert m.next() == f"MAINPID={pid}"
    assert m.next().startswith("READY=1\nSTATUS=2 shards")
    m.socket.settimeout(2)
    for _ in range(3):
        assert m.socket.recv(4096) == b"WATCHDOG=1"
    m.daemon.signal(signal.SIGTERM)
    assert m.next().startswith("STOPPING=1\n")


def test_ten_in_a_row_under_load(here):
    seconds = 4 * UPGRADES + 6
    with vmsgrd.Vmsgrd(here, routes=ROUTES, memory="256M") as daemon, Load(daemon, here, seconds) as load, \
            Agent(daemon.prefix()) as beats:
        beats(f"!c = socket.create_connection(({DIRECT!r}, {int(load.echo_direct('l.getsockname()[1]'))}))")
        beats.run(BEATS)
        until = load.begin(seconds)
        beats.begin(f"beat({seconds - 2})")
        times, said = [], []
        for n in range(UPGRADES):
            time.sleep(max(0.0, until - seconds + 1 + 4 * n - time.monotonic()))
            began = time.monotonic()
            said.append(vmsgrd.upgraded(daemon))
            times.append((began, time.monotonic() + 0.3))
        asked, downloads = load.end(seconds), load.downloads
        assert beats.end(60).isdigit()
        pauses = longest_pauses_ms(beats, times)
        print("longest pause at each upgrade, ms:", [round(p) for p in pauses], "median", round(statistics.median(pauses)),
              "- as vmsgrd says:", said)
        for agent, n in zip(load.agents, asked):
            assert n.isdigit() and int(n) > UPGRADES, asked
            agent("t.join(30)")
            assert agent("(failed[:5], young[:5])") == "([], [])" and int(agent("made")) > 2 * seconds
        assert not downloads.failed and not downloads.young and downloads.good > seconds / 8, \
            (downloads.failed, downloads.young, downloads.good)
        load.check_the_long_ones()
        for bench in load.benches:
            bench.kill()
        sessions = daemon.status()["sessions"]
        assert len(sessions) == 7 and [s["faults"] for s in sessions] == [0] * 7
        assert statistics.median(pauses) <= PAUSE_MS, pauses
