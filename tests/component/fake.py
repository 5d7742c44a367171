"""A control socket that misbehaves, for what a good daemon never does: silence, another version, nonsense."""
import socket
import struct
import threading

MAGIC = 0x52474D56
WELCOME = struct.Struct("<IHHiIQQQ168s")
REPLY = struct.Struct("<IHHiIQQ64x")
STATUS, ROUTES, WELCOME_KIND, REPLY_KIND = 30, 31, 2, 40


def welcome(version=4, status=0, text=b"", magic=MAGIC):
    return WELCOME.pack(magic, WELCOME_KIND, version, status, 262144, 3, 7, 0, text)


def reply(status=0, length=0, serial=1):
    return REPLY.pack(MAGIC, REPLY_KIND, 0, status, serial, length, 0)


class Fake:
    """answers: what to send for each message that comes, as a list of packets; None: hang up; then silence."""

    def __init__(self, path, answers):
        self.path, self.answers = path, answers
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.bind(path)
        self.socket.listen(8)
        self.connections = []
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections.append(connection)
            for answer in self.answers:
                if not connection.recv(4096):
                    break
                if answer is None:
                    connection.close()
                    break
                for packet in answer:
                    connection.send(packet)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for c in self.connections:
            c.close()
        self.thread.join(5)


def document_of(text, piece=7):
    """In short pieces; the last one has no text."""
    data = text.encode()
    pieces = [data[i:i + piece] for i in range(0, len(data), piece)]
    return [reply(length=len(p)) + p for p in [*pieces, b""]]
