"""libvmsgr's channels for tests: the C API call by call, over the declarations of the Python package; and the frames
themselves, written from docs/PROTOCOL.md, for a peer that speaks them over a plain socket.
"""
import ctypes
import errno
import os
import socket
import struct
import sys
import threading

from . import process, vmsgrd

LIBRARY = os.path.join(os.path.dirname(vmsgrd.BIN), "lib/libvmsgr.so")
sys.path.insert(0, os.path.join(process.ROOT, "python"))
os.environ["VMSGR_LIBRARY"] = LIBRARY   # no program that a test starts shall see it
from vmsgr import _library as abi  # noqa: E402
from vmsgr import _sockaddr as sockaddr  # noqa: E402
from vmsgr._library import MORE, lib  # noqa: E402
del os.environ["VMSGR_LIBRARY"]


class Request(abi.Request):
    """With the memory of its message."""


class Failed(OSError):
    """errno and the text of a vmsgr_error."""


def _options(max_message_bytes=0, timeout_ms=0, spin_us=0, name=None, size=None):
    return abi.ChannelOptions(size or ctypes.sizeof(abi.ChannelOptions), max_message_bytes, timeout_ms, spin_us,
                           name.encode() if name else None)


def _checked(result, e):
    if result != 0:
        assert ctypes.get_errno() == e.errnum, (ctypes.get_errno(), e.errnum, e.text)
        raise Failed(e.errnum, e.text.decode())


class _Handle:
    closer = ""

    def __init__(self, handle):
        self.handle = handle

    def close(self):
        handle, self.handle = self.handle, None
        if handle:
            getattr(lib, self.closer)(handle)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Session(_Handle):
    closer = "vmsgr_session_close"

    def __init__(self, path, program="channels"):
        options = abi.SessionOptions(ctypes.sizeof(abi.SessionOptions), path.encode(), program.encode())
        out, e = ctypes.c_void_p(), abi.Error()
        _checked(lib.vmsgr_session_open(ctypes.byref(options), ctypes.byref(out), ctypes.byref(e)), e)
        super().__init__(out)

    def _open(self, call, host, port, options):
        out, e, at = ctypes.c_void_p(), abi.Error(), sockaddr(host, port)
        _checked(call(self.handle, at, len(at), ctypes.byref(_options(**options)), ctypes.byref(out), ctypes.byref(e)), e)
        return out

    def listen(self, host="127.0.0.1", port=0, **options):
        return Listener(self._open(lib.vmsgr_channel_listen, host, port, options))

    def connect(self, port, host="127.0.0.1", **options):
        return Channel(self._open(lib.vmsgr_channel_connect, host, port, options))


class Listener(_Handle):
    closer = "vmsgr_listener_close"

    def __init__(self, handle):
        super().__init__(handle)
        at, length = ctypes.create_string_buffer(128), ctypes.c_uint(128)
        abi.last(lib.vmsgr_listener_address(handle, at, ctypes.byref(length)))
        self.port = socket.ntohs(struct.unpack_from("=H", at, 2)[0])

    def accept(self, timeout_ms=5000):
        out, e = ctypes.c_void_p(), abi.Error()
        _checked(lib.vmsgr_listener_accept(self.handle, timeout_ms, ctypes.byref(out), ctypes.byref(e)), e)
        return Channel(out)

    def fileno(self):
        return lib.vmsgr_listener_fd(self.handle)

    def counts(self):
        """(accepted, refused, why the last one was)."""
        yes, no, why = ctypes.c_ulonglong(), ctypes.c_ulonglong(), ctypes.c_char_p()
        lib.vmsgr_listener_counts(self.handle, ctypes.byref(yes), ctypes.byref(no), ctypes.byref(why))
        return yes.value, no.value, why.value.decode()


