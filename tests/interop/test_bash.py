"""bash's /dev/tcp: the shell connects by itself, reads a byte at a time, has the connection under several numbers, and
starts programs on it, with it as their input and output."""
import hashlib
import os
import random

import pytest

PYTHON = "/usr/bin/python3"
# Answers each line that it gets in capitals; `bytes N` gets so many bytes, `sum` the hash of all that follows.
SERVER = """
import hashlib, random, socket, sys, threading

def serve(c):
    with c, c.makefile("rwb") as f:
        for line in f:
            words = line.split()
            if words[:1] == [b"bytes"]:
                f.write(random.Random(1).randbytes(int(words[1])))
                break
            if words == [b"sum"]:
                f.write(hashlib.sha256(f.read()).hexdigest().encode() + b"\\n")
                break
            f.write(line.upper())
            f.flush()

l = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=50)
while True:
    threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
"""


@pytest.fixture
def bash(way):
    port = way.port()
    way.serve([PYTHON, "-c", SERVER, way.address, port], port)

    def run(script, **kw):
        return way.run(["bash", "-euc", script], env={"at": f"/dev/tcp/{way.address}/{port}"}, timeout_s=30, **kw)
    return run


def test_the_shell_itself_talks(way, bash):
    done = bash('exec 3<>$at; for n in {1..200}; do echo "line $n" >&3; read -r answer <&3; echo "$answer"; done; '
                'exec 4>&3 3>&-; echo last >&4; read -r -t 5 -u 4 answer; printf "%s\\n" "$answer"')
    assert done.stdout.splitlines() == [f"LINE {n}" for n in range(1, 201)] + ["LAST"]
    way.check_seen(at_least=200)


def test_programs_on_its_connection(way, bash, tmp_path):
    size = 3_000_000
    data = random.Random(1).randbytes(size)
    (tmp_path / "data").write_bytes(data)
    sent = hashlib.sha256(data).hexdigest()
    done = bash(f'exec 3<>$at; echo bytes {size} >&3; cat <&3 | sha256sum; exec 3<>$at; '
                f'{{ echo hello; echo bytes {size}; }} >&3; read -r answer <&3; echo $answer; '
                f'head -c {size} <&3 > {tmp_path}/got; '
                f'exec 3>&-; sha256sum < {tmp_path}/got')
    assert done.stdout.splitlines() == [f"{sent}  -", "HELLO", f"{sent}  -"]
    # Its own input and output, and those of a program that only sends: the end of file has to follow.
    done = bash(f'exec 3<>$at; (echo sum; cat {tmp_path}/data) >&3; {PYTHON} -c \'import socket; '
                'socket.socket(fileno=3).shutdown(socket.SHUT_WR)\'; cat <&3; '
                '(exec <>$at >&0; echo to stdio; read -r answer; echo "got $answer" >&2; '
                'python3 -c "print(\'from a child\')"; read -r answer; echo "got $answer" >&2)')
    assert done.stdout == sent + "\n"
    assert done.stderr == "got TO STDIO\ngot FROM A CHILD\n"
    way.check_seen(at_least=3 * size)


@pytest.mark.skipif(not os.path.exists("/usr/bin/env"), reason="no env")
def test_a_child_without_our_environment(way, bash):
    done = bash('exec 3<>$at; env -i sh -c "echo from a stranger >&3; head -n 1 <&3"; echo more >&3; head -n 1 <&3')
    assert done.stdout == "FROM A STRANGER\nMORE\n"
    way.check_seen(at_least=2)
