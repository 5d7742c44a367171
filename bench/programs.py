"""Benches of programs that know nothing of VMSGR: sockperf, redis, nginx, iperf3."""
import csv
import io
import json
import os
import re

from record import CPU, Metric, cpu_metric
from world import DIRECT, TCP, UNIX, VMSGR, World, process, with_sockmap

NGINX = """\
daemon off;
worker_processes 1;
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
user root;
events {{ worker_connections 512; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  server {{
    listen 127.0.0.1:{port};
    root {dir}/www;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=10;
  }}
}}
"""


def number(pattern, text, what):
    found = re.search(pattern, text)
    if not found:
        raise process.Failed(f"{what} printed no '{pattern}':\n{text[-1500:]}")
    return float(found[1])


def sockperf(settings, recorder):
    """One-way messages, and ping-pong."""
    with World(settings) as world:
        ports = {v: world.port() for v in with_sockmap(TCP, VMSGR)}
        servers = {v: world.serve(v, ["sockperf", "server", "--tcp", "-i", "127.0.0.1", "-p", str(ports[v])],
                                  port=ports[v]) for v in ports}
        seconds = str(max(1, round(settings.seconds)))

        def run(variant, mode, size, *words):
            argv = ["sockperf", mode, "--tcp", "-i", "127.0.0.1", "-p", str(ports[variant]), "-m", str(size),
                    "-t", seconds, *words]
            out, cost = world.measure(variant, [servers[variant]], lambda: world.run(variant, argv).stdout)
            return out, cost

        def throughput(variant, size):
            out, cost = run(variant, "throughput", size)
            rate = number(r"Message Rate is (\d+)", out, "sockperf")
            return {"messages": rate / 1e3, CPU: cost.us_per(rate * float(seconds))}

        def ping_pong(variant):
            out, cost = run(variant, "ping-pong", 64, "--mps", "5000000")   # without: 600,000, and more is an error
            trips = number(r"\[Valid Duration\].*ReceivedMessages=(\d+)", out, "sockperf")
            return {"p50": number(r"percentile 50\.\d+ = *([\d.]+)", out, "sockperf"),
                    "p99": number(r"percentile 99\.0\d* = *([\d.]+)", out, "sockperf"), CPU: cost.us_per(trips)}

        for size in (64, 1024):
            recorder.alternate(f"sockperf tp {size} B", {v: lambda v=v: throughput(v, size) for v in ports}, {
                "messages": Metric("1000/s", targets={VMSGR: 2}), CPU: cpu_metric()}, paths=world.path_of)
        recorder.alternate("sockperf pp 64 B", {v: lambda v=v: ping_pong(v) for v in ports}, {
            "p50": Metric("us", higher=False, targets={VMSGR: 0.6}), "p99": Metric("us", higher=False),
            CPU: cpu_metric()}, paths=world.path_of)


# name -> (words of redis-benchmark, requests a second of run time, target for GET and SET)
REDIS = {"redis": (["-c", "50"], 50000, 1.4), "redis -c 1": (["-c", "1"], 25000, None),
         "redis -P 16": (["-c", "50", "-P", "16"], 400000, None)}


