"""Calls that programs make around their sockets: handlers that jump out of them, threads that are cancelled in them, sandboxes,
limits, options that say something true."""
import subprocess

import pytest


@pytest.mark.parametrize("call", ["send", "recv"])
@pytest.mark.parametrize("how, rounds", [("jump", 200), ("cancel", 40), ("cancel-async", 40)])
def test_interrupted_call_leaves_the_connection_usable(ends, world, how, rounds, call):
    program = world.build("interrupted.c")
    port = ends.listen()
    ends.server.run(f"""
        def serve():
            s, a = l.accept()
            try:
                while s.recv(1 << 20) if {call == "send"} else (s.sendall(bytes(1 << 16)) or True):
                    pass
            except OSError:
                pass
        t = threading.Thread(target=serve, daemon=True)
        t.start()
    """)
    words = [*world.prefix(ends.mode[1]), program, str(port), how, call, str(rounds)]
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr[-200:]) == (0, b"fine\n", b"")


def test_strict_sandbox_may_read_and_write(ends):
    """PR_SET_SECCOMP with SECCOMP_MODE_STRICT: read, write, exit and sigreturn alone."""
    ends.pair()
    ends.server.run("""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(100)
        pid = os.fork()
        if pid == 0:
            n = s.fileno()
            if libc.prctl(22, 1, 0, 0, 0) == 0:
                libc.write(n, buffer, libc.read(n, buffer, 100))
                libc.syscall(60, 0)
            os._exit(9)
    """)
    ends.client("c.sendall(b'in the sandbox')")
    assert ends.client("c.recv(100)") == repr(b"in the sandbox")
    assert ends.server("os.waitpid(pid, 0)[1]") == "0"


def test_limit_of_file_sizes_is_not_met_by_a_connection(ends):
    """RLIMIT_FSIZE is about files: memory of ours above it would end the program by SIGXFSZ."""
    port = ends.listen()
    ends.client("!import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))")
    ends.client(f"!c = socket.create_connection(('127.0.0.1', {port})); c.settimeout(10)")
    ends.server("!s, a = l.accept()")
    ends.client("c.sendall(b'hello')")
    assert ends.server("s.recv(100)") == repr(b"hello")


def test_limit_of_file_sizes_of_a_server(ends):
    ends.server("!import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))")
    ends.pair()
    ends.client("c.sendall(b'hello')")
    assert ends.server("s.recv(100)") == repr(b"hello")


def test_close_in_a_child_leaves_the_parents_epoll_set_alone(ends):
    ends.pair()
    ends.server("!e = select.epoll(); e.register(s.fileno(), select.EPOLLIN)")
    ends.server.run("""
        pid = os.fork()
        if pid == 0:
            s.close()
            os._exit(0)
        os.waitpid(pid, 0)
    """)
    ends.client("c.sendall(b'x')")
    assert ends.server("e.poll(5)") == ends.server("[(s.fileno(), select.EPOLLIN)]")


def test_listener_in_many_epoll_sets(ends):
    ends.server("!l = socket.socket(); l.bind(('127.0.0.1', 0)); sets = [select.epoll() for i in range(30)]")
    ends.server("![e.register(l.fileno(), select.EPOLLIN) for e in sets]; l.listen(5)")
    port = int(ends.server("l.getsockname()[1]"))
    ends.client(f"!c = socket.create_connection(('127.0.0.1', {port}))")
    assert ends.server("sum(len(e.poll(5)) for e in sets)") == "30"


def test_peek_goes_on_where_it_ended(ends):
    """SO_PEEK_OFF."""
    ends.pair()
    ends.client("c.sendall(b'abcdefghij')")
    ends.server("!time.sleep(0.1); s.setsockopt(socket.SOL_SOCKET, 42, 0)")
    assert ends.server("[s.recv(3, socket.MSG_PEEK) for i in range(3)]") == repr([b"abc", b"def", b"ghi"])
    assert ends.server("(s.recv(4), s.recv(3, socket.MSG_PEEK))") == repr((b"abcd", b"j"))


def test_what_is_left_is_told(ends):
    """TCP_INQ: each recvmsg() tells how many bytes are left."""
    ends.pair()
    ends.client("c.sendall(b'abcdefghij')")
    ends.server("!time.sleep(0.1); s.setsockopt(socket.IPPROTO_TCP, 36, 1)")
    ends.server("!data, control, flags, a = s.recvmsg(4, 100)")
    assert ends.server("(data, [(x, y, struct.unpack('i', z)) for x, y, z in control])") == repr((b"abcd", [(6, 36, (6,))]))


@pytest.mark.parametrize("what", [
    "s.getsockopt(socket.SOL_SOCKET, 57, 8) == s.getsockopt(socket.SOL_SOCKET, 57, 8)",          # SO_COOKIE
    "struct.unpack('!HH4s', s.getsockopt(socket.SOL_SOCKET, 28, 8))[1:] == (s.getpeername()[1], b'\\x7f\\0\\0\\1')",   # SO_PEERNAME
    "s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b'\\1'",                            # established
    "s.getsockopt(socket.IPPROTO_IP, 14) > 1000",                                                # IP_MTU
    "s.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) > 1000",
    "s.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) > 100000"])
def test_options_tell_the_truth(ends, what):
    ends.pair()
    assert ends.server(what) == "True"


