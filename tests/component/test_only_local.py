"""Routes via: local: memory between programs of this host, the kernel's TCP to others. Two hosts, one of them with a daemon."""
import json
import os
import shutil
import signal
import time

import pytest
from lib import netns, process, vmsgrd
from lib.agents import AGENT, Agent
from test_keeper import worker_after

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs network namespaces")

LISTEN = """
l = socket.create_server((HOST, 7350), family=socket.AF_INET6 if ':' in HOST else socket.AF_INET, backlog=128)
l.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
kept = []
def serve(count):
    for _ in range(count):
        c, peer = l.accept()
        kept.append(c)
        threading.Thread(target=echo, args=(c,), daemon=True).start()
def echo(c):
    while data := c.recv(65536):
        c.sendall(data)
    c.close()
"""
ASK = """
def connect():
    global s
    s = socket.create_connection((HOST, 7350), 10)
def ask(size):
    data = os.urandom(size)
    t = threading.Thread(target=s.sendall, args=(data,))
    t.start()
    got = b""
    while len(got) < size:
        got += s.recv(65536)
    t.join()
    return got == data
"""
KIND = "os.readlink('/proc/self/fd/%d' % {0}.fileno()) and {0}.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)"


@pytest.fixture
def hosts():
    with netns.Network(["a", "b"]) as n:
        yield n


@pytest.fixture(params=["10.99.0.1", "fd99::1"], ids=["v4", "v6"])
def there(request):
    return request.param


@pytest.fixture
def daemon(hosts, here):
    with vmsgrd.Vmsgrd(here, routes=[vmsgrd.route("here", ports="7300-7399", via="local")], netns=hosts["a"], name="a") as d:
        yield d


def server(daemon, host, at):
    a = Agent(daemon.prefix(), inside=host)
    a(f"!HOST = {at!r}")
    a.run(LISTEN)
    return a


def client(words, host, to):
    a = Agent(words, inside=host)
    a(f"!HOST = {to!r}")
    a.run(ASK)
    return a


def of_tcp(host, port):
    """The kernel's established connections there, and who has them."""
    return [s for s in netns.tcp_sockets(host) if port in (s.local[1], s.peer[1])]


def explained(daemon, pid, fd):
    done = process.run([vmsgrd.VMSGR, "explain", "--socket", daemon.socket, "--json", str(pid), str(fd)], netns=daemon.netns,
                       check=False)
    return json.loads(done.stdout)["reason"]


def test_other_hosts_have_tcp_and_this_one_memory(hosts, daemon, there):
    with server(daemon, hosts["a"], there) as s, client([], hosts["b"], there) as far, \
            client(daemon.prefix(), hosts["a"], there) as near:
        s("!threading.Thread(target=serve, args=(2,), daemon=True).start()")
        far("!connect()")
        assert far("ask(3_000_000)") == "True"
        totals = daemon.status()["totals"]
        assert totals["accepts_by_route"] == 1 and totals["accepts_passed_on"] == 0
        assert totals["bytes_direct"] == totals["bytes_local"] == 0 and daemon.status()["connections"] == []
        # The server's own, and no copy with the daemon.
        owners = [s.pids for s in of_tcp(hosts["a"], 7350) if s.peer[1] != 7350]
        assert owners == [{s.process.pid}]
        assert s("kept[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)") == "1"
        assert s("kept[0].getpeername()[:2]") == far("s.getsockname()[:2]")
        assert s("os.get_inheritable(kept[0].fileno())") == "False"
        fd = int(s("kept[0].fileno()"))
        assert explained(daemon, s.process.pid, fd) == "other_host"

        near("!connect()")
        assert near("ask(3_000_000)") == "True"
        totals = daemon.status()["totals"]
        assert totals["bytes_local"] >= 6_000_000 and totals["bytes_direct"] == 0 and totals["accepts_by_route"] == 1


def test_a_client_of_it_connects_to_another_host_by_itself(hosts, daemon):
    there = hosts["b"].address
    with Agent([], inside=hosts["b"]) as s, client(daemon.prefix(), hosts["a"], there) as c:
        s(f"!HOST = {there!r}")
        s.run(LISTEN)
        s("!threading.Thread(target=serve, args=(1,), daemon=True).start()")
        c("!connect()")
        assert c("ask(1_000_000)") == "True"
        assert [x.pids for x in of_tcp(hosts["a"], 7350)] == [{c.process.pid}]
        status = daemon.status()
        assert status["connections"] == [] and status["totals"]["bytes_direct"] == 0
        assert [x["fell_back"] for x in status["sessions"]] == [0]


def test_a_daemon_that_comes_and_goes_leaves_them_alone(hosts, daemon):
    there = hosts["a"].address
    with server(daemon, hosts["a"], there) as s, client([], hosts["b"], there) as first, client([], hosts["b"], there) as second, \
            client([], hosts["b"], there) as third:
        s("!threading.Thread(target=serve, args=(3,), daemon=True).start()")
        first("!connect()")
        assert first("ask(100_000)") == "True"
        worker = daemon.pid
        os.kill(worker, signal.SIGKILL)
        worker_after(daemon, worker)
        second("!connect()")
        assert second("ask(100_000)") == "True" and first("ask(100_000)") == "True"
        process.wait_until(lambda: daemon.status()["totals"]["accepts_by_route"] == 1, 5, "the next worker to have passed it on")
        daemon.stop()
        third("!connect()")
        assert all(c("ask(100_000)") == "True" for c in (first, second, third))


