"""A minute of programs that know nothing of vmsgr, whose worker is killed once a second: iperf3 both ways, redis, curl,
200 idle connections, and connects all the time, direct and local."""
import datetime
import hashlib
import json
import os
import re
import threading
import time

from lib import process, vmsgrd
from lib.agents import Agent

from test_custody import Killer, OLD_S

SECONDS = 60
DIRECT, LOCAL = "127.0.0.1", "127.0.0.2"
ROUTES = [vmsgrd.route("direct", address=DIRECT, local="no"), vmsgrd.route("local", address=LOCAL)]
PORTS = {"iperf3": 7101, "redis": 7102, "http": 7103}

ECHO = """
    l = socket.create_server((HOST, 0), backlog=512)
    l.setblocking(False)
    def serve():
        loop = select.epoll()
        loop.register(l, select.EPOLLIN)
        open_ = {}
        while True:
            for fd, what in loop.poll():
                if fd == l.fileno():
                    try:
                        s, _ = l.accept()
                    except BlockingIOError:
                        continue
                    s.setblocking(False)
                    open_[s.fileno()] = s
                    loop.register(s, select.EPOLLIN)
                    continue
                s = open_[fd]
                try:
                    b = s.recv(100)
                    if b:
                        s.sendall(b)
                        continue
                except BlockingIOError:
                    continue
                except OSError:
                    pass
                loop.unregister(fd)
                del open_[fd]
                s.close()
    threading.Thread(target=serve, daemon=True).start()
    """

# young: when a connection that was reset had been made; made: of those that were not.
CONNECTS = """
    made, longest, young, failed = 0, 0, [], []
    def connect():
        global made, longest
        began = time.monotonic()
        c = socket.create_connection(AT, timeout=20)
        up = time.monotonic()
        longest = max(longest, up - began)
        try:
            c.sendall(b'ping')
            got = c.recv(4)
            made += 1
            if got != b'ping':
                failed.append(got)
        except ConnectionError:
            young.append(up)
        c.close()
    def connects(seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                connect()
            except BaseException as e:
                failed.append(repr(e))
            time.sleep(0.003)
    idle = [socket.create_connection(AT, timeout=30) for _ in range(100)]
    def asks(seconds):
        until, n = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            for i, c in enumerate(idle):
                word = b'%d-%d' % (n, i)
                c.sendall(word)
                got = c.recv(100)
                assert got == word, (i, got, word)
            time.sleep(0.1)
            n += 1
        return n
    """


class Downloads(threading.Thread):
    """curl, one after the other, each for about two seconds; what it gets is compared by its hash."""

    def __init__(self, prefix, url, to, right, until):
        super().__init__(daemon=True)
        self.prefix, self.url, self.to, self.right, self.until = prefix, url, to, right, until
        self.good, self.young, self.failed = 0, [], []
        self.start()

    def run(self):
        while time.monotonic() < self.until:
            began = time.monotonic()
            done = process.run([*self.prefix, "curl", "-sS", "--limit-rate", "8M", "--max-time", "30", "-o", self.to,
                                "-w", "%{time_connect}", self.url], check=False, timeout_s=40)
            if done.returncode != 0:
                self.young.append(began + float(done.stdout.replace(",", ".") or 0))
                if done.returncode not in (55, 56):   # it was reset
                    self.failed.append((done.returncode, done.stderr))
                continue
            with open(self.to, "rb") as f:
                if hashlib.sha256(f.read()).hexdigest() != self.right:
                    self.failed.append("wrong bytes")
            self.good += 1


def ready_at(daemon):
    """When each worker was ready, on the clock of time.monotonic()."""
    since = time.time() - time.monotonic()
    with open(daemon.log, encoding="utf-8", errors="replace") as f:
        found = re.findall(r"^INFO +(\S+ \S+) .*vmsgrd - vmsgrd \S+ ready:", f.read(), re.MULTILINE)
    return [datetime.datetime.strptime(t, "%Y-%m-%d %H:%M:%S,%f").timestamp() - since for t in found]


def not_excused(young, kills, ready, slack_s=0.15):
    """When those were made that were reset, although their worker had carried them for long enough."""
    def carried_since(t):
        last = max((k for k in kills if k < t), default=0)
        return max(t, min((r for r in ready if r > last), default=t))
    return [t for t in young
            if not any(-slack_s < k - t and k - carried_since(t) < OLD_S + slack_s for k in kills)]


