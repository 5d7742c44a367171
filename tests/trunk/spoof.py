"""A user who lies about where a connection comes from: `spoof.py CONTROL_SOCKET HOST PORT SOURCE ...`. Each source is
ADDRESS:PORT, to which a socket is bound where this process runs. Prints how each connect ends: 0, or an errno."""
import os
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "hostile"))
import client  # noqa: E402


def main():
    path, host, port, *sources = sys.argv[1:]
    for source in sources:
        address, number = source.rsplit(":", 1)
        s = client.bound(address, int(number))
        print(source, client.Session(path).connect_by_trunk(s, host, int(port)).outcome(), flush=True)


if __name__ == "__main__":
    main()
