"""What VMSGR does not carry it does not touch: the system calls of a program with the library loaded are those it makes
without.

Real programs run under `strace -ff`, one file a process, without and with LD_PRELOAD; their other environment is the
same. What is compared begins, after each exec, where the dynamic linker is done (it gives back its cache of names): until
then it opens and maps one library more. So the library's own constructor is part of what is compared.

Put out of the comparison, because two runs without the library differ in it: process numbers and addresses (numbered
by their order), clocks, random bytes, ephemeral ports; brk and the 8 random bytes with which malloc begins (the
loader's work for one library more, and a pool of its C++ runtime, use the heap before the program does); what the
scheduler decides (futex, when SIGCHLD comes). Where programs still run one way or another, the same number of
attempts is made without and with the library: some trace with it must be one that was seen without it. A call more or
less, or an argument changed, is in each of them.
"""
import os
import re
import shutil
import socket
import subprocess
import threading

import pytest
from lib import process, vmsgrd

ATTEMPTS = 6
PYTHON = "/usr/bin/python3"
LIBRARY = os.path.join(os.path.dirname(vmsgrd.BIN), "lib", "libvmsgr-preload.so")
NOTHING = {"no-routes": "", "another-program": "other no-such-program any * 0-65535 direct posix"}
ELSEWHERE = "elsewhere * any 10.255.0.0/16 0-65535 direct posix"

DROPPED = re.compile(r"^(brk|futex|restart_syscall|rt_sigreturn|sched_yield)\(|^---|"
                     r"^getrandom\(.*, 8, GRND_NONBLOCK\)")
# Calls on descriptors: what a program whose other addresses are routed must make unchanged. Beside them the library
# itself blocks signals around its table and asks a listening socket for its address (getsockname), to find its route.
ON_DESCRIPTORS = re.compile(
    r"^(socket|socketpair|connect|bind|listen|accept4?|shutdown|close|p?read(v|64)?|p?write(v|64)?|send(to|msg|mmsg|file)|"
    r"recv(from|msg|mmsg)|epoll_\w+|p?poll|select|pselect6|[gs]etsockopt|getpeername|dup[23]?|pipe2?|ioctl|"
    r"fcntl|execve|v?fork|clone3?|wait4|exit_group)\(")
REPLACED = [(re.compile(pattern), by) for pattern, by in (
    (r"/\* \d+ vars \*/", "/* vars */"),
    (r"0x[0-9a-f]{6,16}\b", "@"),
    (r"u64=\d+", "u64=@"),                                   # half of epoll's data may be what was on the stack
    (r"\b\d{11,}\b", "@"),
    (r"^(read\(\d+), \"\d+ \(.*", r"\1, /proc/self/stat)"),    # Python counts its threads before a fork
    (r"tv_(sec|nsec|usec)=\d+", r"tv_\1=T"),
    (r"^(getrandom)\(\"[^\"]*\"", r"\1(RANDOM"),
    (r"^(getppid\(\) *)= \d+", r"\1= PARENT"),
    (r"(st_[amc]time)=[^,}]*", r"\1=T"),
    (r"( = \d+) \(.*\)$", r"\1"),                            # what poll and epoll have decoded, flags of fcntl
    (r"^(p?poll|epoll_wait|epoll_pwait)\((.*), \d+\)", r"\1(\2, T)"),
    (r" += ", " = "),
)]

