"""Message channels through vmsgrd: in order, each message once, with its boundaries; through shared memory where both
programs belong to one vmsgrd, else over the network. This is libvmsgr(3) for Python; vmsgr.aio has it for asyncio.

    with vmsgr.Session() as session, session.connect("10.0.0.1", 7000) as channel:
        channel.send(b"a question")
        print(channel.recv())

Timeouts are seconds; None waits for ever, 0 not at all (BlockingIOError). Errors are the subclasses of OSError that their
errno has: ConnectionRefusedError, ConnectionResetError, BrokenPipeError, TimeoutError. The end of a channel, when the other
side has finished and all was received, is EOFError; a loop over a channel ends there.

Threads: one may send on a channel while another receives. A child of fork() opens a session of its own.
"""
from __future__ import annotations

import ctypes
import errno
import socket
import struct
from typing import Any, Iterator, NamedTuple

from ._library import (MORE, ChannelOptions, Counts, Error, SessionOptions, byref, checked, failed, last, lib)

__all__ = ["Channel", "Counters", "Listener", "ListenerCounters", "Session", "version"]


class Counters(NamedTuple):
    """Of a channel; sleeps are waits in the kernel, for room and for messages."""
    messages_sent: int
    bytes_sent: int
    messages_received: int
    bytes_received: int
    send_sleeps: int
    recv_sleeps: int


class ListenerCounters(NamedTuple):
    accepted: int
    refused: int
    last_refusal: str


def version() -> str:
    """Of the library that is loaded."""
    return lib.vmsgr_version().decode()


def _milliseconds(timeout: float | None) -> int:
    return -1 if timeout is None else max(0, int(timeout * 1000 + 0.999))


def _sockaddr(host: str, port: int) -> bytes:
    """host: an IPv4 or IPv6 address; names are not looked up."""
    if ":" in host:
        return struct.pack("=HHI16sI", socket.AF_INET6, socket.htons(port), 0, socket.inet_pton(socket.AF_INET6, host), 0)
    return struct.pack("=HH4s8x", socket.AF_INET, socket.htons(port), socket.inet_pton(socket.AF_INET, host))


def _address(call: Any, handle: ctypes.c_void_p) -> tuple[str, int]:
    buffer, length = ctypes.create_string_buffer(128), ctypes.c_uint(128)
    last(call(handle, buffer, byref(length)))
    family, port = struct.unpack_from("=HH", buffer.raw)
    at, size = (8, 16) if family == socket.AF_INET6 else (4, 4)
    return socket.inet_ntop(family, buffer.raw[at:at + size]), socket.ntohs(port)


class _Handle:
    """Something of the library's, until close(). Use after it is ValueError."""
    _closer = ""

    def __init__(self, handle: ctypes.c_void_p):
        self._open_handle: ctypes.c_void_p | None = handle

    @property
    def _handle(self) -> ctypes.c_void_p:
        if self._open_handle is None:
            raise ValueError(f"{type(self).__name__} is closed")
        return self._open_handle

    @property
    def closed(self) -> bool:
        return self._open_handle is None

    def close(self) -> None:
        handle, self._open_handle = self._open_handle, None
        if handle is not None:
            getattr(lib, self._closer)(handle)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_open_handle", None) is not None:
            self.close()


class Session(_Handle):
    """Attaches the process to vmsgrd. socket_path: vmsgrd's; None: $VMSGR_SOCKET, or /run/vmsgr/vmsgrd.sock. program: the
    name in vmsgrd's views, at most 31 characters; None: this program's own. Channels and listeners go on without it."""
    _closer = "vmsgr_session_close"

    def __init__(self, socket_path: str | None = None, program: str | None = None):
        options = SessionOptions(ctypes.sizeof(SessionOptions), socket_path.encode() if socket_path else None,
                                 program.encode() if program else None)
        out, e = ctypes.c_void_p(), Error()
        checked(lib.vmsgr_session_open(byref(options), byref(out), byref(e)), e)
        super().__init__(out)

    def listen(self, host: str = "127.0.0.1", port: int = 0, *, max_message_bytes: int = 0, spin_us: int = 0,
               name: str | None = None) -> Listener:
        """port 0: the kernel chooses. The options hold for what is accepted; 0: the library's defaults."""
        return Listener(self._open(lib.vmsgr_channel_listen, host, port, max_message_bytes, 0, spin_us, name))

    def connect(self, host: str, port: int, *, timeout: float = 5.0, max_message_bytes: int = 0, spin_us: int = 0,
                name: str | None = None) -> Channel:
        """Returns once the listener has accepted."""
        return Channel(self._open(lib.vmsgr_channel_connect, host, port, max_message_bytes,
                                  max(1, _milliseconds(timeout)), spin_us, name))

    def _open(self, call: Any, host: str, port: int, max_message_bytes: int, timeout_ms: int, spin_us: int,
              name: str | None) -> ctypes.c_void_p:
        options = ChannelOptions(ctypes.sizeof(ChannelOptions), max_message_bytes, timeout_ms, spin_us,
                                 name.encode() if name else None)
        out, e, at = ctypes.c_void_p(), Error(), _sockaddr(host, port)
        checked(call(self._handle, at, len(at), byref(options), byref(out), byref(e)), e)
        return out


