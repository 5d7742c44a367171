"""libvmsgr's C API by ctypes: one declaration a function, as include/vmsgr/vmsgr.h has them.

ctypes is in every Python, and gives up the interpreter's lock for the time of a call.
"""
import ctypes
import os
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_ssize_t, c_uint, c_ulonglong, c_void_p

SONAME = "libvmsgr.so.0"
MORE = 1


class Error(ctypes.Structure):
    _fields_ = [("errnum", c_int), ("text", ctypes.c_char * 200)]


class SessionOptions(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("socket_path", c_char_p), ("program", c_char_p)]


class ChannelOptions(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("max_message_bytes", c_size_t), ("timeout_ms", c_int), ("spin_us", c_int),
                ("name", c_char_p)]


class Counts(ctypes.Structure):
    _fields_ = [("size", c_size_t)] + [(n, c_ulonglong) for n in (
        "messages_sent", "bytes_sent", "messages_received", "bytes_received", "send_sleeps", "recv_sleeps")]


class Request(ctypes.Structure):
    _fields_ = [("next", c_void_p), ("channel", c_void_p), ("data", c_void_p), ("bytes", c_size_t), ("result", c_ssize_t),
                ("state", c_int), ("errnum", c_int)]


_error = POINTER(Error)
_out = POINTER(c_void_p)
_socket_address = (c_char_p, c_uint)
_address_into = (c_void_p, POINTER(c_uint))
FUNCTIONS = {
    "vmsgr_version": (c_char_p,),
    "vmsgr_session_open": (c_int, POINTER(SessionOptions), _out, _error),
    "vmsgr_session_close": (None, c_void_p),
    "vmsgr_channel_listen": (c_int, c_void_p, *_socket_address, POINTER(ChannelOptions), _out, _error),
    "vmsgr_channel_connect": (c_int, c_void_p, *_socket_address, POINTER(ChannelOptions), _out, _error),
    "vmsgr_listener_accept": (c_int, c_void_p, c_int, _out, _error),
    "vmsgr_listener_fd": (c_int, c_void_p),
    "vmsgr_listener_address": (c_int, c_void_p, *_address_into),
    "vmsgr_listener_counts": (c_int, c_void_p, POINTER(c_ulonglong), POINTER(c_ulonglong), POINTER(c_char_p)),
    "vmsgr_listener_close": (None, c_void_p),
    "vmsgr_channel_send": (c_int, c_void_p, c_char_p, c_size_t, c_int, c_int),
    "vmsgr_channel_flush": (c_int, c_void_p),
    "vmsgr_channel_reserve": (c_int, c_void_p, c_size_t, c_int, _out),
    "vmsgr_channel_commit": (c_int, c_void_p, c_size_t, c_int),
    "vmsgr_channel_finish": (c_int, c_void_p),
    "vmsgr_channel_recv": (c_ssize_t, c_void_p, c_void_p, c_size_t, c_int),
    "vmsgr_channel_peek": (c_ssize_t, c_void_p, _out, c_int),
    "vmsgr_channel_release": (c_int, c_void_p),
    "vmsgr_channel_isend": (c_int, c_void_p, c_void_p, c_size_t, POINTER(Request)),
    "vmsgr_channel_irecv": (c_int, c_void_p, c_void_p, c_size_t, POINTER(Request)),
    "vmsgr_request_test": (c_int, POINTER(Request), POINTER(c_size_t)),
    "vmsgr_request_wait": (c_int, POINTER(Request), POINTER(c_size_t), c_int),
    "vmsgr_request_cancel": (c_int, POINTER(Request)),
    "vmsgr_channel_progress": (c_int, c_void_p),
    "vmsgr_channel_fd": (c_int, c_void_p),
    "vmsgr_channel_max": (c_size_t, c_void_p),
    "vmsgr_channel_is_local": (c_int, c_void_p),
    "vmsgr_channel_local": (c_int, c_void_p, *_address_into),
    "vmsgr_channel_peer": (c_int, c_void_p, *_address_into),
    "vmsgr_channel_stats": (c_int, c_void_p, POINTER(Counts)),
    "vmsgr_channel_why": (c_int, c_void_p, _error),
    "vmsgr_channel_close": (None, c_void_p),
}


def load(path=None):
    lib = ctypes.CDLL(path or os.environ.get("VMSGR_LIBRARY") or SONAME, use_errno=True)
    for name, (result, *arguments) in FUNCTIONS.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


lib = load()


def failed(e: Error) -> OSError:
    """The subclass of OSError that fits: ConnectionRefusedError, TimeoutError ..."""
    return OSError(e.errnum, e.text.decode(errors="replace"))


def checked(result: int, e: Error) -> None:
    if result != 0:
        raise failed(e)


def last(result: int) -> int:
    """A count; or the errno of the call that has just failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


__all__ = ["MORE", "ChannelOptions", "Counts", "Error", "Request", "SessionOptions", "byref", "checked", "failed", "last",
           "lib"]