CHILDREN = r"""
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
extern char **environ;
int main(void) {
    char *words[] = {"true", NULL};
    char line[64];
    int status;
    pid_t pid = vfork();
    if (pid == 0) {
        execv("/bin/true", words);
        _exit(9);
    }
    waitpid(pid, &status, 0);
    if (posix_spawn(&pid, "/bin/true", NULL, NULL, words, environ) != 0) {
        return 1;
    }
    waitpid(pid, &status, 0);
    FILE *p = popen("echo popen", "r");
    return fgets(line, sizeof line, p) == NULL || pclose(p) != 0 || system("exit 0") != 0 || status != 0;
}
"""
SOCKETS = r"""
import os, select, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
child = os.fork()
if child == 0:
    listener.close()
    s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    s.sendall(b"x" * 3000)
    s.shutdown(socket.SHUT_WR)
    while s.recv(4096, socket.MSG_WAITALL):
        pass
    os._exit(0)
c, _ = listener.accept()
copy = os.dup(c.fileno())
e = select.epoll()
e.register(c.fileno(), select.EPOLLIN)
c.setblocking(False)
got = b""
while len(got) < 3000:
    e.poll()
    got += os.read(copy, 4096)
c.setblocking(True)
os.write(copy, got)
e.unregister(c.fileno())
os.close(copy)
c.close()
os.waitpid(child, 0)
"""


class Tracer:
    """Runs a program under strace; environment() says which."""

    def __init__(self, here, routes, preload):
        self.folder = f"{here}/trace"
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        self.words = ["-E", f"VMSGR_ROUTES={routes}", "-E", f"VMSGR_SOCKET={here}/none.sock",
                      "-E", f"LD_PRELOAD={LIBRARY if preload else ''}"]

    def command(self, name, words):
        return ["strace", "-ff", "-qq", "-s", "200", "-o", f"{self.folder}/{name}", *self.words, *words]

    def run(self, name, *words, **how):
        done = subprocess.run(self.command(name, words), capture_output=True, text=True, timeout=60, **how)
        assert done.returncode == 0, done
        return done.stdout

    def start(self, name, *words, log):
        return process.Process(self.command(name, words), log=log, name=name)


def without_loader(lines):
    """Lines of one process, without the dynamic linker's between an exec and the release of its cache."""
    kept, cache, loading = [], None, False
    for line in lines:
        if line.startswith("execve(") and line.endswith(" = 0"):
            kept.append(line)
            loading, cache = True, None
        elif not loading:
            kept.append(line)
        elif '"/etc/ld.so.cache"' in line:
            cache = ("fd", line.rsplit("= ", 1)[1])
        elif cache and cache[0] == "fd" and line.startswith("mmap(") and f", {cache[1]}, 0)" in line:
            cache = ("at", line.rsplit("= ", 1)[1])
        elif cache and cache[0] == "at" and line.startswith(f"munmap({cache[1]},"):
            loading = False
    assert not loading, f"the linker never gave its cache back:\n{chr(10).join(lines[-20:])}"
    return kept


def traces(folder, name, only, port):
    """Each process's calls, in the order in which processes were made."""
    files = {int(f.rsplit(".", 1)[1]): f for f in os.listdir(folder) if f.rsplit(".", 1)[0] == name}
    raw = {}
    for pid, f in files.items():
        with open(os.path.join(folder, f), encoding="utf-8", errors="replace") as lines:
            raw[pid] = lines.read().splitlines()
    made = re.compile(r"^(?:clone3?|v?fork)\(.* = (\d+)$")
    children = {pid: [int(m[1]) for line in lines if (m := made.match(line))] for pid, lines in raw.items()}
    order = [pid for pid in raw if not any(pid in c for c in children.values())]
    assert len(order) == 1, (name, children)
    for pid in order:
        order.extend(c for c in children[pid] if c in raw)
    numbers = re.compile(r"\b(" + "|".join(str(p) for p in order) + r")\b")
    result = []
    for pid in order:
        lines = []
        for line in without_loader(raw[pid]):
            if DROPPED.match(line) or (only and not only.match(line)):
                continue
            line = re.sub(r"htons\((\d+)\)", lambda m: m[0] if int(m[1]) == port else "htons(EPHEMERAL)", line)
            for pattern, by in REPLACED:
                line = pattern.sub(by, line)
            lines.append(numbers.sub(lambda m: f"P{order.index(int(m[1]))}", line))
        result.append("\n".join(lines))
    return result


def curl(tracer, port, here):
    with socket.create_server(("127.0.0.1", port)) as listener:
        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert tracer.run("curl", "curl", "-q", "-s", "--noproxy", "*", f"http://127.0.0.1:{port}/") == "hello"
        thread.join(10)
    return ["curl"]


