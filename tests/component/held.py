"""Stops threads as a debugger does: the rest of their process goes on."""
import ctypes
import os

PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def _ptrace(request, thread):
    if libc.ptrace(request, thread, None, None) != 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request} of {thread}")


class Held:
    def __init__(self, threads):
        self.threads = threads

    def __enter__(self):
        for t in self.threads:
            _ptrace(PTRACE_SEIZE, t)
            _ptrace(PTRACE_INTERRUPT, t)
            os.waitpid(t, WALL)
        return self

    def __exit__(self, *_):
        for t in self.threads:
            _ptrace(PTRACE_DETACH, t)