def started(daemon, here, name, port, *words):
    server = process.Process([*daemon.prefix(), *words], log=os.path.join(here, f"{name}.log"), name=name, cwd=here)
    process.wait_until(lambda: [x for x in daemon.status()["listeners"] if x["address"].endswith(f":{port}")], 15, name)
    return server


def test_programs_do_not_notice_that_workers_are_killed(here):
    with open(os.path.join(here, "data"), "wb") as f:
        data = os.urandom(16 << 20)
        f.write(data)
    with vmsgrd.Vmsgrd(here, routes=ROUTES, memory="256M") as daemon:
        iperf3 = started(daemon, here, "iperf3", PORTS["iperf3"], "iperf3", "-s", "-1", "-B", DIRECT, "-p", PORTS["iperf3"])
        started(daemon, here, "redis", PORTS["redis"], "redis-server", "--port", PORTS["redis"], "--bind", LOCAL, DIRECT,
                "--save", "", "--appendonly", "no", "--dir", here)
        started(daemon, here, "http", PORTS["http"], "/usr/bin/python3", "-m", "http.server", "--bind", DIRECT, PORTS["http"])
        with Agent(daemon.prefix()) as echo_direct, Agent(daemon.prefix()) as echo_local, \
                Agent(daemon.prefix()) as direct, Agent(daemon.prefix()) as local:
            agents = (direct, local)
            for server, client, host in ((echo_direct, direct, DIRECT), (echo_local, local, LOCAL)):
                server(f"!HOST = {host!r}")
                server.run(ECHO)
                client(f"!AT = ({host!r}, {int(server('l.getsockname()[1]'))})")
                client.run(CONNECTS)
            benches = [process.Process([*daemon.prefix(), "redis-benchmark", "-h", host, "-p", str(PORTS["redis"]),
                                        "-c", "5", "-l", "-q", "-t", "set,get", "-n", "1000000000", "-d", "256"],
                                       log=os.path.join(here, f"bench.{host}.log")) for host in (DIRECT, LOCAL)]
            client = process.Process([*daemon.prefix(), "iperf3", "-c", DIRECT, "-p", PORTS["iperf3"], "-J", "--bidir",
                                      "-b", "300M", "-t", SECONDS - 5], log=os.path.join(here, "iperf3.json"))
            time.sleep(1)
            until = time.monotonic() + SECONDS
            with Killer(daemon, every_s=1.0) as killer:
                downloads = Downloads(daemon.prefix(), f"http://{DIRECT}:{PORTS['http']}/data",
                                      os.path.join(here, "got"), hashlib.sha256(data).hexdigest(), until)
                for agent in agents:
                    agent(f"!t = threading.Thread(target=connects, args=({SECONDS - 2},)); t.start()")
                    agent.begin(f"asks({SECONDS - 2})")
                asked = [agent.end(SECONDS + 30) for agent in agents]
                downloads.join(60)
            assert killer.kills >= SECONDS * 0.8, killer.kills
            ready = ready_at(daemon)
            for agent, n in zip(agents, asked):
                assert n.isdigit() and int(n) > SECONDS, asked
                agent("t.join(30)")
                assert agent("failed[:5]") == "[]" and int(agent("made")) > 20 * SECONDS
                assert float(agent("longest")) < 3
                assert not_excused(json.loads(agent("young")), killer.at, ready) == []
            assert not downloads.failed and downloads.good > SECONDS / 6, (downloads.failed, downloads.good)
            assert not_excused(downloads.young, killer.at, ready) == []
            assert all(bench.alive() for bench in benches), [process.tail(b.log) for b in benches]
            assert (client.wait(30), iperf3.wait(30)) == (0, 0), process.tail(client.log)
            with open(client.log, encoding="ascii") as f:
                end = json.loads(f.read())["end"]
            assert min(end["sum_received"]["bytes"], end["sum_received_bidir_reverse"]["bytes"]) > 100 << 20
            for bench in benches:
                bench.kill()
            sessions = daemon.status()["sessions"]
            assert len(sessions) == 6 and [s["faults"] for s in sessions] == [0] * 6
