"""vmsgrd's keeper: the worker dies, stands still, or never gets up, and what programs and the service manager see of it."""
import contextlib
import json
import os
import signal
import socket
import struct
import time

import pytest

from lib import process, vmsgrd
from lib.agents import Agent

from held import Held
from test_supervised import manager  # noqa: F401

WIRE = [vmsgrd.route("wire", address="127.0.0.0/8", local="no")]
LOCAL = [vmsgrd.route("all", address="127.0.0.0/8")]
RESTART_S = 1.0


def daemon_status(daemon):
    return daemon.status()["daemon"]


def worker_after(daemon, old, limit_s=10):
    """The next worker's pid, once it answers."""
    def new():
        done = process.run([vmsgrd.VMSGR, "status", "--json", "--socket", daemon.socket], check=False, timeout_s=10)
        pid = json.loads(done.stdout)["daemon"]["worker_pid"] if done.returncode == 0 else None
        return pid if pid not in (None, old) and not json.loads(done.stdout).get("partial") else None
    return process.wait_until(new, limit_s, "another worker", every_s=0.02)


def gone(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
            return f.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def daemon(here):
    with vmsgrd.Vmsgrd(here, routes=WIRE) as running:
        yield running


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV], ids=str)
def test_a_worker_that_is_killed_is_replaced(daemon, number):
    before = daemon_status(daemon)
    assert before["worker_restarts"] == 0 and before["pid"] == daemon.process.pid and before["worker_pid"] == daemon.pid
    os.kill(daemon.pid, number)
    worker_after(daemon, before["worker_pid"])
    after = daemon_status(daemon)
    assert (after["pid"], after["worker_restarts"]) == (before["pid"], 1)
    assert f"was killed by {signal.Signals(number).name}; the next one starts" in process.tail(daemon.log, 200)
    assert daemon.stop() == 0


ECHO_SERVER = """
    l = socket.create_server(('127.0.0.1', 0), backlog=64)
    def serve():
        loop = select.epoll()
        loop.register(l, select.EPOLLIN)
        while True:
            loop.poll()
            try:
                s, _ = l.accept()
            except BlockingIOError:
                continue
            s.setblocking(True)
            try:
                s.sendall(s.recv(4))
            except OSError:
                pass
            s.close()
    l.setblocking(False)
    threading.Thread(target=serve, daemon=True).start()
    """


@pytest.mark.parametrize("routes", [WIRE, LOCAL], ids=["direct", "local"])
def test_listeners_come_back_and_new_connections_are_carried(here, routes):
    with vmsgrd.Vmsgrd(here, routes=routes) as daemon, Agent(daemon.prefix()) as server, Agent(daemon.prefix()) as client:
        server.run(ECHO_SERVER)
        port = int(server("l.getsockname()[1]"))
        for _ in range(3):
            pid = daemon.pid
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            worker_after(daemon, pid)
            process.wait_until(lambda: daemon.status()["listeners"], 5, "the listener")
            took_s = time.monotonic() - began
            client(f"!c = socket.create_connection(('127.0.0.1', {port}))")
            roles = lambda: {c["role"] for c in daemon.status()["connections"]}   # noqa: E731
            process.wait_until(lambda: roles() == {"client", "server"}, 2, "both ends to be carried")
            client("!c.sendall(b'ping')")
            assert client("c.recv(5, socket.MSG_WAITALL)") == "b'ping'"
            client("!c.close()")
            assert took_s < RESTART_S, took_s


def test_connects_all_the_time_never_fail(daemon):
    """A connect that comes while there is no worker waits for the next one, or is the kernel's."""
    with Agent(daemon.prefix()) as server, Agent(daemon.prefix()) as client:
        server.run(ECHO_SERVER)
        port = int(server("l.getsockname()[1]"))
        client.run(f"""
            made, failed, longest = 0, [], 0
            def connect():
                global made, longest
                began = time.monotonic()
                try:
                    c = socket.create_connection(('127.0.0.1', {port}), timeout=10)
                except OSError as e:
                    failed.append(repr(e))
                    return
                longest = max(longest, time.monotonic() - began)
                try:
                    c.sendall(b'ping'); c.recv(4)
                except ConnectionError:
                    pass      # it was under way when its worker was killed
                c.close(); made += 1
            def connects(seconds):
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    connect()
            """)
        client.begin("connects(4)")
        for _ in range(3):
            time.sleep(0.8)
            pid = daemon.pid
            os.kill(pid, signal.SIGKILL)
            worker_after(daemon, pid)
        client.end()
        assert client("failed[:5]") == "[]"
        assert int(client("made")) > 100 and float(client("longest")) < 3, client("(made, longest)")


