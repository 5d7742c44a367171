"""What agents (agents.py) do while something happens to their daemons: for Agent.run()."""
import json

ECHO = """
    l = socket.create_server((HOST, 0), backlog=512)
    l.setblocking(False)
    def serve():
        loop = select.epoll()
        loop.register(l, select.EPOLLIN)
        open_ = {}
        while True:
            for fd, what in loop.poll():
                if fd == l.fileno():
                    try:
                        s, _ = l.accept()
                    except BlockingIOError:
                        continue
                    s.setblocking(False)
                    open_[s.fileno()] = s
                    loop.register(s, select.EPOLLIN)
                    continue
                s = open_[fd]
                try:
                    b = s.recv(100)
                    if b:
                        s.sendall(b)
                        continue
                except BlockingIOError:
                    continue
                except OSError:
                    pass
                loop.unregister(fd)
                del open_[fd]
                s.close()
    threading.Thread(target=serve, daemon=True).start()
    """

ASK = """
    def echoed(c, word):
        c.sendall(word)
        got = b''
        while len(got) < len(word) and (more := c.recv(100)):
            got += more
        return got
    def ask(c, n, i):
        word = b'%d-%d' % (n, i)
        got = echoed(c, word)
        assert got == word, (i, got, word)
    """

ASKS = ASK + """
    idle = [socket.create_connection(AT, timeout=30) for _ in range(100)]
    def asks(seconds):
        until, n = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            for i, c in enumerate(idle):
                ask(c, n, i)
            time.sleep(0.1)
            n += 1
        return n
    """

# young: when a connection that was reset had been made; made: of those that were not.
CONNECTS = ASKS + """
    made, longest, young, failed = 0, 0, [], []
    def connect():
        global made, longest
        began = time.monotonic()
        c = socket.create_connection(AT, timeout=20)
        up = time.monotonic()
        longest = max(longest, up - began)
        try:
            got = echoed(c, b'ping')
            made += 1
            if got != b'ping':
                failed.append(got)
        except ConnectionError:
            young.append(up)
        c.close()
    def connects(seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                connect()
            except BaseException as e:
                failed.append(repr(e))
            time.sleep(0.003)
    """

# 1,000 times a second; slow: when a byte took longer than 5 ms to come back, and how long.
BEATS = """
    slow = []
    def beat(seconds):
        until, n = time.monotonic() + seconds, 0
        while (began := time.monotonic()) < until:
            c.sendall(b'x')
            assert c.recv(1) == b'x'
            took = time.monotonic() - began
            if took > 0.005:
                slow.append((began, took))
            time.sleep(max(0.0, 0.001 - took))
            n += 1
        return n
    """


def longest_pauses_ms(agent, times):
    """Of BEATS, within each of these (begin, end) on the clock of time.monotonic()."""
    slow = json.loads(agent("slow").replace("(", "[").replace(")", "]"))
    return [max([1000 * took for at, took in slow if begin <= at <= end], default=0) for begin, end in times]
