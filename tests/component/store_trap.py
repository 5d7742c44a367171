"""Kills a process at its nth store into memory that outlives it: `store_trap.py NTH WHAT WHO PID`.

WHAT: `ledger`, or `rings` (the indices of connections, in the first pages of arenas). WHO: `itself`; `ordered`, which is itself
from its next order on (a byte in a pipe); or `children`, the processes that it starts from now on and that have this
memory. NTH: right behind that store; -NTH: right before it, when all calls before it are done; 0: it kills nobody.

The memory is made read-only in them by a system call that they are made to do; each store faults then, and is done as a single step. Prints `ready`,
and at the end, which is a kill or the end of its stdin, how many stores there were, and at which instruction it killed. x86-64.
"""
import ctypes
import itertools
import os
import re
import signal
import struct
import sys

from inject_call import Registers, libc

CONT, STEP, GETREGS, SETREGS, DETACH, SYSCALL, GETSIGINFO, SEIZE, INTERRUPT, LISTEN = \
    7, 9, 12, 13, 17, 24, 0x4202, 0x4206, 0x4207, 0x4208
TRACE_SYSCALLS, TRACE_CHILDREN = 1, 2 | 4 | 8   # PTRACE_O_: TRACESYSGOOD; TRACEFORK, TRACEVFORK, TRACECLONE
EVENT_STOP, SYSCALL_STOP, WALL = 128, signal.SIGTRAP | 0x80, 0x40000000
READ_CALL, MMAP, MPROTECT, READ, READ_WRITE = 0, 9, 10, 1, 3
NAMES = {"ledger": "memfd:vmsgr-ledger", "rings": "memfd:vmsgr-arena"}
ARENA_HEADER, CONDUIT_HEADER, PAGE = 128, 576, 4096   # src/shm/layout.hh
SLOTS_AT = 12
MASK = (1 << 64) - 1
BEGINS = MASK + 1 - 38   # what a call that has only begun returns: -ENOSYS


class Gone(Exception):
    """The process has ended."""


def ptrace(request, thread, address=None, data=None):
    if libc.ptrace(request, thread, address, data) != 0:
        raise Gone if ctypes.get_errno() == 3 else OSError(ctypes.get_errno(), f"ptrace {request} of {thread}")


def registers(thread, new=None):
    r = new or Registers()
    ptrace(SETREGS if new else GETREGS, thread, None, ctypes.addressof(r))
    return r


def fault_address(thread):
    info = ctypes.create_string_buffer(128)
    ptrace(GETSIGINFO, thread, None, ctypes.addressof(info))
    return struct.unpack_from("Q", info, 16)[0]


def process_of(thread):
    with open(f"/proc/{thread}/status", encoding="ascii", errors="replace") as f:
        return int(re.search(r"^Tgid:\s+(\d+)$", f.read(), re.M)[1])


def maps(pid):
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as f:
        for line in f:
            where, _, offset, _, _, *name = line.split(maxsplit=5)
            begin, end = (int(x, 16) for x in where.split("-"))
            yield begin, end, int(offset, 16), name[0].strip() if name else ""


def read(pid, at, n):
    with open(f"/proc/{pid}/mem", "rb") as f:
        f.seek(at)
        return f.read(n)


def wait(thread):
    """Its status. One that was killed and leads others, who have not been waited for, has none, for ever."""
    for n in itertools.count():
        got, status = os.waitpid(thread, WALL | os.WNOHANG)
        if got:
            return status
        os.sched_yield()
        if n % 1000 == 999:
            with open(f"/proc/{thread}/stat", encoding="ascii", errors="replace") as f:
                if f.read().rpartition(")")[2].split()[0] == "Z":
                    raise Gone