def test_a_worker_that_is_stopped_is_replaced_within_3_s(daemon):
    pid = daemon.pid
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    worker_after(daemon, pid)
    took_s = time.monotonic() - began
    assert 1.5 < took_s < 3, took_s
    text = process.tail(daemon.log, 200)
    assert "has not moved for 2000 ms (watchdog_ms), its thread is in state T; it is killed" in text


def test_how_long_it_may_stand_still_is_configured(here):
    with vmsgrd.Vmsgrd(here, routes=WIRE, config="watchdog_ms: 300\n") as daemon:
        pid = daemon.pid
        os.kill(pid, signal.SIGSTOP)
        worker_after(daemon, pid)
        assert "has not moved for 300 ms" in process.tail(daemon.log, 200)


def test_a_debugger_may_hold_it(here):
    with vmsgrd.Vmsgrd(here, routes=WIRE, config="watchdog_ms: 300\n") as daemon:
        pid = daemon.pid
        threads = [s["thread"] for s in daemon.status()["shards"]]
        for held in (threads, threads[1:]):
            with Held(held):
                time.sleep(1)
        assert daemon.pid == pid and daemon_status(daemon)["worker_restarts"] == 0


def test_the_watchdog_can_be_turned_off(here):
    with vmsgrd.Vmsgrd(here, routes=WIRE, config="watchdog_ms: 0\n") as daemon:
        pid = daemon.pid
        os.kill(pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(pid, signal.SIGCONT)
        assert daemon_status(daemon)["worker_pid"] == pid


def test_a_keeper_that_was_stopped_itself_blames_nobody(here):
    with vmsgrd.Vmsgrd(here, routes=WIRE, config="watchdog_ms: 300\n") as daemon:
        pid = daemon.pid
        for number in (signal.SIGSTOP, signal.SIGCONT):   # as a terminal does, and a machine that sleeps
            for process_id in (daemon.process.pid, pid):
                os.kill(process_id, number)
            time.sleep(1)
        assert daemon.pid == pid


def test_workers_that_end_at_once_end_the_keeper(here):
    daemon = vmsgrd.Vmsgrd(here, routes=WIRE)
    daemon.start()
    until = time.monotonic() + 20
    while daemon.process.alive() and time.monotonic() < until:
        if pid := vmsgrd.child_of(daemon.process.pid, "vmsgrd-worker"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    assert daemon.process.wait(1) == 1
    text = process.tail(daemon.log, 200)
    assert "workers end too often, so vmsgrd ends" in text and "the next one starts in 1600 ms" in text, text
    assert not os.path.exists(daemon.socket)
    with vmsgrd.Vmsgrd(here, routes=WIRE) as again:
        assert again.status()["daemon"]["worker_restarts"] == 0


def test_while_nobody_can_serve_them_programs_are_turned_away_at_once(here):
    with vmsgrd.Vmsgrd(here, routes=WIRE) as daemon:
        while "starts in 1600 ms" not in process.tail(daemon.log, 200):
            if pid := vmsgrd.child_of(daemon.process.pid, "vmsgrd-worker"):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.settimeout(1)
            began = time.monotonic()
            s.connect(daemon.socket)
            try:
                assert s.recv(1) == b""
            except ConnectionResetError:
                pass
            assert time.monotonic() - began < 0.5
        worker_after(daemon, None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT], ids=str)
def test_told_to_end_while_a_worker_is_replaced_it_ends(daemon, number):
    process_, pid = daemon.process, daemon.pid
    os.kill(pid, signal.SIGKILL)
    process_.signal(number)
    assert process_.wait(10) in (0, 1)
    assert not os.path.exists(daemon.socket)
    daemon.process = None


def test_a_killed_worker_is_no_excuse_for_sigterm(daemon):
    pid = daemon.pid
    for delay_s in (0.0, 0.05, 0.2):
        os.kill(pid, signal.SIGKILL)
        pid = worker_after(daemon, pid)
        time.sleep(delay_s)
    assert daemon.stop() == 0


def test_a_worker_that_is_stopped_does_not_outlast_sigterm(here):
    daemon = vmsgrd.Vmsgrd(here, routes=WIRE, config="limits: {flush_ms: 100}\nwatchdog_ms: 0\n").start()
    os.kill(daemon.pid, signal.SIGSTOP)
    daemon.process.signal(signal.SIGTERM)
    assert daemon.process.wait(10) == 1
    assert "the worker has not stopped; it is killed" in process.tail(daemon.log)


def test_signals_to_the_whole_group_count_once(daemon):
    """A terminal, and a service manager, send a signal to all processes: the second SIGTERM would end it at once."""
    process_ = daemon.process
    os.killpg(process_.pid, signal.SIGTERM)
    assert process_.wait(10) == 0
    daemon.process = None


def test_the_worker_ends_with_its_keeper(daemon):
    worker, stats = daemon.pid, vmsgrd.child_of(daemon.process.pid, "vmsgrd-stats")
    os.kill(daemon.process.pid, signal.SIGKILL)
    process.wait_until(lambda: gone(worker), 1, "the worker to end", every_s=0.005)
    process.wait_until(lambda: gone(stats), 1, "the helper to end", every_s=0.005)


def test_a_stopped_worker_ends_with_its_keeper(daemon):
    worker = daemon.pid
    os.kill(worker, signal.SIGSTOP)
    os.kill(daemon.process.pid, signal.SIGKILL)
    process.wait_until(lambda: gone(worker), 1, "the worker to end", every_s=0.005)


def test_what_cannot_start_at_all_says_so_once(here, write, daemon_command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = daemon_command("--config", write(f"socket: {here}/v.sock\nshards: 1\nmemory: 64M\nroutes: []\n"
                                                f"trunk:\n  listen: 127.0.0.1:{port}\n"))
        assert done.code == 1 and str(port) in done.err and "next one" not in done.err, done


def test_a_reloaded_configuration_outlives_the_worker(daemon):
    with open(daemon.config, encoding="ascii") as f:
        text = f.read()
    with open(daemon.config, "w", encoding="ascii") as f:
        f.write(text.split("routes:")[0] + vmsgrd.routes_yaml([vmsgrd.route("other")]))
    daemon.process.signal(signal.SIGHUP)
    process.wait_until(lambda: daemon_status(daemon)["reloads"] == 1, 5, "the configuration is read")
    pid = daemon.pid
    os.kill(pid, signal.SIGKILL)
    worker_after(daemon, pid)
    names = [r["name"] for r in process.run_json([vmsgrd.VMSGR, "routes", "--json", "--socket", daemon.socket])]
    assert names == ["other"] and daemon_status(daemon)["reloads"] == 1


def test_the_service_manager_hears_of_each_worker(manager, here):  # noqa: F811
    m = manager(0.6)
    assert m.next().startswith("READY=1\n")
    m.socket.settimeout(5)
    os.kill(vmsgrd.child_of(m.daemon.pid, "vmsgrd-worker"), signal.SIGKILL)
    assert m.next() == "STATUS=a worker has ended; the next one starts"
    assert m.next() == "READY=1\nSTATUS=2 shards, 1 routes"
    for _ in range(3):
        assert m.socket.recv(4096) == b"WATCHDOG=1"
    m.daemon.signal(signal.SIGTERM)
    assert m.next().startswith("STOPPING=1\n")
    assert m.daemon.wait(20) == 0


def test_the_service_manager_hears_from_the_keeper_alone(here, write):
    """systemd takes the words of the main process (NotifyAccess=main)."""
    config = write(f"shards: 1\nmemory: 64M\nroutes: []\nsocket: {here}/v.sock\n", "v.yaml")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        s.bind(f"{here}/notify")
        s.settimeout(10)
        with process.Process([vmsgrd.VMSGRD, "--config", config], env={"NOTIFY_SOCKET": f"{here}/notify"}) as p:
            for kill in (False, True):
                if kill:
                    os.kill(vmsgrd.child_of(p.pid, "vmsgrd-worker"), signal.SIGKILL)
                _, ancillary, _, _ = s.recvmsg(4096, 1024)
                assert [struct.unpack("3i", data)[0] for _, _, data in ancillary] == [p.pid]
