"""The Prometheus endpoint: what it says, in its bytes; hostile scrapers; alerts, dashboard and documents."""
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request

import pytest
from lib import process, vmsgrd

from held import Held
from test_views import Program

ROOT = process.ROOT
ROUTES = [vmsgrd.route("wire", address="127.0.0.0/8", local="no")]
RULES = os.path.join(ROOT, "packaging/prometheus/vmsgr.rules.yml")
DASHBOARD = os.path.join(ROOT, "packaging/grafana/vmsgr.json")
SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)+)\})? (\d+(?:\.\d{1,6})?)')
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


@pytest.fixture(scope="module")
def daemon():
    port = process.free_port()
    with vmsgrd.Vmsgrd(process.make_dir("vm-"), routes=ROUTES, config=f"metrics: {{listen: {port}}}\n") as running:
        running.metrics = port
        yield running


def get(daemon, path="/metrics"):
    with urllib.request.urlopen(f"http://127.0.0.1:{daemon.metrics}{path}", timeout=10) as answer:
        return answer.read().decode("ascii"), answer.headers


def say(daemon, data):
    with socket.create_connection(("127.0.0.1", daemon.metrics), timeout=10) as s:
        s.sendall(data)
        text = b""
        while piece := s.recv(65536):
            text += piece
    return text.decode("ascii")


class Metrics:
    """families: name -> (type, help). values: (name, frozenset of labels) -> number."""

    def __init__(self, text):
        self.families, self.values = {}, {}
        name = None
        for line in text.splitlines():
            if line.startswith("# HELP "):
                _, _, name, help_ = line.split(" ", 3)
                assert name not in self.families, name
            elif line.startswith("# TYPE "):
                assert line.split(" ")[2] == name
                self.families[name] = (line.split(" ")[3], help_)
            else:
                found = SAMPLE.fullmatch(line)
                assert found and found[1] in [name + s for s in ("", "_bucket", "_sum", "_count")], line
                key = (found[1], frozenset(LABEL.findall(found[2] or "")))
                assert key not in self.values, line
                self.values[key] = float(found[3])

    def sum(self, name, **labels):
        return sum(v for (n, l), v in self.values.items() if n == name and set(labels.items()) <= l)


def metrics(daemon):
    return Metrics(get(daemon)[0])


def test_promtool_finds_nothing_wrong(daemon):
    text, headers = get(daemon)
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout + done.stderr == "", done


def test_names_types_and_units_follow_the_conventions(daemon):
    for name, (kind, help_) in metrics(daemon).families.items():
        assert name.startswith("vmsgr_") and help_.endswith("."), (name, help_)
        assert (kind == "counter") == name.endswith("_total"), (name, kind)
        if kind == "histogram":
            assert name.endswith("_seconds"), name


def test_it_counts_what_programs_did(daemon):
    before = metrics(daemon)
    with Program(daemon.prefix(), "serve", "127.0.0.1", 0) as server:
        _, port, _ = server.says()
        with Program(daemon.prefix(), "connect", "127.0.0.1", port) as client:
            server.says(), client.says()
            client.does("send", 54321)
            server.does("receive", 54321)
            client.says(), server.says()
            after = metrics(daemon)
            for name in ("vmsgr_sent_bytes_total", "vmsgr_received_bytes_total", "vmsgr_route_sent_bytes_total",
                         "vmsgr_route_received_bytes_total"):
                assert after.sum(name) - before.sum(name) == 54321, name
            assert after.sum("vmsgr_connections_total") - before.sum("vmsgr_connections_total") == 2
            assert after.sum("vmsgr_route_connections_total", route="wire") - \
                before.sum("vmsgr_route_connections_total", route="wire") == 2
            process.wait_until(lambda: metrics(daemon).sum("vmsgr_sessions") >= 2, 5, "the sessions to be shown")


