"""Makes a stopped process carry out system calls, as a debugger would: `inject_call.py PID`. Prints number and result of execve,
ptrace, mount and getpid, -1 for EPERM. x86-64."""
import ctypes
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
PEEK, POKE, STEP, GETREGS, SETREGS, ATTACH, DETACH = 1, 4, 9, 12, 13, 16, 17
NAMES = ("r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs "
         "gs").split()


class Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in NAMES]


def call(pid, number):
    before, now = Registers(), Registers()
    libc.ptrace(GETREGS, pid, None, ctypes.addressof(before))
    ctypes.pointer(now)[0] = before
    code = libc.ptrace(PEEK, pid, before.rip, None)
    libc.ptrace(POKE, pid, before.rip, (code & ~0xFFFF & 0xFFFFFFFFFFFFFFFF) | 0x050F)   # syscall
    now.rax, now.orig_rax = number, 0xFFFFFFFFFFFFFFFF
    now.rdi = now.rsi = now.rdx = now.r10 = now.r8 = 0
    libc.ptrace(SETREGS, pid, None, ctypes.addressof(now))
    libc.ptrace(STEP, pid, None, None)
    os.waitpid(pid, 0x40000000)
    libc.ptrace(GETREGS, pid, None, ctypes.addressof(now))
    libc.ptrace(POKE, pid, before.rip, code & 0xFFFFFFFFFFFFFFFF)
    libc.ptrace(SETREGS, pid, None, ctypes.addressof(before))
    return ctypes.c_longlong(now.rax).value


def main():
    pid = int(sys.argv[1])
    assert libc.ptrace(ATTACH, pid, None, None) == 0, ctypes.get_errno()
    os.waitpid(pid, 0x40000000)
    for number in (59, 101, 165, 39):
        print(number, call(pid, number))
    libc.ptrace(DETACH, pid, None, None)


if __name__ == "__main__":
    main()
