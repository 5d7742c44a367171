"""Processes that were forked past fork(): by system calls (vsftpd), by _Fork() and by clone(). Nothing runs the handlers of
pthread_atfork() there; still parent and child share what they have, and nothing that they make afterwards."""
import subprocess

import pytest

WAYS = ["fork", "_Fork", "clone", "sys-fork", "sys-clone", "sys-clone3"]


@pytest.mark.parametrize("how", WAYS)
def test_both_make_connections_and_use_the_one_they_had(ends, world, how):
    port = ends.listen()
    ends.server.run("""
        def echo(s):
            with s:
                while data := s.recv(1 << 16):
                    s.sendall(data)
        def serve():
            while True:
                threading.Thread(target=echo, args=(l.accept()[0],), daemon=True).start()
        l.listen(64)
        threading.Thread(target=serve, daemon=True).start()
    """)
    words = [*world.prefix(ends.mode[1]), world.build("forks.c"), "connect", str(port), how]
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr[-200:]) == (0, b"fine\n", b"")


@pytest.mark.parametrize("how", WAYS)
def test_a_child_serves_what_its_parent_has_accepted_and_closed(ends, world, how):
    words = [*world.prefix(ends.mode[0]), world.build("forks.c"), "serve", how]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = int(server.stdout.readline())
            ends.client.run(f"""
                cs = [socket.create_connection(('127.0.0.1', {port}), 20) for _ in range(12)]
                for n in range(20):
                    for i, c in enumerate(cs):
                        data = random.Random(n * 100 + i).randbytes(10000)
                        c.sendall(data)
                        got = c.recv(10000, socket.MSG_WAITALL)
                        assert got == data, (n, i, len(got))
                for c in cs:
                    c.shutdown(socket.SHUT_WR)
                    assert c.recv(1) == b''
            """)
        finally:
            server.kill()