def test_names_that_programs_choose_are_no_labels(daemon):
    own = daemon.prefix([vmsgrd.route("theirs", address="127.0.0.0/8", local="no")])
    before = metrics(daemon).sum("vmsgr_route_connections_total", route="(other)")
    with Program(own, "serve", "127.0.0.1", 0) as server:
        _, port, _ = server.says()
        with Program(own, "connect", "127.0.0.1", port) as client:
            server.says(), client.says()
    text, _ = get(daemon)
    assert "theirs" not in text and Metrics(text).sum("vmsgr_route_connections_total", route="(other)") == before + 2


def test_a_program_that_does_not_read_is_a_stall(daemon):
    more = 8 << 20
    with Program(daemon.prefix(), "serve", "127.0.0.1", 0) as server:
        _, port, _ = server.says()
        with Program(daemon.prefix(), "connect", "127.0.0.1", port) as client:
            server.says(), client.says()
            before = metrics(daemon).sum("vmsgr_route_program_stall_seconds_sum")
            client.does("send", more)
            process.wait_until(lambda: metrics(daemon).sum("vmsgr_stalled_connections", by="program") == 1, 10,
                               "the stall to be shown")
            assert any(c["program_stalls_s"] and c["pid"] == server.pid and c["unread_bytes"] > 0
                       for c in daemon.status()["connections"])
            server.does("receive", more)
            client.says(), server.says()
            after = metrics(daemon)
            assert after.sum("vmsgr_stalled_connections") == 0
            assert after.sum("vmsgr_route_program_stall_seconds_sum") - before >= 1
            of_all = after.sum("vmsgr_route_program_stall_seconds_bucket", le="+Inf", route="wire")
            assert of_all == after.sum("vmsgr_route_program_stall_seconds_count", route="wire") >= 1


def test_it_answers_while_all_shards_are_held(daemon):
    threads = [s["thread"] for s in daemon.status()["shards"]]
    with Held(threads):
        began = time.monotonic()
        held = metrics(daemon)
        took_s = min([time.monotonic() - began] + [timed_get(daemon) for _ in range(4)])
    assert held.sum("vmsgr_shard_up") == 0 and took_s < 0.1, took_s
    assert metrics(daemon).sum("vmsgr_shard_up") == 2


def timed_get(daemon):
    began = time.monotonic()
    get(daemon)
    return time.monotonic() - began


