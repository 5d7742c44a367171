"""curl against nginx: workers that fork, accept on a shared listener, edge-triggered epoll, sendfile or writev."""
import hashlib
import os
import random
import signal
import time

import pytest

CONFIG = """\
daemon off;
worker_processes 2;
pid {dir}/nginx.pid;
error_log {dir}/nginx-error.log warn;
{user}
events {{ worker_connections 512; }}
http {{
  access_log off;
  keepalive_requests 100000;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  server {{
    listen {host}:{port};
    location /sendfile/ {{ alias {dir}/www/; sendfile on; tcp_nopush on; }}
    location /copied/ {{ alias {dir}/www/; sendfile off; }}
  }}
}}
"""
SIZES = {"empty": 0, "small": 1024, "large": 10 << 20}


class Nginx:
    def __init__(self, ends):
        self.ends, self.port, self.sums = ends, ends.port(), {}
        directory = ends.path(f"nginx-{self.port}")
        os.makedirs(f"{directory}/www")
        dice = random.Random(3)
        for name, size in SIZES.items():
            data = dice.randbytes(size)
            self.sums[name] = hashlib.sha256(data).hexdigest()
            with open(f"{directory}/www/{name}", "wb") as f:
                f.write(data)
        config = f"{directory}/nginx.conf"
        with open(config, "w", encoding="ascii") as f:
            f.write(CONFIG.format(dir=directory, host=ends.url_host, port=self.port,
                                  user="user root;" if os.geteuid() == 0 else ""))
        self.process = ends.serve(["nginx", "-c", config, "-p", directory, "-e", f"{directory}/start.log"], self.port)

    def url(self, name, how="sendfile"):
        return f"http://{self.ends.url_host}:{self.port}/{how}/{name}"


@pytest.fixture
def nginx(ends):
    return Nginx(ends)


@pytest.mark.parametrize("how", ["sendfile", "copied"])
def test_files_arrive_whole(ends, nginx, how):
    for name, size in SIZES.items():
        done = ends.run(["curl", "-sSg", "--fail", nginx.url(name, how)], binary=True)
        assert len(done.stdout) == size
        assert hashlib.sha256(done.stdout).hexdigest() == nginx.sums[name], f"{name} by {how}"
    ends.check_carried(at_least=sum(SIZES.values()))


def test_one_connection_serves_many_requests(ends, nginx):
    urls = [nginx.url("small")] * 200
    outputs = ["-o", "/dev/null"] * len(urls)
    done = ends.run(["curl", "-sSg", "--fail", "-w", "%{num_connects} %{size_download}\n", *outputs, *urls])
    lines = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert lines == [(1, 1024)] + [(0, 1024)] * 199
    ends.check_carried(at_least=200 * 1024)


def test_many_parallel_downloads(ends, nginx):
    directory = ends.path(f"got-{nginx.port}")
    os.makedirs(directory)
    config = "".join(f'url = "{nginx.url("small" if n % 20 else "large")}"\noutput = "{directory}/{n}"\n'
                     for n in range(200))
    ends.run(["curl", "-sSg", "--fail", "-Z", "--parallel-immediate", "--parallel-max", "60", "-K", "-"], input=config,
             timeout_s=60)
    for n in range(200):
        with open(f"{directory}/{n}", "rb") as f:
            assert hashlib.sha256(f.read()).hexdigest() == nginx.sums["small" if n % 20 else "large"], f"download {n}"
        os.unlink(f"{directory}/{n}")
    ends.check_carried(at_least=10 * (10 << 20) + 190 * 1024)


def test_slow_reader_gets_everything(ends, nginx):
    done = ends.run(["curl", "-sSg", "--fail", "--limit-rate", "8M", nginx.url("large")], binary=True, timeout_s=30)
    assert hashlib.sha256(done.stdout).hexdigest() == nginx.sums["large"]
    ends.check_carried(at_least=10 << 20)


def test_reload_goes_on_serving(ends, nginx):
    for _ in range(3):
        nginx.process.signal(signal.SIGHUP)   # new workers inherit the listener, old ones leave
        for _ in range(5):
            done = ends.run(["curl", "-sSg", "--fail", nginx.url("small")], binary=True)
            assert hashlib.sha256(done.stdout).hexdigest() == nginx.sums["small"]
            time.sleep(0.05)
    ends.check_carried(at_least=15 * 1024)