class Channel(_Handle):
    closer = "vmsgr_channel_close"

    def send(self, data, flags=0, timeout_ms=5000):
        return abi.last(lib.vmsgr_channel_send(self.handle, data, len(data), flags, timeout_ms))

    def recv(self, size=1 << 20, timeout_ms=5000):
        buffer = ctypes.create_string_buffer(size)
        n = abi.last(lib.vmsgr_channel_recv(self.handle, buffer, size, timeout_ms))
        return buffer.raw[:n]

    def reserve(self, size, timeout_ms=5000):
        place = ctypes.c_void_p()
        abi.last(lib.vmsgr_channel_reserve(self.handle, size, timeout_ms, ctypes.byref(place)))
        return place.value

    def commit(self, size, flags=0):
        return abi.last(lib.vmsgr_channel_commit(self.handle, size, flags))

    def peek(self, timeout_ms=5000):
        at = ctypes.c_void_p()
        n = abi.last(lib.vmsgr_channel_peek(self.handle, ctypes.byref(at), timeout_ms))
        return ctypes.string_at(at.value, n) if n else b""

    def release(self):
        return abi.last(lib.vmsgr_channel_release(self.handle))

    def flush(self):
        lib.vmsgr_channel_flush(self.handle)

    def finish(self):
        return abi.last(lib.vmsgr_channel_finish(self.handle))

    def fileno(self):
        return lib.vmsgr_channel_fd(self.handle)

    @property
    def max(self):
        return lib.vmsgr_channel_max(self.handle)

    @property
    def is_local(self):
        return bool(lib.vmsgr_channel_is_local(self.handle))

    def why(self):
        """(errnum, text), or None while it is open."""
        e = abi.Error()
        return (e.errnum, e.text.decode()) if lib.vmsgr_channel_why(self.handle, ctypes.byref(e)) == 1 else None

    def stats(self):
        counts = abi.Counts(ctypes.sizeof(abi.Counts))
        abi.last(lib.vmsgr_channel_stats(self.handle, ctypes.byref(counts)))
        return {name: getattr(counts, name) for name, _ in abi.Counts._fields_[1:]}

    # requests; keep what they return
    def isend(self, data):
        r = Request()
        r.buffer = ctypes.create_string_buffer(data, len(data))
        abi.last(lib.vmsgr_channel_isend(self.handle, r.buffer, len(data), ctypes.byref(r)))
        return r

    def irecv(self, size):
        r = Request()
        r.buffer = ctypes.create_string_buffer(size)
        abi.last(lib.vmsgr_channel_irecv(self.handle, r.buffer, size, ctypes.byref(r)))
        return r

    def progress(self):
        return lib.vmsgr_channel_progress(self.handle)


def test(request):
    """None: not done; else the length."""
    n = ctypes.c_size_t()
    return n.value if abi.last(lib.vmsgr_request_test(ctypes.byref(request), ctypes.byref(n))) else None


def wait(request, timeout_ms=5000):
    n = ctypes.c_size_t()
    abi.last(lib.vmsgr_request_wait(ctypes.byref(request), ctypes.byref(n), timeout_ms))
    return n.value


def cancel(request):
    return lib.vmsgr_request_cancel(ctypes.byref(request))


class Pair:
    """a connected to b's listener."""

    def __init__(self, a_daemon, b_daemon, host="127.0.0.1", **options):
        self.sessions = Session(a_daemon.socket, "asker"), Session(b_daemon.socket, "server")
        self.listener = self.sessions[1].listen(host, **options)
        connected = []
        thread = threading.Thread(target=lambda: connected.append(
            self.sessions[0].connect(self.listener.port, host, **options)))
        wait_for_listener(b_daemon, self.listener.port)
        thread.start()
        self.b = self.listener.accept()
        thread.join()
        self.a = connected[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for thing in (self.a, self.b, self.listener, *self.sessions):
            thing.close()


def wait_for_listener(daemon, port):
    """Until the daemon has read the job; before that a connect takes the way through the kernel."""
    process.wait_until(lambda: any(item["address"].endswith(f":{port}") for item in daemon.status()["listeners"]), 5,
                       f"listener {port}")


# --- the frames, for a peer on a plain socket ---------------------------------------------------------------------

HELLO, DATA, BYE = 1, 2, 3


def frame(kind, payload=b""):
    return struct.pack("<IHBB", len(payload), 0x4D56, kind, 0) + payload + bytes(-len(payload) % 8)


def hello(version=1, max_message_bytes=65536):
    return frame(HELLO, b"VMSGRCH1" + struct.pack("<HHIQ", version, 0, max_message_bytes, 0))


def read_frame(s):
    """(kind, payload) of a socket's next frame; None at its end."""
    head = s.recv(8, socket.MSG_WAITALL)
    if len(head) < 8:
        return None
    size, magic, kind, flags = struct.unpack("<IHBB", head)
    assert (magic, flags) == (0x4D56, 0), head
    whole = s.recv(size + -size % 8, socket.MSG_WAITALL) if size else b""
    assert whole[size:] == bytes(-size % 8)
    return kind, whole[:size]


def raises(errnum, call, *words, **how):
    try:
        call(*words, **how)
    except OSError as e:
        assert e.errno == errnum, (e, errno.errorcode.get(errnum))
        return e.strerror
    raise AssertionError(f"no {errno.errorcode[errnum]}")