def redis(tracer, port, here):
    log = f"{here}/redis.log"
    if os.path.exists(log):
        os.remove(log)
    server = tracer.start("redis-server", "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
                          "--dir", here, "--hz", "1", "--dynamic-hz", "no", "--io-threads", "1", log=log)
    with server:
        server.wait_ready(lambda: "eady to accept" in process.tail(log), 30, "be ready")
        cli = ["redis-cli", "-h", "127.0.0.1", "-p", str(port)]
        assert tracer.run("redis-set", *cli, "set", "a", "b") == "OK\n"
        assert tracer.run("redis-get", *cli, "get", "a") == "b\n"
        subprocess.run(["redis-cli", "-p", str(port), "shutdown", "nosave"], check=True, capture_output=True)
        assert server.wait(20) == 0
    return ["redis-server", "redis-set", "redis-get"]


def python(tracer, port, here):
    tracer.run("python", PYTHON, "-S", "-c", SOCKETS, str(port))
    return ["python"]


def bash(tracer, port, here):
    assert tracer.run("bash", "bash", "--norc", "-c",
                      "x=$(echo a | tr a b); (exit 3); cat <<< $x | wc -c; echo $? >&2; exec 3<>/dev/tcp/127.0.0.1/1"
                      " || true; /bin/echo end") == "2\nend\n"
    return ["bash"]


def children(tracer, port, here):
    program = f"{here}/children"
    if not os.path.exists(program):
        with open(f"{program}.c", "w", encoding="ascii") as f:
            f.write(CHILDREN)
        subprocess.run([shutil.which("gcc-14") or "gcc", "-o", program, f"{program}.c"], check=True)
    tracer.run("children", program)
    return ["children"]


# The server's own clock: its once-a-second task, and how often it looks, are no answers to anything.
TIMED = {"redis-server": re.compile(r"^(socket|bind|listen|connect|accept4?|epoll_create1?|epoll_ctl|[gs]etsockopt|"
                                    r"shutdown|fcntl|read\(\d+, \"\*|write\(\d+, \"[+$*]|clone3?|getpeername)")}


def compare(scenario, routes, only, here):
    port = process.free_port()
    seen = {False: [], True: []}
    for _ in range(ATTEMPTS):
        for preload in (False, True):
            tracer = Tracer(here, routes, preload)
            names = scenario(tracer, port, here)
            seen[preload].append({n: traces(tracer.folder, n, TIMED.get(n, only), port) for n in names})
        if any(with_it == without for with_it in seen[True] for without in seen[False]):
            calls = sum(len(t.splitlines()) for one in seen[True][-1].values() for t in one)
            assert calls >= 8, seen[True][-1]   # there was something to compare
            return
    last = seen[False][-1], seen[True][-1]
    for name, one in last[1].items():
        for number, (a, b) in enumerate(zip(last[0][name], one)):
            assert a.splitlines() == b.splitlines(), f"{name}, process {number}: without and with the library"
        assert len(last[0][name]) == len(one), f"{name}: another number of processes"


SCENARIOS = [curl, redis, python, bash, children]


@pytest.mark.parametrize("routes", NOTHING)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_routed_makes_the_same_system_calls(scenario, routes, here):
    compare(scenario, NOTHING[routes], None, here)


# Without `children`: while routes concern a program its vfork is a fork, as the child would change our table.
@pytest.mark.parametrize("scenario", SCENARIOS[:-1])
def test_unrouted_sockets_of_a_concerned_program_see_the_same_calls(scenario, here):
    compare(scenario, ELSEWHERE, ON_DESCRIPTORS, here)


def test_a_call_more_is_seen(here):
    """The comparison itself: a program that makes one call more with LD_PRELOAD set is found out."""
    def scenario(tracer, port, where):
        tracer.run("sh", "sh", "-c", 'test -z "$LD_PRELOAD" || cd /')
        return ["sh"]
    with pytest.raises(AssertionError):
        compare(scenario, "", None, here)