def redis(settings, recorder):
    """redis-benchmark SET and GET: 50 clients with one request in flight each, one client, and pipelines."""
    with World(settings) as world:
        servers, where = {}, {}
        for v in with_sockmap(TCP, UNIX, VMSGR):
            port = world.port()
            words, path = ["--port", str(port), "--bind", "127.0.0.1"], None
            where[v] = ["-h", "127.0.0.1", "-p", str(port)]
            if v == UNIX:
                path = f"{world.dir}/redis.sock"
                words, where[v] = ["--port", "0", "--unixsocket", path], ["-s", path]
            argv = ["redis-server", *words, "--save", "", "--appendonly", "no", "--dir", world.dir]
            servers[v] = world.serve(v, argv, path=path, port=None if path else port)

        def measure(variant, words, requests):
            found = {}
            for test in ("SET", "GET"):
                argv = ["redis-benchmark", *where[variant], *words, "-n", str(requests), "-t", test.lower(), "--csv"]
                out, cost = world.measure(variant, [servers[variant]], lambda a=argv: world.run(variant, a).stdout)
                rows = list(csv.DictReader(io.StringIO(out)))
                if [r["test"] for r in rows] != [test]:
                    raise process.Failed(f"redis-benchmark printed no {test}:\n{out[-500:]}")
                found |= {test: float(rows[0]["rps"]) / 1e3, f"{test} p50": float(rows[0]["p50_latency_ms"]) * 1e3,
                          f"{test} {CPU}": cost.us_per(requests)}
            return found

        for name, (words, rate, target) in REDIS.items():
            requests = int(rate * settings.seconds)
            metrics = {}
            for test in ("SET", "GET"):
                metrics |= {test: Metric("1000/s", targets={VMSGR: target} if target else None),
                            f"{test} p50": Metric("us", higher=False), f"{test} {CPU}": cpu_metric()}
            recorder.alternate(name, {v: lambda v=v: measure(v, words, requests) for v in servers}, metrics,
                               paths=world.path_of)


def nginx(settings, recorder):
    """wrk against one nginx worker: 1 KiB files, 32 connections that stay open."""
    with World(settings) as world:
        servers, urls = {}, {}
        for v in with_sockmap(TCP, VMSGR):
            port = world.port()
            directory = f"{world.dir}/nginx{port}"
            os.makedirs(f"{directory}/www")
            with open(f"{directory}/www/1k", "wb") as f:
                f.write(bytes(1024))
            config = f"{directory}/nginx.conf"
            with open(config, "w", encoding="ascii") as f:
                f.write(NGINX.format(dir=directory, port=port))
            urls[v] = f"http://127.0.0.1:{port}/1k"
            argv = ["nginx", "-c", config, "-p", directory, "-e", f"{directory}/start.log"]
            servers[v] = world.serve(v, argv, port=port)
        seconds = max(1, round(settings.seconds))

        def measure(variant):
            argv = ["wrk", "-t", "1", "-c", "32", "-d", f"{seconds}s", "--latency", urls[variant]]
            out, cost = world.measure(variant, [servers[variant]], lambda: world.run(variant, argv).stdout)
            errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
            if "Non-2xx" in out:
                raise process.Failed(f"wrk had wrong answers:\n{out}")
            return {"errors": sum(map(int, errors.groups())) if errors else 0,   # EAGAIN after EPOLLIN is one, too
                    "requests": number(r"Requests/sec: *([\d.]+)", out, "wrk") / 1e3,
                    CPU: cost.us_per(number(r"(\d+) requests in", out, "wrk"))}

        recorder.alternate("nginx 1 KiB, wrk", {v: lambda v=v: measure(v) for v in servers}, {
            "requests": Metric("1000/s", targets={VMSGR: 1.35}),
            "errors": Metric("a run", higher=False, worst=True, targets={TCP: 0, VMSGR: 0}), CPU: cpu_metric()},
            paths=world.path_of)


def iperf3(settings, recorder):
    """128 KiB writes: both ends attached, with and without local connections, and each end alone."""
    ends = {TCP: (TCP, TCP), VMSGR: (VMSGR, VMSGR), DIRECT: (DIRECT, DIRECT), "client routed": (VMSGR, TCP),
            "server routed": (TCP, VMSGR)}
    with World(settings) as world:
        def measure(variant):
            client, server = ends[variant]
            port = world.port()
            listening = world.serve(server, ["iperf3", "-s", "-1", "-p", str(port), "-B", "127.0.0.1"], port=port)
            argv = ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-J", "-t", str(max(1, round(settings.seconds))),
                    "-l", "131072"]
            out, _ = world.measure(variant, [], lambda: json.loads(world.run(client, argv).stdout))
            world.stop(listening)
            return {"throughput": out["end"]["sum_received"]["bits_per_second"] / 8e9}

        recorder.alternate("iperf3 128 KiB writes", {v: lambda v=v: measure(v) for v in ends}, {
            "throughput": Metric("GB/s", targets={DIRECT: 0.6, "client routed": 0.8, "server routed": 0.8})},
            paths=world.path_of)
