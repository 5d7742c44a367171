"""The preload library and libvmsgr in programs of Debian 12, which share memory with programs of this system."""
import itertools
import os
import socket
import threading

import pytest
from conftest import FIRST_UID, LIBRARIES, RELEASE, UserSpace
from lib import process, vmsgrd
from lib.process import ROOT

_ports = itertools.count(23000)


class Redis:
    """Debian 12's redis-server, routed."""

    def __init__(self, old, users=None):
        self.port, self.log = next(_ports), f"{old.dir}/redis.log"
        words = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", "/tmp"]
        self.process = process.Process(old.enter(*words, users=users), log=self.log, name="redis-server")
        self.process.wait_ready(self._answers, 20, f"listen on port {self.port}")

    def _answers(self):
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def words(self, program, *more):
        return [program, "-h", "127.0.0.1", "-p", str(self.port), *more]


@pytest.fixture
def redis(old):
    made = Redis(old)
    yield made
    made.process.stop()


def local_bytes(old):
    return old.vmsgrd.status()["totals"]["bytes_local"]


def test_root_is_older_than_this_system(old):
    assert old.glibc == "2.36"


def test_redis_server_loads_the_library_and_nothing_else(old, redis):
    with open(f"/proc/{redis.process.pid}/maps", encoding="utf-8") as f:
        assert "libvmsgr-preload.so" in f.read()
    assert "ld.so" not in process.tail(redis.log, 100)
    loaded = []
    for routed in (False, True):
        traced = process.run(old.enter("env", "LD_TRACE_LOADED_OBJECTS=1", "redis-server", routed=routed))
        assert traced.stderr == ""
        loaded.append({line.split()[0] for line in traced.stdout.splitlines()})
    assert loaded[1] - loaded[0] == {f"{LIBRARIES}/libvmsgr-preload.so"}


@pytest.mark.parametrize("client", ["of-debian-12", "of-this-system"])
def test_values_go_through_shared_memory(old, redis, client):
    words = redis.words("redis-benchmark", "-n", "20000", "-c", "20", "-t", "set,get", "-d", "1000", "--csv")
    before = local_bytes(old)
    process.run(old.enter(*words) if client == "of-debian-12" else [*old.vmsgrd.prefix(), *words])
    assert local_bytes(old) - before >= 2 * 20000 * 1000
    cli = redis.words("redis-cli", "STRLEN", "key:__rand_int__")
    assert process.run(old.enter(*cli)).stdout.strip() == "1000"


def test_a_container_with_users_of_its_own_shares_memory_with_the_host(old):
    users = UserSpace()
    redis = Redis(old, users)
    try:
        [uid] = {s["uid"] for s in old.vmsgrd.status()["sessions"] if s["program"] == "redis-server"}
        assert uid == FIRST_UID
        words = redis.words("redis-benchmark", "-n", "20000", "-c", "20", "-t", "set,get", "-d", "1000", "--csv")
        for who in ([*old.vmsgrd.prefix(), *words], old.enter(*words, users=users)):
            before = local_bytes(old)
            process.run(who)
            assert local_bytes(old) - before >= 2 * 20000 * 1000
    finally:
        redis.process.kill()
        users.close()


def test_a_plain_client_is_served(old, redis):
    assert process.run(redis.words("redis-cli", "ECHO", "as ever")).stdout.strip() == "as ever"


@pytest.mark.parametrize("call", ["send", "recv"])
@pytest.mark.parametrize("how", ["jump", "cancel", "cancel-async"])
def test_threads_are_cancelled_by_their_own_libgcc(old, how, call):
    """glibc unwinds by the root's libgcc_s, through frames whose personality is the library's own."""
    program = old.build(f"{ROOT}/tests/cases/interrupted.c", "interrupted")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def serve():
            s, _ = listener.accept()
            try:
                while s.recv(1 << 20) if call == "send" else (s.sendall(bytes(1 << 16)) or True):
                    pass
            except OSError:
                pass
        threading.Thread(target=serve, daemon=True).start()
        done = process.run(old.enter(program, str(listener.getsockname()[1]), how, call, "40"), check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


def test_libvmsgr_opens_a_session_and_streams(old):
    options = [f"-I{ROOT}/include", f"-I{RELEASE}/include", f"-L{RELEASE}/lib", f"-Wl,-rpath,{LIBRARIES}", "-lvmsgr"]
    program = old.build(f"{ROOT}/tests/component/libvmsgr_echo.c", "echo", *options)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def echo():
            s, _ = listener.accept()
            while data := s.recv(1 << 16):
                s.sendall(data)
            s.close()
        threading.Thread(target=echo, daemon=True).start()
        words = old.enter(program, old.vmsgrd.socket, str(listener.getsockname()[1]), routed=False)
        done = process.run(words, input="x" * (1 << 20))
    assert done.stdout.split()[-1] == "same", done.stdout


def test_the_root_is_as_it_was(old):
    assert os.listdir(f"{old.path}/opt") == [] and os.listdir(f"{old.path}/tmp") == []
    assert vmsgrd.VMSGR.startswith(RELEASE)
