"""A program with one TCP connection that does what it is told on stdin: `python3 traffic.py serve|connect ADDR PORT`.

It prints its port or 'connected', then one line for each: the descriptor of listener, connection and a dup of it.
"""
import os
import socket
import sys


def main():
    role, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM)
    if role == "serve":
        s.bind((address, port))
        s.listen(8)
        print("listening", s.getsockname()[1], s.fileno(), flush=True)
        listener = s
        s, _ = listener.accept()
    else:
        s.connect((address, port))
    copy = os.dup(s.fileno())
    print("connected", s.fileno(), copy, flush=True)
    for line in sys.stdin:
        word, count = line.split()
        if word == "send":
            s.sendall(b"x" * int(count))
        elif word == "receive":
            left = int(count)
            while left:
                left -= len(s.recv(min(left, 65536)))
        print("done", flush=True)


if __name__ == "__main__":
    main()
