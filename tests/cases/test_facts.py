"""What a descriptor shows, which numbers and ports a program gets, and when."""
import pytest


def test_the_last_number_below_the_limit_is_the_programs(ends):
    """The library's own descriptors take none of them, and the error is the kernel's."""
    port = ends.listen()
    ends.client(f"!held = [socket.create_connection(('127.0.0.1', {port})) for i in range(16)]")
    ends.server.run("""
        import errno, resource
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = os.dup(l.fileno()) + 12
        os.close(limit - 12)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
        l.setblocking(False)
        got, error = [], None
        while error is None:
            select.select([l], [], [], 5)
            try:
                got.append(l.accept()[0])
            except OSError as e:
                error = errno.errorcode[e.errno]
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    """)
    assert ends.server("(limit - max(s.fileno() for s in got), len(got), error)") == repr((1, 12, "EMFILE"))
    assert ends.server("resource.getrlimit(resource.RLIMIT_NOFILE) == limits") == "True"
    ends.client("!held[0].sendall(b'first')")
    assert ends.server("got[0].recv(5)") == repr(b"first")
    assert ends.server("l.accept()[0].fileno() >= 0") == "True"   # what waited is there still


def test_no_event_says_in_without_something_to_read(ends):
    """A server that waits for all edges, as nginx does: it has read the request, and answers more than fits."""
    ends.pair()
    ends.server.run("""
        s.setblocking(False)
        ep = select.epoll()
        ep.register(s, select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET)
        spurious, rounds = 0, 0
        def look(timeout):
            global spurious
            for fd, events in ep.poll(timeout):
                if events & select.EPOLLIN:
                    try:
                        s.recv(1, socket.MSG_PEEK)
                    except BlockingIOError:
                        spurious += 1
        def serve(size):
            global rounds
            while True:
                ep.poll(5)
                try:
                    s.recv(1024)
                    break
                except BlockingIOError:
                    pass
            left = size
            while left:
                try:
                    left -= s.send(bytes(min(left, 65536)))
                except BlockingIOError:
                    look(5)
            look(0.02)
            rounds += 1
    """)
    for size in (100, 3_000_000, 100, 100):
        ends.client("!c.sendall(b'request')")
        ends.server.run(f"t = threading.Thread(target=serve, args=({size},)); t.start()")
        ends.client.run(f"""
            left = {size}
            while left:
                left -= len(c.recv(min(left, 1 << 16)))
        """)
        ends.server("!t.join(20)")
    assert ends.server("(spurious, rounds)") == "(0, 4)"


def test_the_own_port_is_free_once_close_has_returned(ends):
    """The peer has closed before, so nothing of the connection is left on this side."""
    port = ends.listen()
    ends.server.run("""
        def serve():
            while True:
                s = l.accept()[0]
                s.recv(1)
                s.close()
        threading.Thread(target=serve, daemon=True).start()
    """)
    ends.client.run(f"""
        busy = 0
        for i in range(20):
            c = socket.socket()
            c.bind(('127.0.0.1', 0))
            mine = c.getsockname()
            c.connect(('127.0.0.1', {port}))
            c.sendall(b'a')
            assert c.recv(1) == b''
            c.close()
            again = socket.socket()
            try:
                again.bind(mine)
            except OSError:
                busy += 1
            again.close()
    """)
    # On a busy machine the last packet may still be on its way, on kernel sockets too.
    assert int(ends.client("busy")) < 5


def test_a_deferred_connection_comes_with_its_data(ends):
    port = ends.listen()
    ends.server("!l.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)")
    for text in (b"short", b"longer" * 1000):
        ends.client(f"!c = socket.create_connection(('127.0.0.1', {port}))")
        assert ends.server("select.select([l], [], [], 0.2)[0]") == "[]"
        ends.client(f"!c.sendall({text!r})")
        ends.server("!s = l.accept()[0]")
        assert ends.server("s.recv(100000, socket.MSG_DONTWAIT)") == repr(text)
        ends.client("!c.sendall(b'more')")
        assert ends.server("s.recv(100)") == repr(b"more")


def test_a_listener_that_was_shut_down_listens_again_while_others_connect(ends):
    """Who waited is reset. Who connects afterwards is served; in between a connect is refused or reset, never lost."""
    # No port that connect() gives out: refused again and again, a client would meet itself.
    ends.server.run("""
        l = socket.socket()
        l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for port in random.sample(range(20000, 30000), 20):
            try:
                l.bind(('127.0.0.1', port))
                break
            except OSError:
                pass
        l.listen(16)
    """)
    port = int(ends.server("port"))
    ends.client.run(f"""
        stop, served, failed, silent = False, 0, 0, 0
        def load():
            global served, failed, silent
            while not stop:
                try:
                    with socket.create_connection(('127.0.0.1', {port}), 5) as c:
                        if c.recv(2) == b'ok':
                            served += 1
                        else:
                            silent += 1
                except TimeoutError:
                    silent += 1
                except OSError:
                    failed += 1
        threads = [threading.Thread(target=load) for i in range(4)]
        for t in threads:
            t.start()
    """)
    ends.server.run("""
        def accept_some(n):
            for i in range(n):
                with l.accept()[0] as s:
                    s.sendall(b'ok')
        for i in range(8):
            accept_some(20)
            l.shutdown(socket.SHUT_RD)
            time.sleep(0.01)
            l.listen(16)
        accept_some(20)
        going = True
        def go_on():
            while going:
                if select.select([l], [], [], 0.1)[0]:
                    accept_some(1)
        t = threading.Thread(target=go_on)
        t.start()
    """)
    ends.client("!before = (served, failed); time.sleep(0.3)")
    assert ends.client("served > before[0]") == "True"
    # One that was under way when the listener came back may still fail; from then on none does.
    ends.client("!before = failed; time.sleep(0.3)")
    assert ends.client("failed == before") == "True"
    ends.client("!stop = True; [t.join(10) for t in threads]")
    ends.server("!going = False; t.join(10)")
    assert ends.client("(served >= 180, silent)") == "(True, 0)"


