"""A private sshd: for each connection it starts a process for the session, and one for the part before the login,
which has a seccomp filter; the programs of a session speak through pipes, or by a terminal. ssh, scp, sftp, forwarded
ports and a shared connection."""
import hashlib
import os
import random
import subprocess

import pytest

SSHD = "/usr/sbin/sshd"
pytestmark = [
    pytest.mark.skipif(not os.path.exists(SSHD), reason="no sshd: apt-get install openssh-server"),
    pytest.mark.skipif(os.geteuid() != 0, reason="sshd logs in its own user, root"),
]

CONFIG = """\
Port {port}
ListenAddress {address}
HostKey {dir}/host
PidFile none
AuthorizedKeysFile {dir}/user.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
PrintMotd no
Subsystem sftp internal-sftp
"""
ECHO = """
import socket, sys
l = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True:
    c = l.accept()[0]
    with c:
        while data := c.recv(65536):
            c.sendall(data)
"""
# Sends so many bytes through a forwarded port while it reads them back.
ROUND = """
import random, socket, sys, threading
data = random.Random(4).randbytes(3_000_000)
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as c:
    def send():
        c.sendall(data)
        c.shutdown(socket.SHUT_WR)
    sender = threading.Thread(target=send)
    sender.start()
    assert b"".join(iter(lambda: c.recv(65536), b"")) == data
    sender.join()
"""
PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="module")
def keys(world):
    directory = os.path.join(world.dir, "ssh")
    os.makedirs(directory)
    os.makedirs("/run/sshd", exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{directory}/{name}"], check=True)
    return directory


class Sshd:
    def __init__(self, ends, directory):
        self.ends, self.dir, self.port = ends, directory, ends.port()
        config = f"{directory}/config.{self.port}"
        with open(config, "w", encoding="ascii") as f:
            f.write(CONFIG.format(port=self.port, address=ends.address, dir=directory))
        self.process = ends.serve([SSHD, "-D", "-e", "-f", config], self.port)
        self.options = ["-F", "none", "-i", f"{directory}/user", "-o", "StrictHostKeyChecking=no",
                        "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={directory}/known", "-o", "LogLevel=ERROR"]

    def ssh(self, *words, **kw):
        return self.ends.run(["ssh", *self.options, "-p", self.port, f"root@{self.ends.address}", *words], **kw)


@pytest.fixture
def sshd(way, keys):
    return Sshd(way, keys)


def test_commands_have_input_output_and_exit_code(way, sshd):
    data = random.Random(1).randbytes(2_000_000)
    done = sshd.ssh("cat; echo last words >&2; exit 7", input=data, binary=True, check=False)
    assert done.returncode == 7
    assert done.stdout == data
    assert done.stderr == b"last words\n"
    way.check_seen(at_least=2 * len(data))


def test_a_terminal(sshd):
    done = sshd.ssh("-tt", "tty; stty size; exit 3", check=False)
    assert done.returncode == 3
    assert done.stdout.startswith("/dev/pts/")


def test_files_by_scp_and_sftp(way, sshd, tmp_path):
    data = random.Random(2).randbytes(3_000_000)
    (tmp_path / "a").write_bytes(data)
    there = f"root@{way.address}"
    scp = ["scp", "-q", *sshd.options, "-P", sshd.port]
    way.run([*scp, tmp_path / "a", f"{there}:{tmp_path}/b"])
    way.run([*scp, "-O", f"{there}:{tmp_path}/b", tmp_path / "c"])     # the old protocol
    batch = f"get {tmp_path}/c {tmp_path}/d\nput {tmp_path}/d {tmp_path}/e\nls {tmp_path}\n"
    way.run(["sftp", "-q", *sshd.options, "-P", sshd.port, "-b", "-", there], input=batch)
    for name in "bcde":
        assert hashlib.sha256((tmp_path / name).read_bytes()).digest() == hashlib.sha256(data).digest(), name
    way.check_seen(at_least=4 * len(data))


def test_forwarded_ports_and_a_shared_connection(way, sshd, tmp_path):
    to, here, there = way.port(), way.port(), way.port()
    way.serve([PYTHON, "-c", ECHO, way.address, to], to)
    control = ["-S", str(tmp_path / "control")]
    host = way.address
    sshd.ssh("-M", "-f", "-N", *control, "-o", "ExitOnForwardFailure=yes", "-L", f"{host}:{here}:{host}:{to}",
             "-R", f"{host}:{there}:{host}:{to}")
    try:
        for port in (here, there):
            way.run([PYTHON, "-c", ROUND, host, port])
        assert sshd.ssh(*control, "echo; cat", input="through the first one").stdout == "\nthrough the first one"
    finally:
        sshd.ssh(*control, "-O", "exit")
    way.check_seen(at_least=8 * 3_000_000)