BAD = [(b"\r\n\r\n", 400), (b"GET\r\n\r\n", 400), (b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 2000, 431),
       (b"GET /nothing HTTP/1.1\r\n\r\n", 404), (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
       (b"GET /metrics HTTP/9.1\r\n\r\n", 505), (b"GET metrics HTTP/1.1\r\n\r\n", 400),
       (b"GET /\0 HTTP/1.1\r\n\r\n", 400), (b"\xff" * 9000, 431)]


@pytest.mark.parametrize("data,status", BAD, ids=lambda v: str(v)[:20])
def test_a_bad_request_gets_its_status(daemon, data, status):
    assert say(daemon, data).startswith(f"HTTP/1.1 {status} ")


def test_head_has_no_body_and_pieces_make_a_request(daemon):
    head = say(daemon, b"HEAD /metrics HTTP/1.1\r\n\r\n")
    assert head.endswith("\r\n\r\n") and int(re.search(r"Content-Length: (\d+)", head)[1]) > 1000
    with socket.create_connection(("127.0.0.1", daemon.metrics), timeout=10) as s:
        for piece in (b"GET /me", b"trics HTTP/1.0\r", b"\n\r", b"\n"):
            s.sendall(piece)
            time.sleep(0.05)
        assert s.recv(12) == b"HTTP/1.1 200"


def test_slow_scrapers_hold_nobody_up_and_are_cut(daemon):
    slow = [socket.create_connection(("127.0.0.1", daemon.metrics), timeout=10) for _ in range(200)]
    try:
        for s in slow:
            s.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert metrics(daemon).sum("vmsgr_shard_up") == 2
        began = time.monotonic()
        for s in slow:
            try:
                assert s.recv(1) == b""
            except ConnectionResetError:
                pass
        assert time.monotonic() - began < 8
    finally:
        for s in slow:
            s.close()


def test_who_does_not_read_the_answer_is_cut(daemon):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        s.connect(("127.0.0.1", daemon.metrics))
        s.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        time.sleep(0.2)
        assert metrics(daemon).sum("vmsgr_shard_up") == 2


def test_without_the_key_nothing_listens_and_mistakes_are_named(daemon_command, daemon, write, here):
    with vmsgrd.Vmsgrd(here, routes=ROUTES, name="dark") as dark:
        listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
        assert f"pid={dark.pid}," not in listening
    for text, says in [("{}", "'listen' is missing"), ("{listen: 0}", "metrics.listen"), ("{port: 1}", "unknown key"),
                       ("{listen: x}", "is not a port"), ("{listen: 127.0.0.1}", "is not a port")]:
        done = daemon_command("--config", write(f"socket: {here}/v.sock\nmetrics: {text}\n"))
        done.refused(2, says)
    done = daemon_command("--config", write(f"socket: {here}/v.sock\nmetrics: {{listen: {daemon.metrics}}}\n"))
    done.refused(1, "cannot listen on 127.0.0.1", "choose another port")


def names_in(expression):
    return set(re.findall(r"\bvmsgr_[a-z_]+", expression))


def test_alerts_and_dashboard_ask_for_metrics_that_exist(daemon):
    found = metrics(daemon).families
    known = {n + s for n in found for s in ("", "_bucket", "_sum", "_count") if (s != "") == (found[n][0] == "histogram")}
    with open(RULES, encoding="ascii") as f:
        assert names_in(f.read()) <= known
    with open(DASHBOARD, encoding="ascii") as f:
        board = json.load(f)
    for panel in board["panels"]:
        for target in panel["targets"]:
            used = names_in(target["expr"])
            assert used and used <= known, (panel["title"], used - known)


def test_each_alert_fires_when_it_must(here):
    assert subprocess.run(["promtool", "check", "rules", RULES], capture_output=True).returncode == 0
    with open(os.path.join(os.path.dirname(__file__), "alerts.test.yml"), encoding="ascii") as f:
        cases = f.read().replace("RULES", RULES)
    with open(os.path.join(here, "alerts.yml"), "w", encoding="ascii") as f:
        f.write(cases)
    done = subprocess.run(["promtool", "test", "rules", f"{here}/alerts.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_scrapes_it_and_answers_the_dashboard(daemon, here):
    port = process.free_port()
    config = os.path.join(here, "prometheus.yml")
    with open(config, "w", encoding="ascii") as f:
        f.write("global: {scrape_interval: 250ms, evaluation_interval: 250ms}\n"
                f"rule_files: ['{RULES}']\n"
                "scrape_configs:\n- job_name: vmsgr\n"
                f"  static_configs: [{{targets: ['127.0.0.1:{daemon.metrics}']}}]\n")
    words = [shutil.which("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={here}/data",
             f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]

    def ask(query):
        url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]["result"]

    def up():
        try:
            return ask('up{job="vmsgr"} == 1') and ask("rate(vmsgr_shard_cpu_seconds_total[5s])")
        except OSError:
            return False
    with process.Process(words, log=f"{here}/prometheus.log", name="prometheus"):
        process.wait_until(up, 30, "Prometheus to have scraped the daemon")
        assert [r["value"][1] for r in ask("sum(vmsgr_shard_up)")] == ["2"]
        with open(DASHBOARD, encoding="ascii") as f:
            board = json.load(f)
        for panel in board["panels"]:
            for target in panel["targets"]:
                query = target["expr"].replace("$instance", ".*").replace("$__rate_interval", "5s")
                ask(query)   # it is one, or urlopen raises
