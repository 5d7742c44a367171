"""What an event loop sends in a turn reaches its readers whatever the loop does next (client/streams/late_tokens.hh)."""
import os
import subprocess

import pytest

CONNECTIONS = 6
ROUNDS = 20   # after so many in a row the library has seen that this program sends often


@pytest.fixture
def server(ends, world):
    words = [*world.prefix(ends.mode[0]), world.build("late_tokens.c"), str(CONNECTIONS)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = int(process.stdout.readline())
            ends.client.run(f"""
                cs = [socket.create_connection(('127.0.0.1', {port})) for _ in range({CONNECTIONS})]
                loop, second = cs[:-1], cs[-1]
                def take(c):
                    got = b''
                    while len(got) < 6:
                        more = c.recv(6 - len(got))
                        if not more:
                            break
                        got += more
                    return got
                def each(what):
                    'Threads that sleep in recv, one a connection; how long the slowest slept.'
                    slept, answers = [], []
                    def reader(c):
                        began = time.monotonic()
                        answers.append(take(c))
                        slept.append(time.monotonic() - began)
                    ts = [threading.Thread(target=reader, args=(c,), daemon=True) for c in loop]
                    for t in ts: t.start()
                    time.sleep(0.002)
                    loop[0].sendall(what)
                    for t in ts: t.join(5)
                    return answers, max(slept, default=99.0)
                def often(what):
                    'Once more, after so many that the library lets tokens wait.'
                    for _ in range({ROUNDS}):
                        answers, _ = each(b'a')
                        assert answers == [b'answer'] * len(loop), answers
                    return each(what)[0] == [b'answer'] * len(loop)
                assert often(b'a')
            """)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("what", ["b", "d"])
def test_loop_that_sleeps_on_a_semaphore_owes_nobody(ends, server, what):
    if ends.mode == "ll":   # with its readers asleep it owes indeed: the library has started the thread that pays
        for _ in range(20):   # on a busy machine its answers come too slowly at first
            if len(os.listdir(f"/proc/{server.pid}/task")) == 3:
                break
            assert ends.client("often(b'a')") == "True"
        assert len(os.listdir(f"/proc/{server.pid}/task")) == 3
    for _ in range(10):
        assert ends.client(f"often({what!r}.encode())") == "True"
        ends.client("second.sendall(b'.')")   # only now may the loop go on
    assert server.poll() is None


@pytest.mark.parametrize("what", ["x", "f", "e"])
def test_program_that_ends_has_sent_all(ends, server, what):
    assert ends.client(f"often({what!r}.encode())") == "True"
    if what != "f":
        assert ends.client("(second.settimeout(5), loop[0].settimeout(5), loop[0].recv(1))[-1]") == "b''"
