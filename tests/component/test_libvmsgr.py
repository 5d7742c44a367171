"""libvmsgr.so as a program meets it: compiled against, linked with, talking through a real vmsgrd to a real server."""
import errno
import hashlib
import os
import shutil
import socket
import subprocess
import threading

import fake
import pytest
from lib import process, vmsgrd
from lib.process import ROOT

pytestmark = pytest.mark.fast

RELEASE = os.path.dirname(vmsgrd.BIN)
LIB = os.path.join(RELEASE, "lib")
HERE = os.path.dirname(os.path.abspath(__file__))
BYTES = 1 << 20
CXX = r"""
#include <vmsgr/vmsgr.hh>
#include <cstdio>
int main(int, char** argv) {
    auto session = vmsgr::session::open(argv[1]);
    auto stream = session.and_then([](auto& s) { return s.carry(0, "cpp"); });
    if (!stream) {
        std::printf("%d %s\n", stream.error().errnum, stream.error().text.c_str());
        return 1;
    }
    const std::byte said[] = {std::byte{'h'}, std::byte{'i'}};
    std::byte heard[8];
    auto out = stream->send(said);
    auto in = stream->recv(heard);
    auto none = stream->recv(heard, MSG_DONTWAIT);
    std::printf("%zu %zu %c%c %d\n", out.value_or(0), in.value_or(0), char(heard[0]), char(heard[1]),
                none ? 0 : none.error().value());
    return 0;
}
"""


