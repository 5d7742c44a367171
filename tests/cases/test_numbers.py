"""A number that meant a connection and means something else: no byte of the one reaches the other."""
import pytest


@pytest.mark.parametrize("how", ["close", "dup2"])
def test_blocked_send_goes_on_with_the_connection(ends, how):
    """The thread's call lasts as long as on a kernel socket, and its bytes arrive; the new file gets none of them."""
    ends.pair()
    ends.server("!s.settimeout(20)")
    ends.client(f"""!data = random.randbytes(12000000); how = {how!r}; done = []""")
    ends.client.run("""
        c.setblocking(True)
        number = c.detach()
        t = threading.Thread(target=lambda: done.append(os.write(number, data)))
        t.start()
        time.sleep(0.4)
        a, b = socket.socketpair()
        if how == 'close':
            os.close(number)
            new = os.dup(a.fileno())
        else:
            new = os.dup2(a.fileno(), number)
        b.sendall(b'hello')
    """)
    assert ends.client("new == number") == "True"
    ends.server.run("""
        got = bytearray()
        while b := s.recv(1 << 20):
            got += b
    """)
    ends.client("!t.join(10)")
    assert ends.client("len(data) - sum(done)") == "0"
    assert ends.server("(len(got), hashlib.sha256(got).hexdigest())") == ends.client(
        "(len(data), hashlib.sha256(data).hexdigest())")
    ends.client("!b.setblocking(False)")
    assert ends.client("b.recv(100)").startswith("BlockingIOError")   # nobody wrote to it
    assert ends.client("os.read(new, 100)") == repr(b"hello")         # and nobody took from it


def test_blocked_receive_goes_on_with_the_connection(ends):
    ends.pair()
    ends.client.run("""
        c.setblocking(True)
        number, got = c.detach(), []
        t = threading.Thread(target=lambda: got.append(os.read(number, 100)))
        t.start()
        time.sleep(0.4)
        a, b = socket.socketpair()
        os.close(number)
        new = os.dup(a.fileno())
        b.sendall(b'hello')
    """)
    ends.server("!s.sendall(b'abcdef')")
    ends.client("!t.join(10)")
    assert ends.client("(new == number, got)") == repr((True, [b"abcdef"]))
    assert ends.client("os.read(new, 100)") == repr(b"hello")


@pytest.mark.parametrize("opens", [
    "os.open(path, os.O_RDWR)", "os.memfd_create('m')", "os.eventfd(0)", "os.dup(spare)"])
def test_number_closed_behind_the_library(ends, world, opens):
    """By a system call that no hook can see; the number is a file afterwards, and works as one."""
    ends.pair()
    ends.client(f"!path = '{world.dir}/file.{ends.mode}'; open(path, 'w').close(); spare = os.open(path, os.O_RDWR)")
    ends.client.run(f"""
        import ctypes
        # mov $3 (close), %eax; syscall; ret
        code = b'\\xb8\\x03\\x00\\x00\\x00\\x0f\\x05\\xc3'
        import mmap
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        at = ctypes.addressof(ctypes.c_char.from_buffer(page))
        number = c.detach()
        assert ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long)(at)(number) == 0
        new = {opens}
    """)
    assert ends.client("new == number") == "True"
    assert ends.client("os.write(new, (8).to_bytes(8, 'little'))") == "8"
    assert ends.server("s.recv(100)") in (repr(b""), "ConnectionResetError [Errno 104] Connection reset by peer")


def test_close_by_libcs_syscall(ends, world):
    """libuv closes by syscall(SYS_close): the file that comes next has its bytes, and the peer its end of file."""
    ends.pair()
    ends.client(f"!path = '{world.dir}/syscall.{ends.mode}'")
    ends.client.run("""
        import ctypes
        number = c.detach()
        assert ctypes.CDLL(None).syscall(3, number) == 0
        new = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.write(new, b'file')
    """)
    assert ends.client("(new == number, open(path).read())") == repr((True, "file"))
    assert ends.server("s.recv(100)") == repr(b"")


@pytest.mark.parametrize("how", ["libc.fclose(stdin), os.open(path, os.O_RDONLY)", "libc.freopen(path, b'r', stdin)"],
                         ids=["fclose", "freopen"])
def test_libcs_stdio_puts_a_file_over_a_connection(ends, world, how):
    """libc closes descriptor 0 inside itself. What is read there is the file's, and the connection goes on elsewhere. Between two
    programs the child moves it to another socket, as bytes lie unread; its parent is told then that it is lost, and never sees others."""
    ends.pair()
    ends.client("c.sendall(b'for the other number')")
    ends.server(f"!path = b'{world.dir}/stdin.{ends.mode}'; open(path, 'w').write('from the file')")
    ends.server.run(f"""
        import ctypes
        libc = ctypes.CDLL(None)
        stdin = ctypes.c_void_p.in_dll(libc, 'stdin')
        here, there = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(s.fileno(), 0)
            {how}
            os.write(there, os.read(0, 100))
            os.write(s.fileno(), b'bye')
            os._exit(0)
        os.waitpid(pid, 0)
    """)
    assert ends.server("os.read(here, 100)") == repr(b"from the file")
    assert ends.client("c.recv(100)") == repr(b"bye")
    got = ends.server("s.recv(100)")
    assert got == repr(b"for the other number") or (ends.mode == "ll" and got.startswith("ConnectionResetError")), got
