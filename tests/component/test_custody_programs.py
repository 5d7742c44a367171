"""A minute of programs that know nothing of vmsgr, whose worker is killed once a second: iperf3 both ways, redis, curl,
200 idle connections, and connects all the time, direct and local. VMSGR_KILL_SECONDS=600 for ten minutes (`make test-kills`)."""
import contextlib
import datetime
import hashlib
import json
import os
import re
import threading
import time

from lib import process, vmsgrd
from lib.agents import Agent
from lib.loads import CONNECTS, ECHO

from test_custody import Killer, OLD_S
from test_keeper import worker_after

SECONDS = int(os.environ.get("VMSGR_KILL_SECONDS", "60"))
DIRECT, LOCAL = "127.0.0.1", "127.0.0.2"
ROUTES = [vmsgrd.route("direct", address=DIRECT, local="no"), vmsgrd.route("local", address=LOCAL)]
PORTS = {"iperf3": 7101, "redis": 7102, "http": 7103}

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


class Load:
    """iperf3 both ways, redis, downloads with hashes, idle connections and connects all the time, direct and local. Its servers
    are those of the daemon; `seconds`: how long iperf3 runs."""

    def __init__(self, daemon, here, seconds):
        self.daemon, self.here = daemon, here
        data = os.urandom(16 << 20)
        with open(os.path.join(here, "data"), "wb") as f:
            f.write(data)
        self.hash = hashlib.sha256(data).hexdigest()
        self.iperf3 = started(daemon, here, "iperf3", PORTS["iperf3"], "iperf3", "-s", "-1", "-B", DIRECT, "-p", PORTS["iperf3"])
        redis = started(daemon, here, "redis", PORTS["redis"], "redis-server", "--port", PORTS["redis"], "--bind", LOCAL, DIRECT,
                        "--save", "", "--appendonly", "no", "--dir", here)
        http = started(daemon, here, "http", PORTS["http"], "/usr/bin/python3", "-m", "http.server", "--bind", DIRECT, PORTS["http"])
        with contextlib.ExitStack() as ended:
            self.echo_direct, echo_local, direct, local = (ended.enter_context(Agent(daemon.prefix())) for _ in range(4))
            self.agents = (direct, local)
            for server, client, host in ((self.echo_direct, direct, DIRECT), (echo_local, local, LOCAL)):
                server(f"!HOST = {host!r}")
                server.run(ECHO)
                client(f"!AT = ({host!r}, {int(server('l.getsockname()[1]'))})")
                client.run(CONNECTS)
            self._agents_end = ended.pop_all()
        self.benches = [process.Process([*daemon.prefix(), "redis-benchmark", "-h", host, "-p", str(PORTS["redis"]),
                                         "-c", "5", "-l", "-q", "-t", "set,get", "-n", "1000000000", "-d", "256"],
                                        log=os.path.join(here, f"bench.{host}.log")) for host in (DIRECT, LOCAL)]
        self.client = process.Process([*daemon.prefix(), "iperf3", "-c", DIRECT, "-p", PORTS["iperf3"], "-J", "--bidir",
                                       "-b", "300M", "-t", seconds], log=os.path.join(here, "iperf3.json"))
        self._programs = [*self.benches, self.client, self.iperf3, redis, http]
        time.sleep(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._agents_end.close()
        for program in self._programs:   # their ports are those of the next load
            program.kill()

    def begin(self, seconds):
        """Connects, questions and downloads; when they are over, on the clock of time.monotonic()."""
        until = time.monotonic() + seconds
        self.downloads = Downloads(self.daemon.prefix(), f"http://{DIRECT}:{PORTS['http']}/data", os.path.join(self.here, "got"),
                                   self.hash, until)
        for agent in self.agents:
            agent(f"!t = threading.Thread(target=connects, args=({seconds - 2},)); t.start()")
            agent.begin(f"asks({seconds - 2})")
        return until

    def end(self, seconds):
        """How many questions were answered, as each agent says it."""
        asked = [agent.end(seconds + 30) for agent in self.agents]
        self.downloads.join(60)
        return asked

    def check_the_long_ones(self):
        assert all(bench.alive() for bench in self.benches), [process.tail(b.log) for b in self.benches]
        assert (self.client.wait(30), self.iperf3.wait(30)) == (0, 0), process.tail(self.client.log)
        with open(self.client.log, encoding="ascii") as f:
            end = json.loads(f.read())["end"]
        assert min(end["sum_received"]["bytes"], end["sum_received_bidir_reverse"]["bytes"]) > 100 << 20


def test_programs_do_not_notice_that_workers_are_killed(here):
    with vmsgrd.Vmsgrd(here, routes=ROUTES, memory="256M") as daemon, Load(daemon, here, SECONDS - 5) as load:
        with Killer(daemon, every_s=1.0) as killer:
            load.begin(SECONDS)
            asked = load.end(SECONDS)
        assert killer.kills + killer.spared >= SECONDS * 0.8 and killer.kills >= SECONDS * 0.4, (killer.kills, killer.spared)
        ready, downloads = ready_at(daemon), load.downloads
        print(f"{killer.kills} kills in {SECONDS} s; {downloads.good} downloads, {len(downloads.young)} were reset")
        for agent, n, how in zip(load.agents, asked, ("direct", "local")):
            print(f"{how}: {n} rounds of questions, {agent('made')} connects, longest {agent('longest')} s, "
                  f"{len(json.loads(agent('young')))} were reset")
            assert n.isdigit() and int(n) > SECONDS / 4, asked   # a busy machine may do little
            agent("t.join(30)")
            assert int(agent("asks(0.01)")) > 0   # nobody sleeps whom only the next kill would wake
            assert agent("failed[:5]") == "[]" and int(agent("made")) > 5 * SECONDS
            assert float(agent("longest")) < 3
            assert not_excused(json.loads(agent("young")), killer.at, ready) == []
        assert not downloads.failed and downloads.good > SECONDS / 6, (downloads.failed, downloads.good)
        assert not_excused(downloads.young, killer.at, ready) == []
        load.check_the_long_ones()
        for bench in load.benches:
            bench.kill()
        worker_after(daemon, None)   # the last kill may have been a moment ago
        sessions = daemon.status()["sessions"]
        assert len(sessions) == 6 and [s["faults"] for s in sessions] == [0] * 6
