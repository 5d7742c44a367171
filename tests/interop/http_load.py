"""Asks an HTTP server over and over, a connection for each request, from several threads, until its input ends. Each
must be answered in full: a reload of the server is not to be seen. Prints a line after the first of them, and at the
end how many there were."""
import socket
import sys
import threading

address, port, threads, wanted = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].encode()
first, ended = threading.Event(), threading.Event()
wrong, counts = [], []


def ask():
    with socket.create_connection((address, port), 20) as c:
        c.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        return b"".join(iter(lambda: c.recv(65536), b""))


def loop():
    count = 0
    while not ended.is_set() and len(wrong) < 3:
        try:
            answer = ask()
            if not (answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(wanted)):
                wrong.append(f"request {count}: {answer[:200]!r}")
        except OSError as e:
            wrong.append(f"request {count}: {e!r}")
        count += 1
        first.set()
    counts.append(count)


running = [threading.Thread(target=loop) for _ in range(threads)]
for t in running:
    t.start()
first.wait()
print("the first one", flush=True)
sys.stdin.read()
ended.set()
for t in running:
    t.join()
print(sum(counts))
sys.exit("\n".join(wrong) or 0)