class Echo:
    """A TCP server that sends back what comes, and keeps its hash."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.hash = hashlib.sha256()
        self.peers = []
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                connection, peer = self.listener.accept()
            except OSError:
                return
            self.peers.append(peer[1])
            with connection:
                while data := connection.recv(65536):
                    self.hash.update(data)
                    connection.sendall(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)


def compiler(name):
    return shutil.which(f"{name}-14") or shutil.which(name)


def build(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "", done.stderr


@pytest.fixture(scope="module")
def programs():
    """(in C, in C++), compiled with every warning that the headers could cause."""
    here = process.make_dir("vl-")
    with open(f"{here}/a.cc", "w", encoding="ascii") as f:
        f.write(CXX)
    common = ["-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{ROOT}/include", f"-I{RELEASE}/include", f"-L{LIB}", f"-Wl,-rpath,{LIB}"]
    build([compiler("gcc"), "-std=c11", "-D_GNU_SOURCE", *common, "-o", f"{here}/c", f"{HERE}/libvmsgr_echo.c",
           "-lvmsgr", "-pthread"])
    build([compiler("g++"), "-std=c++23", *common, "-o", f"{here}/cc", f"{here}/a.cc", "-lvmsgr"])
    yield f"{here}/c", f"{here}/cc"
    process.remove_dir(here)


def test_a_mebibyte_goes_there_and_back(programs, daemon):
    data = os.urandom(BYTES)
    with Echo() as echo:
        p = subprocess.Popen([programs[0], daemon.socket, str(echo.port)], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
        p.stdin.write(data)
        p.stdin.flush()
        local, peer, count, verdict = p.stdout.readline().split()
        assert (int(peer), int(count), verdict) == (echo.port, BYTES, b"same")
        assert echo.hash.hexdigest() == hashlib.sha256(data).hexdigest()
        assert echo.peers == [int(local)]   # vmsgrd carries that very connection
        session = next(s for s in daemon.status()["sessions"] if s["pid"] == p.pid)
        assert session["program"] == "echo-test"
        p.stdin.close()
        p.stdout.close()
        assert p.wait(10) == 0


def test_the_connection_is_in_the_views_under_its_name(programs, daemon):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        p = subprocess.Popen([programs[0], daemon.socket, str(listener.getsockname()[1])], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
        p.stdin.write(bytes(BYTES))
        p.stdin.flush()
        accepted, peer = listener.accept()
        with accepted:
            accepted.recv(1)
            c = next(c for c in daemon.status()["connections"] if c["pid"] == p.pid)
            assert (c["route"], c["role"]) == ("by-hand", "client")
            assert c["local"] == f"127.0.0.1:{peer[1]}"
            assert "socket:" in os.readlink(f"/proc/{p.pid}/fd/{c['fd']}")
        # closed with data unread: reset, as TCP has it
        p.stdin.close()
        p.stdout.close()
        p.wait(10)


def test_cxx_header(programs, daemon):
    with Echo() as echo, socket.create_connection(("127.0.0.1", echo.port)) as s:
        done = subprocess.run([programs[1], daemon.socket], stdin=s, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (0, f"2 2 hi {errno.EAGAIN}\n"), done


def refused(program, path, env=None):
    done = subprocess.run([program, path] if path else [program], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=20, env={**os.environ, **(env or {})})
    assert done.returncode == 1, done
    return done.stdout


def test_refused_sessions_name_the_cause_and_the_next_step(programs, here):
    c = programs[0]
    missing = f"{here}/none.sock"
    no_daemon = f"no vmsgrd at {missing}: start it with vmsgrd --config FILE\n"
    assert refused(c, missing) == f"{errno.ENOENT} {no_daemon}"
    assert refused(c, None, {"VMSGR_SOCKET": missing}) == f"{errno.ENOENT} {no_daemon}"
    stale = f"{here}/stale.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.bind(stale)
    assert refused(c, stale).startswith(f"{errno.ECONNREFUSED} no vmsgrd at {stale}: start it")
    assert refused(c, "/x" * 60).startswith(f"{errno.ENAMETOOLONG} the path of a socket has at most 107")


def test_a_daemon_that_stops_answering_is_named(programs, here):
    with fake.Fake(f"{here}/odd.sock", [[fake.welcome(version=9)]]):
        assert f"{errno.EPROTO} {here}/odd.sock is another version's than libvmsgr" in refused(programs[0],
                                                                                             f"{here}/odd.sock")
    with fake.Fake(f"{here}/full.sock", [[fake.welcome(status=errno.EAGAIN, text=b"as many as it may")]]):
        assert refused(programs[0], f"{here}/full.sock") == f"{errno.EAGAIN} vmsgrd refused: as many as it may\n"
    with fake.Fake(f"{here}/mute.sock", []):
        assert f"{errno.ETIMEDOUT} vmsgrd at {here}/mute.sock does not answer" in refused(programs[0],
                                                                                       f"{here}/mute.sock")


def test_a_denied_address_is_refused_and_the_number_stays(programs, daemon):
    with socket.create_server(("127.0.0.9", 0)) as listener:   # a route of `daemon` denies it
        with socket.create_connection(listener.getsockname()) as s:
            done = subprocess.run([programs[1], daemon.socket], stdin=s, capture_output=True, text=True, timeout=20)
    assert done.stdout.startswith(f"{errno.EACCES} a route of vmsgrd denies 127.0.0.9:"), done


def test_only_vmsgr_names_are_exported():
    done = subprocess.run(["nm", "-D", "--defined-only", f"{LIB}/libvmsgr.so"], capture_output=True, text=True,
                          check=True)
    names = {line.split()[-1].split("@")[0] for line in done.stdout.splitlines() if line.split()[-2] != "A"}
    with open(f"{ROOT}/include/vmsgr/vmsgr.h", encoding="ascii") as f:
        declared = {line.split("(")[0].split()[-1].lstrip("*") for line in f if line.startswith("VMSGR_API")}
    assert names == declared


def test_it_stands_on_libc_alone():
    done = subprocess.run(["objdump", "-p", f"{LIB}/libvmsgr.so"], capture_output=True, text=True, check=True)
    needed = {line.split()[1] for line in done.stdout.splitlines() if "NEEDED" in line}
    assert needed <= {"libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"}
    assert "SONAME               libvmsgr.so.0" in done.stdout


def test_an_installed_tree_serves_pkg_config(here, daemon):
    cmake = ["cmake", "--install", os.path.dirname(LIB), "--prefix", here, "--component", "libvmsgr"]
    subprocess.run(cmake, check=True, stdout=subprocess.DEVNULL)
    pc = next(os.path.join(d, "pkgconfig") for d, folders, _ in os.walk(here) if "pkgconfig" in folders)
    words = subprocess.run(["pkg-config", "--cflags", "--libs", "vmsgr"], capture_output=True, text=True, check=True,
                           env={**os.environ, "PKG_CONFIG_PATH": pc}).stdout.split()
    build([compiler("gcc"), "-D_GNU_SOURCE", f"{HERE}/libvmsgr_echo.c", "-o", f"{here}/c", *words, "-pthread"])
    done = subprocess.run([f"{here}/c", daemon.socket], env={**os.environ, "LD_LIBRARY_PATH": os.path.dirname(pc)},
                          timeout=20)
    assert done.returncode == 0
