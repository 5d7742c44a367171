"""Listeners that outlive, or do not outlive, the programs that their program has started."""
import subprocess
import time

import pytest

STARTS = {
    "vfork": "subprocess.run(['true'])",
    "fork": "subprocess.run(['true'], preexec_fn=lambda: None)",
    "spawn": "os.waitpid(os.posix_spawnp('true', ['true'], os.environ), 0)",
    "shell": "os.system('true')",
}
BIND = """
import socket, sys, time
until = time.monotonic() + float(sys.argv[2])
while True:
    try:
        socket.create_server(('127.0.0.1', int(sys.argv[1])))
        break
    except OSError:
        if time.monotonic() > until:
            raise
"""


def refused(client, port):
    return client(f"socket.create_connection(('127.0.0.1', {port}), 5)").startswith("ConnectionRefusedError")


def can_bind(port, patience_s):
    return subprocess.run(["/usr/bin/python3", "-c", BIND, str(port), str(patience_s)], check=False).returncode == 0


@pytest.mark.parametrize("how", STARTS)
def test_port_is_free_after_close_though_programs_were_started(ends, how):
    port = ends.listen()
    ends.server("!" + STARTS[how])
    ends.server("!l.close()")
    assert refused(ends.client, port)
    assert can_bind(port, 0)


def test_port_is_free_after_a_kill_though_programs_were_started(ends):
    port = ends.listen()
    ends.server("!" + STARTS["vfork"])
    ends.server.kill()
    assert can_bind(port, 0.5)
    assert refused(ends.client, port)


def test_nobody_reaches_a_listener_whose_last_process_was_just_killed(ends):
    """The process has ended when its pidfd says so, and a connect is refused from then on."""
    if ends.mode in ("rp", "rr"):
        pytest.skip("by TCP the daemon's copy of the socket is reached for a moment longer")
    for _ in range(20):
        port = ends.listen()
        ends.server.run("""
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            l.close()
        """)
        pid = ends.server("pid")
        ends.client.run(f"""
            c = socket.create_connection(('127.0.0.1', {port}), 5)
            told = os.pidfd_open({pid})
            again = socket.socket()
            os.kill({pid}, 9)
            select.select([told], [], [])
            got = again.connect_ex(('127.0.0.1', {port}))
        """)
        assert ends.client("os.strerror(got)") == repr("Connection refused")
        assert ends.client("c.recv(1)").startswith("ConnectionResetError")
        ends.client("!os.close(told)")
        ends.server("!os.waitpid(pid, 0)")


@pytest.mark.parametrize("environment", ["os.environ", "{}"], ids=["heir", "alien"])
def test_child_goes_on_listening_when_its_parent_has_closed(ends, environment):
    """It has the listener as its standard input; afterwards it says on which number it was asked."""
    port = ends.listen()
    child = ("import socket; l = socket.socket(fileno=0)\n"
             "for n in range(5): c = l.accept()[0]; c.sendall(b'%d' % n); c.close()")
    ends.server(f"!p = subprocess.Popen(['/usr/bin/python3', '-c', {child!r}], stdin=l, env={environment}); l.close()")
    for n in range(5):
        assert ends.client(f"(c := socket.create_connection(('127.0.0.1', {port}), 5)).recv(9)") == repr(b"%d" % n)
    assert ends.server("p.wait(10)") == "0"
    until = time.monotonic() + 0.5
    while not refused(ends.client, port):
        assert time.monotonic() < until


def test_parent_goes_on_listening_beside_an_alien(ends):
    """The alien only holds the listener. Who accepts is the parent, by poll and select alone between its calls."""
    port = ends.listen()
    ends.server("!p = subprocess.Popen(['/bin/sleep', '60'], stdin=l, env={})")
    for call in ("select.select([l], [], [], 5)[0] == [l]",
                 "bool((q := select.poll(), q.register(l, 1))[0].poll(5000))",
                 "bool((e := select.epoll(), e.register(l, 1))[0].poll(5))"):
        ends.client.begin(f"(c := socket.create_connection(('127.0.0.1', {port}), 5)).recv(9)")
        assert ends.server(call) == "True"
        ends.server("!s = l.accept()[0]; s.sendall(b'hello'); s.close()")
        assert ends.client.end() == repr(b"hello")
    ends.server("!l.close()")
    assert not refused(ends.client, port)     # the alien has it
    ends.server("!p.kill(); p.wait()")
    until = time.monotonic() + 0.5
    while not refused(ends.client, port):
        assert time.monotonic() < until