class Listener(_Handle):
    _closer = "vmsgr_listener_close"

    def accept(self, timeout: float | None = None) -> Channel:
        out, e = ctypes.c_void_p(), Error()
        checked(lib.vmsgr_listener_accept(self._handle, _milliseconds(timeout), byref(out), byref(e)), e)
        return Channel(out)

    @property
    def address(self) -> tuple[str, int]:
        return _address(lib.vmsgr_listener_address, self._handle)

    def fileno(self) -> int:
        """Readable when accept may have something to do; to be waited for only after accept(0) was BlockingIOError."""
        return lib.vmsgr_listener_fd(self._handle)

    def counters(self) -> ListenerCounters:
        yes, no, why = ctypes.c_ulonglong(), ctypes.c_ulonglong(), ctypes.c_char_p()
        last(lib.vmsgr_listener_counts(self._handle, byref(yes), byref(no), byref(why)))
        return ListenerCounters(yes.value, no.value, (why.value or b"").decode(errors="replace"))


class Channel(_Handle):
    _closer = "vmsgr_channel_close"

    def send(self, message: bytes, *, more: bool = False, timeout: float | None = None) -> None:
        """more: others follow soon, so that it may wait for them, until flush() or a send without it."""
        last(lib.vmsgr_channel_send(self._handle, message, len(message), MORE if more else 0, _milliseconds(timeout)))

    def flush(self) -> None:
        last(lib.vmsgr_channel_flush(self._handle))

    def recv(self, timeout: float | None = None) -> bytes:
        place = ctypes.c_void_p()
        n = lib.vmsgr_channel_peek(self._handle, byref(place), _milliseconds(timeout))
        if n < 0 and ctypes.get_errno() == errno.ENODATA:
            raise EOFError("the other side has finished")
        message = ctypes.string_at(place.value, last(n)) if n else b""
        last(lib.vmsgr_channel_release(self._handle))
        return message

    def __iter__(self) -> Iterator[bytes]:
        try:
            while True:
                yield self.recv()
        except EOFError:
            return

    def finish(self) -> None:
        """No message follows; receiving goes on."""
        last(lib.vmsgr_channel_finish(self._handle))

    def fileno(self) -> int:
        """To be waited for only after a call with timeout 0 was BlockingIOError; never to be read, written or closed."""
        return lib.vmsgr_channel_fd(self._handle)

    @property
    def max_message_bytes(self) -> int:
        """The largest message that both ends take."""
        return lib.vmsgr_channel_max(self._handle)

    @property
    def is_local(self) -> bool:
        """Both programs share memory."""
        return bool(lib.vmsgr_channel_is_local(self._handle))

    @property
    def address(self) -> tuple[str, int]:
        return _address(lib.vmsgr_channel_local, self._handle)

    @property
    def peer(self) -> tuple[str, int]:
        return _address(lib.vmsgr_channel_peer, self._handle)

    def why(self) -> OSError | None:
        """Why it has ended; None: it has not."""
        e = Error()
        return failed(e) if lib.vmsgr_channel_why(self._handle, byref(e)) == 1 else None

    def counters(self) -> Counters:
        c = Counts(ctypes.sizeof(Counts))
        last(lib.vmsgr_channel_stats(self._handle, byref(c)))
        return Counters(*(getattr(c, name) for name in Counters._fields))
