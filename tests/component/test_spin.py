"""Waiting calls look for a moment before they sleep (`vmsgr run --spin-us`): what is seen of it, and what is not."""
import itertools
import json
import os
import re
import shutil
import subprocess

import pytest
from lib import process, vmsgrd

HERE = os.path.dirname(os.path.abspath(__file__))
WAYS = ["epoll", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect"]
ports = itertools.count(27200)


@pytest.fixture(scope="module")
def waits():
    folder = process.make_dir("vc-")
    program = f"{folder}/waits"
    subprocess.run([shutil.which("gcc-14") or "gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program,
                    f"{HERE}/waits.c"], check=True)
    yield program
    process.remove_dir(folder)


def prefix(daemon, us):
    return [vmsgrd.VMSGR, "run", "--socket", daemon.socket, "--spin-us", us, "--"]


def start(words, here):
    log = f"{here}/serve.{next(ports)}.log"
    server = process.Process(words, log=log, name="waits")
    server.wait_ready(lambda: "ready" in process.tail(log), 10, "listen")
    return server, log


def ping_pong(waits, daemon, here, how, us, count=4000):
    """What the client saw, both ends routed."""
    port = next(ports)
    server, _ = start([*prefix(daemon, us), waits, "serve", port, how, count], here)
    with server:
        done = process.run([*prefix(daemon, us), waits, "ping", port, how, count], timeout_s=60)
        assert server.wait(20) == 0
    return json.loads(done.stdout)


def processor_times():
    with open("/proc/stat", encoding="ascii") as f:
        fields = [int(n) for n in f.readline().split()[1:9]]
    return sum(fields), fields[3]


@pytest.mark.parametrize("how", ["read", "epoll", "epoll_pwait2", "poll", "select"])
def test_spinning_saves_sleeps_in_a_ping_pong(waits, daemon, here, how):
    """Where both ends have a processor. Where they have not, spinning does not pay and stops: so the best of some
    attempts counts, and a machine that others keep busy tells nothing."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor: nothing spins")
    seen, (all_before, idle_before) = [], processor_times()
    for _ in range(10):
        asleep = ping_pong(waits, daemon, here, how, 0)
        spinning = ping_pong(waits, daemon, here, how, 100)
        seen.append((asleep, spinning))
        if spinning["switches"] * 2 < asleep["switches"] and spinning["median_ns"] < asleep["median_ns"]:
            return
    all_after, idle_after = processor_times()
    if (idle_after - idle_before) / (all_after - all_before) < 0.35:
        pytest.skip("the machine is too busy: both ends shared one processor")
    pytest.fail(f"no fewer sleeps and no shorter round trip: {seen}")


TESTS = ["timeouts", "masks", "interrupts", "others"]


def check_quietly(waits, here, before, what):
    port = next(ports)
    server, log = start([*before, waits, "quiet", port, what], here)
    with server, process.Process([*before, waits, "hold", port], log=f"{here}/hold.log") as client:
        assert server.wait(60) == 0 and process.tail(log, 100) == "ready\ndone\n", process.tail(log, 100)
        assert client.wait(10) == 0


@pytest.mark.parametrize("us", [0, 50, 1000])
@pytest.mark.parametrize("what", TESTS)
def test_waits_end_as_the_kernel_ends_them(waits, daemon, here, what, us):
    check_quietly(waits, here, prefix(daemon, us), what)


@pytest.mark.parametrize("what", TESTS)
def test_the_checks_find_nothing_wrong_with_the_kernel(waits, here, what):
    check_quietly(waits, here, [], what)


IDLE = """
import select, socket, sys, time
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
e = select.epoll()
e.register(s.fileno(), select.EPOLLIN)
p = select.poll()
p.register(s.fileno(), select.POLLIN)
print("connected", flush=True)
until = time.monotonic() + 4
while time.monotonic() < until:
    e.poll(0.002)
    p.poll(2)
print(time.process_time(), flush=True)
"""


def test_what_does_not_pay_is_left(waits, daemon, here):
    """A program that only ever waits in vain, 500 times a second, with the largest budget: a trial now and then."""
    cpu_s = {}
    for us in (0, 1000):
        port = next(ports)
        server, _ = start([waits, "serve", port, "read", 1], here)
        with server:
            done = process.run([*prefix(daemon, us), "/usr/bin/python3", "-c", IDLE, port], timeout_s=60)
            cpu_s[us] = float(done.stdout.split()[-1])
    assert cpu_s[1000] < cpu_s[0] + 0.15, cpu_s


def count_calls(words, here, name):
    trace = f"{here}/{name}"
    process.run(["strace", "-f", "-qq", "-o", trace, *words], timeout_s=60)
    with open(trace, encoding="utf-8", errors="replace") as f:
        return re.findall(r"(epoll_p?wait2?|poll|ppoll|p?select6?)\(", f.read())


ELSEWHERE = """
import os, select
a, b = os.pipe()
e = select.epoll()
e.register(a, select.EPOLLIN)
p = select.poll()
p.register(a, select.POLLIN)
for i in range(20):
    e.poll(0.001)
    p.poll(1)
    select.select([a], [], [], 0.001)
"""


def test_waits_for_what_is_not_ours_are_untouched(daemon, here):
    """A program that routes concern, and that waits for pipes: not one call more."""
    python = ["/usr/bin/python3", "-S", "-c", ELSEWHERE]
    plain = count_calls(python, here, "plain")
    assert len(plain) >= 60
    assert count_calls([*prefix(daemon, 1000), *python], here, "routed")[-len(plain):] == plain


def test_budget_zero_makes_no_look(waits, daemon, here):
    for us, more in ((0, False), (1000, True)):
        port = next(ports)
        server, _ = start([waits, "serve", port, "read", 1], here)
        with server:
            code = IDLE.replace("time.monotonic() + 4", "time.monotonic() + 0.2")
            calls = count_calls([*prefix(daemon, us), "/usr/bin/python3", "-c", code, port], here, f"idle{us}")
            with open(f"{here}/idle{us}", encoding="utf-8", errors="replace") as f:
                looks = len(re.findall(r"(?:epoll_wait|epoll_pwait)\(\d+, .*, 0(?:, NULL, \d+)?\) += ", f.read()))
        assert calls and (looks > 0) == more, (us, looks)


@pytest.mark.fast
def test_budget_reaches_the_program(vmsgr, write):
    routes = write("routes:\n  - {name: all, via: direct}\n")
    show = ["--", "sh", "-c", "echo ${VMSGR_SPIN_US-none}"]
    assert vmsgr("run", "--routes", routes, *show).out == "none\n"
    assert vmsgr("run", "--routes", routes, "--spin-us", "35", *show).out == "35\n"
    assert vmsgr("run", "--routes", routes, "--spin-us=0", *show).out == "0\n"
    assert vmsgr("run", "--routes", routes, *show, env={"VMSGR_SPIN_US": "7"}).out == "7\n"
    assert vmsgr("run", "--routes", routes, "--spin-us", "8", *show, env={"VMSGR_SPIN_US": "x"}).out == "8\n"


@pytest.mark.fast
@pytest.mark.parametrize("bad", ["-1", "1001", "ten", "", "5us", "1.5", "99999999999999999999"])
def test_bad_budget_starts_nothing(vmsgr, write, here, bad):
    routes = write("routes:\n  - {name: all, via: direct}\n")
    run = ["run", "--routes", routes]
    touch = ["--", "touch", f"{here}/started"]
    vmsgr(*run, f"--spin-us={bad}", *touch).refused(2, "--spin-us", "0 (never) to 1000" if bad else "--spin-us")
    vmsgr(*run, *touch, env={"VMSGR_SPIN_US": bad}).refused(2, "$VMSGR_SPIN_US is '", "0 (never) to 1000")
    assert not os.path.exists(f"{here}/started")


@pytest.mark.fast
def test_mistyped_option_is_guessed(vmsgr):
    vmsgr("run", "--spin-uss=5", "--", "true").refused(2, "did you mean", "--spin-us")
    assert "--spin-us" in vmsgr("run", "--help").out


@pytest.mark.fast
def test_library_keeps_its_default_when_the_variable_is_nonsense(vmsgr, write):
    """Set by hand, past `vmsgr run`: said in the log, and nothing breaks."""
    routes = write("routes:\n  - {name: all, via: direct}\n")
    done = vmsgr("run", "--log", "--routes", routes, "--", "env", "VMSGR_SPIN_US=abc", "/bin/true")
    assert done.code == 0 and "$VMSGR_SPIN_US is 'abc', not a whole number" in done.err, done