class Memory:
    """What is watched in one process."""

    def __init__(self, pid, what):
        self.pid, self.what, self.ranges = pid, what, {}
        vdso = next(m for m in maps(pid) if m[3] == "[vdso]")
        self.syscall_at = vdso[0] + read(pid, vdso[0], vdso[1] - vdso[0]).index(b"\x0f\x05")

    def new(self):
        """Ranges that were not seen before."""
        found = {}
        for begin, end, offset, name in maps(self.pid):
            if NAMES[self.what] not in name:
                continue
            if self.what == "rings":
                if offset != 0:
                    continue
                slots = struct.unpack("I", read(self.pid, begin + SLOTS_AT, 4))[0]
                end = min(end, begin + -(-(ARENA_HEADER + slots * CONDUIT_HEADER) // PAGE) * PAGE)
            found[begin] = end
        fresh = {b: e for b, e in found.items() if b not in self.ranges}
        self.ranges = found
        return fresh

    def has(self, address):
        return next(((b, e) for b, e in self.ranges.items() if b <= address < e), None)


class Trap:
    def __init__(self, nth, what, who, pid):
        self.nth, self.what, self.who, self.first = nth, what, who, pid
        self.stores, self.killed_at, self.memories, self.later = 0, None, {}, {}
        sees_calls = what == "rings" or who == "ordered"
        options = TRACE_CHILDREN | (TRACE_SYSCALLS if sees_calls else 0)
        self.go_on = SYSCALL if sees_calls else CONT
        for thread in os.listdir(f"/proc/{pid}/task"):
            ptrace(SEIZE, int(thread), None, options)
            ptrace(INTERRUPT, int(thread))
            wait(int(thread))
            self.look(int(thread))
            ptrace(self.go_on, int(thread))

    def look(self, thread):
        """Whether its process has what is to be watched; the thread stands."""
        pid = process_of(thread)
        known = self.what == "ledger" and pid in self.memories
        if known or self.who == "ordered" or (pid == self.first) != (self.who == "itself"):
            return
        memory = self.memories.get(pid) or Memory(pid, self.what)
        for begin, end in memory.new().items():
            self.memories[pid] = memory
            self.protect(thread, memory, begin, end, READ)

    def step(self, thread):
        """One instruction. Signals that came meanwhile are for later."""
        for _ in range(20):
            ptrace(STEP, thread)
            status = wait(thread)
            if not os.WIFSTOPPED(status):
                raise Gone
            if os.WSTOPSIG(status) == signal.SIGTRAP and status >> 16 == 0:
                return
            if status >> 16 == 0:
                self.later[thread] = os.WSTOPSIG(status)
        raise RuntimeError(f"{thread} does not step")

    def protect(self, thread, memory, begin, end, how):
        before, now = registers(thread), Registers()
        ctypes.pointer(now)[0] = before
        now.rip, now.rax, now.orig_rax = memory.syscall_at, MPROTECT, MASK
        now.rdi, now.rsi, now.rdx = begin, end - begin, how
        registers(thread, now)
        self.step(thread)
        done = registers(thread)
        assert done.rip == memory.syscall_at + 2 and done.rax == 0, (hex(done.rip), done.rax, hex(begin), hex(end))
        registers(thread, before)

    def store(self, thread, memory, begin, end):
        """False: it was the one."""
        at = registers(thread).rip
        self.stores += 1
        if self.stores != -self.nth:
            self.protect(thread, memory, begin, end, READ_WRITE)
            self.step(thread)
        if self.stores == abs(self.nth):
            self.killed_at = at
            os.kill(memory.pid, signal.SIGKILL)
            return False
        self.protect(thread, memory, begin, end, READ)
        return True

    def called(self, thread, r):
        if r.rax == BEGINS:
            return
        has_a_byte = r.orig_rax == READ_CALL and r.rax == 1
        if self.who == "ordered" and has_a_byte and os.readlink(f"/proc/{thread}/fd/{r.rdi}").startswith("pipe:"):
            self.who = "itself"
            self.look(thread)
        elif r.orig_rax == MMAP:
            self.look(thread)

    def stopped(self, thread, status):
        """False: the end."""
        sig, event = os.WSTOPSIG(status), status >> 16
        deliver = 0
        if event == EVENT_STOP:
            if sig != signal.SIGTRAP:
                ptrace(LISTEN, thread)
                return True
            self.look(thread)
        elif sig == SYSCALL_STOP:
            self.called(thread, registers(thread))
        elif event == 0 and sig == signal.SIGSEGV:
            memory = self.memories.get(process_of(thread))
            where = memory and memory.has(fault_address(thread))
            if where and not self.store(thread, memory, *where):
                return False
            deliver = 0 if where else sig
        elif event == 0:
            deliver = sig
        ptrace(self.go_on, thread, None, deliver or self.later.pop(thread, 0))
        return True

    def run(self, over):
        while True:
            thread, status = os.waitpid(-1, WALL)
            if thread == over:
                break
            try:
                if os.WIFSTOPPED(status) and not self.stopped(thread, status):
                    return
            except (Gone, FileNotFoundError, ProcessLookupError):
                continue
        self.let_go()

    def let_go(self):
        """They go on as if nothing had been. The kernel lets go of threads when this process ends."""
        for pid, memory in self.memories.items():
            try:
                ptrace(INTERRUPT, pid)
                status = wait(pid)
                while os.WIFSTOPPED(status) and os.WSTOPSIG(status) == SYSCALL_STOP:
                    ptrace(INTERRUPT, pid)   # any stop takes the place of the one that was asked for
                    ptrace(CONT, pid)
                    status = wait(pid)
                if os.WIFSTOPPED(status):
                    for begin, end in memory.ranges.items():
                        self.protect(pid, memory, begin, end, READ_WRITE)
                    ptrace(DETACH, pid, None, self.later.pop(pid, 0))
            except (Gone, ChildProcessError, FileNotFoundError, ProcessLookupError):
                pass


def until_stdin_ends():
    """A process that ends then: what waits for the others hears of it, too."""
    pid = os.fork()
    if pid == 0:
        while os.read(0, 1):
            pass
        os._exit(0)
    return pid


def main():
    nth, what, who, pid = sys.argv[1:]
    trap = Trap(int(nth), what, who, int(pid))
    over = until_stdin_ends()
    print("ready", flush=True)
    trap.run(over)
    print(trap.stores, hex(trap.killed_at) if trap.killed_at else "-", flush=True)


if __name__ == "__main__":
    main()