def test_shutdown_of_a_listener_resets_who_waits(ends):
    port = ends.listen()
    ends.client(f"!held = [socket.create_connection(('127.0.0.1', {port}), 5) for i in range(3)]; time.sleep(0.1)")
    ends.server("!l.shutdown(socket.SHUT_RD)")
    for i in range(3):
        assert ends.client(f"held[{i}].recv(1)").startswith("ConnectionResetError")
    assert ends.client(f"socket.create_connection(('127.0.0.1', {port}), 5)").startswith("ConnectionRefusedError")


def test_no_event_for_a_closed_descriptor_of_a_set_that_was_told_by_a_duplicate(ends):
    ends.pair()
    ends.server.run("""
        ep = select.epoll()
        other = select.epoll.fromfd(os.dup(ep.fileno()))
        other.register(s, select.EPOLLIN | select.EPOLLOUT)
        other.close()
        s.sendall(b'go')
        s.close()
    """)
    assert ends.server("ep.poll(0.2)") == "[]"
    assert ends.client("c.recv(10)") == repr(b"go")
    assert ends.client("c.recv(10)") == repr(b"")
    assert ends.server("ep.poll(0.2)") == "[]"


def test_abort_of_a_transfer(ends):
    """As FTP's ABOR: the urgent byte says where, a select for it alone wakes up, and its owner gets SIGURG."""
    ends.pair()
    ends.server.run("""
        import fcntl
        urgent = []
        signal.signal(signal.SIGURG, lambda *a: urgent.append(1))
        fcntl.fcntl(s, fcntl.F_SETOWN, os.getpid())
        s.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    """)
    ends.client("!c.sendall(b'data'); c.send(b'ABOR\\r\\n', socket.MSG_OOB); c.sendall(b'after')")
    assert ends.server("len(select.select([], [], [s], 5)[2])") == "1"
    assert ends.server("len(urgent) > 0") == "True"
    assert ends.server("s.recv(100)") == repr(b"dataABOR\r")
    ends.server("!s.settimeout(20)")
    assert ends.server("s.recv(6, socket.MSG_WAITALL)") == repr(b"\nafter")
    assert ends.server("select.select([], [], [s], 0)[2]") == "[]"


@pytest.mark.parametrize("how, state, again", [
    ("s.close()", "CLOSE_WAIT", "EISCONN"), ("c.shutdown(socket.SHUT_WR)", "FIN_WAIT2", "EISCONN"),
    ("s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); s.close()", "CLOSE", "ECONNRESET"),
    ("c.shutdown(socket.SHUT_WR); s.recv(1); s.close()", "CLOSE", "EISCONN")])
def test_what_is_told_of_a_connection_that_ends(ends, how, state, again):
    states = {1: "ESTABLISHED", 5: "FIN_WAIT2", 7: "CLOSE", 8: "CLOSE_WAIT"}
    ends.server("!l = socket.create_server(('127.0.0.1', 0))")
    port = int(ends.server("l.getsockname()[1]"))
    ends.client(f"!import errno; c = socket.socket(); c.settimeout(20); c.connect(('127.0.0.1', {port}))")
    ends.server("!s, a = l.accept(); s.settimeout(20)")
    tcp_state = "c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[0]"
    assert ends.client(tcp_state) == "1"
    for step in how.split("; "):
        (ends.client if step.startswith("c.") else ends.server)(f"!{step}")
    ends.client("!time.sleep(0.1)")
    assert states[int(ends.client(tcp_state))] == state
    SO_PEERNAME = 28
    assert ends.client(f"len(c.getsockopt(socket.SOL_SOCKET, {SO_PEERNAME}, 16))") == "16"
    # It stood, whatever became of it; shutdown() alone takes back that connect() would say so once more.
    ends.client("!c.shutdown(socket.SHUT_RD)")
    said = ends.client(f"errno.errorcode[c.connect_ex(('127.0.0.1', {port}))]")
    assert said == repr(again) or again == "ECONNRESET" and said in map(repr, ("EINVAL", "ECONNABORTED", "ECONNRESET"))


def test_options_of_a_connection_that_stands_are_refused_or_read_back_as_the_kernels(ends):
    ends.pair()
    TCP_FASTOPEN, TCP_FASTOPEN_CONNECT = 23, 30
    for end, s in ((ends.client, "c"), (ends.server, "s")):
        for name in (TCP_FASTOPEN, TCP_FASTOPEN_CONNECT):
            assert end(f"{s}.setsockopt(socket.IPPROTO_TCP, {name}, 1)").startswith("OSError [Errno 22]")
        for on in (1, 0):
            end(f"!{s}.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', {on}, 7))")
            assert end(f"struct.unpack('ii', {s}.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))") == f"({on}, 7)"