def test_owner_of_signals_survives_listen_and_connect(ends):
    port = ends.listen()
    ends.client("!import fcntl, signal; got = []; signal.signal(signal.SIGIO, lambda n, f: got.append(n))")
    ends.client("!c = socket.socket(); fcntl.fcntl(c, fcntl.F_SETOWN, os.getpid())")
    ends.client("!fcntl.fcntl(c, fcntl.F_SETFL, fcntl.fcntl(c, fcntl.F_GETFL) | os.O_ASYNC)")
    ends.client(f"!c.connect(('127.0.0.1', {port})); got.clear()")
    ends.server("!s, a = l.accept(); s.sendall(b'x')")
    ends.client("!time.sleep(0.3)")
    assert ends.client("(fcntl.fcntl(c, fcntl.F_GETOWN) == os.getpid(), len(got) > 0)") == "(True, True)"


@pytest.mark.parametrize("number", ["signal.SIGIO", "signal.SIGRTMIN + 3"])
def test_a_connection_that_stands_is_a_signal(ends, number):
    """Nothing was sent yet."""
    port = ends.listen()
    ends.client(f"!import fcntl, signal; got = []; signal.signal({number}, lambda n, f: got.append(n))")
    ends.client("!c = socket.socket(); fcntl.fcntl(c, fcntl.F_SETOWN, os.getpid())")
    ends.client(f"!{number} == signal.SIGIO or fcntl.fcntl(c, 10, {number})")   # F_SETSIG
    ends.client("!fcntl.fcntl(c, fcntl.F_SETFL, fcntl.fcntl(c, fcntl.F_GETFL) | os.O_ASYNC)")
    ends.client(f"!c.connect(('127.0.0.1', {port})); time.sleep(0.1)")
    assert ends.client(f"{number} in got") == "True"


def test_vectors_with_flags(ends):
    """preadv2 and pwritev2."""
    ends.pair()
    assert ends.client("os.pwritev(c.fileno(), [b'one', b'two'], -1)") == "6"
    ends.server("!select.select([s], [], [], 5); b = bytearray(4)")
    assert ends.server("os.preadv(s.fileno(), [b], -1, os.RWF_NOWAIT), bytes(b)") == repr((4, b"onet"))
    assert ends.server("os.preadv(s.fileno(), [b], -1), bytes(b[:2])") == repr((2, b"wo"))
    assert ends.server("os.preadv(s.fileno(), [b], -1, os.RWF_NOWAIT)").startswith("BlockingIOError [Errno 11]")
    assert ends.server("os.preadv(s.fileno(), [b], 0)") == "OSError [Errno 29] Illegal seek"
    assert ends.client("os.pwritev(c.fileno(), [b'x'], 7)") == "OSError [Errno 29] Illegal seek"


AIO = """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    def aio(call, fd, text):
        block = ctypes.create_string_buffer(168)
        struct.pack_into('=iiiiQQ', block, 0, fd, 0, 0, 0, ctypes.addressof(text), len(text))
        struct.pack_into('=i', block, 44, 1)
        assert call(block) == 0
        return block
    def done(block):
        while libc.aio_error(block) == 115:
            time.sleep(0.01)
        return libc.aio_error(block), libc.aio_return(block)
"""


def test_posix_aio(ends):
    """Reads and writes of libc's own threads; before and after them the program's."""
    ends.pair()
    ends.client.run(AIO)
    ends.server.run(AIO)
    ends.client("c.sendall(b'first ')")
    ends.client("!text = ctypes.create_string_buffer(b'second', 6); block = aio(libc.aio_write, c.fileno(), text)")
    assert ends.client("done(block)") == "(0, 6)"
    ends.client("c.sendall(b' third')")
    assert ends.server("s.recv(6, socket.MSG_WAITALL)") == repr(b"first ")
    ends.server("!text = ctypes.create_string_buffer(6); block = aio(libc.aio_read, s.fileno(), text)")
    assert ends.server("done(block), text.raw") == repr(((0, 6), b"second"))
    assert ends.server("s.recv(6, socket.MSG_WAITALL)") == repr(b" third")
    ends.server("s.sendall(b'and back')")
    assert ends.client("c.recv(8, socket.MSG_WAITALL)") == repr(b"and back")


@pytest.mark.parametrize("opened", ["ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_DEEPBIND)",
                                    "ctypes.CDLL(path, handle=libc.dlmopen(ctypes.c_long(-1), path.encode(), 2))"])
def test_plug_in_with_symbols_of_its_own(ends, world, opened):
    """RTLD_DEEPBIND and dlmopen(): what the plug-in calls is found in libc, past everything else."""
    plug_in = world.build("plug_in.c", "-shared", "-fPIC")
    ends.pair()
    load = f"""
        import ctypes
        path = {plug_in!r}
        libc = ctypes.CDLL(None)
        libc.dlmopen.restype = ctypes.c_void_p
        plug = {opened}
        text = ctypes.create_string_buffer(12)
    """
    ends.client("c.sendall(b'before ')")
    ends.client.run(load)
    assert ends.server("s.recv(7, socket.MSG_WAITALL)") == repr(b"before ")
    ends.server.run(load)
    assert ends.client("plug.plug_write(c.fileno(), b'within ', 7)") == "7"
    ends.client("c.sendall(b'after')")
    ends.server("!time.sleep(0.3)")
    assert ends.server("plug.plug_read(s.fileno(), text, 12), text.raw") == repr((12, b"within after"))
