"""nginx under load: workers with a listener each (reuseport) that are replaced by a reload, and a program that is
replaced by another one, which gets the listeners by exec."""
import os
import shutil
import signal
import time

import pytest

from lib import process
from reloads import Load

PROGRAM = shutil.which("nginx")   # it starts its successor by this path
pytestmark = pytest.mark.skipif(not PROGRAM, reason="no nginx: apt-get install nginx-light")

CONFIG = """\
daemon off;
worker_processes 2;
pid {dir}/pid;
error_log {dir}/error.log warn;
{user}
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
  server {{ listen {address}:{port} {option}; location / {{ return 200 "served"; }} }}
}}
"""


class Nginx:
    def __init__(self, ends, option=""):
        self.ends, self.port = ends, ends.port()
        self.dir = ends.path(f"nginx-reload-{self.port}")
        os.makedirs(self.dir)
        with open(f"{self.dir}/conf", "w", encoding="ascii") as f:
            f.write(CONFIG.format(dir=self.dir, address=ends.address, port=self.port, option=option,
                                  user="user root;" if os.geteuid() == 0 else ""))
        # Its parent goes away once it runs: else it would not start a new program.
        start = (f"({PROGRAM} -c {self.dir}/conf -p {self.dir} -e {self.dir}/start.log & "
                 f"until [ -s {self.dir}/pid ]; do sleep 0.05; done); exec sleep infinity")
        self.process = ends.serve(["sh", "-c", start], self.port)
        process.wait_until(self.pid, 10, "nginx to write its number")

    def pid(self, name="pid"):
        try:
            with open(f"{self.dir}/{name}", encoding="ascii") as f:
                return int(f.read())
        except (OSError, ValueError):
            return 0


@pytest.mark.parametrize("option", ["", "reuseport"], ids=["shared", "reuseport"])
def test_reload_under_load(way, option):
    nginx = Nginx(way, option)
    with Load(way, nginx.port, "served") as load:
        for _ in range(4):
            os.kill(nginx.pid(), signal.SIGHUP)
            time.sleep(0.3)
    assert load.requests > 30
    way.check_carried(at_least=load.requests * 6)


def exists(pid):
    return os.path.exists(f"/proc/{pid}")


def test_a_new_program_takes_over(way):
    nginx = Nginx(way)
    with Load(way, nginx.port, "served") as load:
        old = nginx.pid()
        os.kill(old, signal.SIGUSR2)
        new = process.wait_until(lambda: nginx.pid() not in (0, old) and nginx.pid(), 10, "the new nginx")
        time.sleep(0.2)
        os.kill(old, signal.SIGQUIT)
        process.wait_until(lambda: not exists(old), 10, "the old nginx to end")
        time.sleep(0.2)
        assert nginx.pid() == new
    assert load.requests > 30
    way.check_carried(at_least=6)    # it clears the environment, so its successor has the kernel's listener