def test_a_storm_of_them_is_as_fast_as_the_kernel(hosts, daemon):
    """Each passes through the daemon once; none waits for a timer."""
    there = hosts["a"].address
    with server(daemon, hosts["a"], there) as s, client([], hosts["b"], there) as c:
        c.run("""
            def storm(count):
                began = time.monotonic()
                for _ in range(count):
                    with socket.create_connection((HOST, 7350), 10) as x:
                        x.sendall(b"x")
                        assert x.recv(1) == b"x"
                return time.monotonic() - began
        """)
        s("!threading.Thread(target=serve, args=(2000,), daemon=True).start()")
        assert float(c("storm(2000)")) < 20
        assert daemon.status()["totals"]["accepts_by_route"] == 2000


def test_who_does_not_accept_holds_nobody_else_up(hosts, daemon):
    there = hosts["a"].address
    with server(daemon, hosts["a"], there) as s, Agent(daemon.prefix(), inside=hosts["a"]) as lazy, \
            client([], hosts["b"], there) as c:
        lazy(f"!l = socket.create_server(({there!r}, 7351), backlog=512)")
        assert c(f"len([x for x in [socket.create_connection(({there!r}, 7351), 10) for _ in range(300)] "
                 "if not globals().setdefault('all', []).append(x)])") == "300"
        process.wait_until(lambda: daemon.status()["totals"]["accepts_by_route"] == 300, 10, "all of them to lie in its queue")
        s("!threading.Thread(target=serve, args=(1,), daemon=True).start()")
        c("!connect()")
        assert c("ask(100_000)") == "True"
        assert lazy("len([l.accept() for _ in range(300)])") == "300"


def test_a_connect_that_the_kernel_has_begun_stays_its_own(hosts, daemon):
    """The queues are full, so it is under way when the program asks again and there is room by then."""
    there = hosts["a"].address
    with Agent(daemon.prefix(), inside=hosts["a"]) as s, Agent(daemon.prefix(), inside=hosts["a"]) as c:
        s(f"!l = socket.create_server(({there!r}, 7352), backlog=0)")
        c.run(f"""
            def is_up(x, ms):
                p = select.poll()
                p.register(x, select.POLLOUT)
                return bool(p.poll(ms))
            all = []
            for _ in range(20):
                x = socket.socket()
                x.setblocking(False)
                first = x.connect_ex(({there!r}, 7352))
                all.append(x)
                if not is_up(x, 300):
                    break
        """)
        made = int(c("len(all)"))
        assert made < 20 and c("first") == "115"
        s("!got = [l.accept()[0]]")
        time.sleep(0.1)
        assert c(f"all[-1].connect_ex(({there!r}, 7352))") in ("114", "106")
        s(f"!got += [l.accept()[0] for _ in range({made - 1})]")
        assert c("all[-1].connect_ex((%r, 7352)) if is_up(all[-1], 10_000) else None" % there) in ("0", "106")
        c("![x.send(b'%d' % n) for n, x in enumerate(all)]")
        assert s("sorted(int(x.recv(9)) for x in got)") == str(list(range(made)))
        assert s("select.select([l], [], [], 0.5)[0]") == "[]"


def test_an_heir_of_another_name_leaves_them_to_the_kernel_too(hosts, here):
    worker = os.path.join(here, "worker")
    shutil.copy(os.path.realpath("/usr/bin/python3"), worker)
    routes = [vmsgrd.route("here", program="python*", ports="7300-7399", via="local"),
              vmsgrd.route("other", program="worker", ports="1-2")]
    with vmsgrd.Vmsgrd(here, routes=routes, netns=hosts["a"], name="a") as daemon, \
            Agent(daemon.prefix(), inside=hosts["a"]) as s, client([], hosts["b"], hosts["a"].address) as c:
        s(f"!l = socket.create_server(({hosts['a'].address!r}, 7350))")
        s("!os.set_inheritable(l.fileno(), True)")
        fd = s("l.fileno()")
        s("!os.environ['PYTHONHOME'] = '/usr'")
        ready = "print('ready', flush=True)" + AGENT
        assert s(f"!os.execv({worker!r}, [{worker!r}, '-c', {ready!r}])") == "ready"
        s(f"!l = socket.socket(fileno={fd})")
        for _ in range(2):
            process.wait_until(lambda: daemon.status()["listeners"], 10, "the heir to listen through the daemon")
            s.begin("!c = l.accept()[0]; c.sendall(c.recv(9)); c.close(); c = l.accept()")
            c("!connect()")
            assert c("s.send(b'x') and s.recv(9)") == "b'x'"
            totals = daemon.status()["totals"]
            assert totals["accepts_by_route"] == 1 and totals["bytes_direct"] == 0
            daemon.stop()
            daemon.start()   # it listens again, as its ancestor had: who sleeps in accept() is woken
            c("!connect()")
            assert s.end() == "None"
