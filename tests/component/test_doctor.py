"""vmsgr doctor: what of a program will stay plain, by kinds. Programs are built so that each has one thing against it."""
import json
import os
import shutil
import struct
import subprocess

import fake
import pytest
from lib import vmsgrd

pytestmark = pytest.mark.fast

PYTHON = "/usr/bin/python3"
LIBRARY = os.path.join(os.path.dirname(vmsgrd.BIN), "lib", "libvmsgr-preload.so")
ROUTES = "routes:\n  - {name: all, via: direct}\n"
NOBODY = 65534
# What main() does besides; it is never run.
CODE = {
    "nothing": "",
    "io_uring": "return syscall(425, 8, p);",
    "seccomp": "return prctl(22, 2, p, 0, 0);",
    "other_prctl": "return prctl(15, p, 0, 0, 0);",
    "deepbind": "return dlopen(p[0], RTLD_NOW | RTLD_DEEPBIND) != 0;",
    "other_dlopen": "return dlopen(p[0], RTLD_NOW | RTLD_GLOBAL) != 0;",
    "uncovered": "extern int pidfd_getfd(int, int, unsigned); return pidfd_getfd(n, n, 0);",
    "own_calls": 'long r; __asm__ volatile("syscall" : "=a"(r) : "a"(44), "D"(n), "S"(p), "d"(1) : "rcx", "r11"); return r;',
}
SOURCE = """#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/prctl.h>
#include <unistd.h>
int main(int n, char** p) {{ {code} return n + (p == 0); }}
{extra}
"""
GO_NOTE = ('__asm__(".section .note.go.buildid,\\"a\\",@note\\n.long 4, 4, 4\\n.ascii \\"Go\\\\0\\\\0\\"\\n.long 7\\n.previous");')


class Shop:
    """Builds programs in a folder, and asks the doctor."""

    def __init__(self, here, vmsgr, daemon):
        self.here, self.vmsgr, self.daemon = here, vmsgr, daemon
        os.chmod(here, 0o755)

    def build(self, name, *options, code="", extra=""):
        source, path = f"{self.here}/{name}.c", f"{self.here}/{name}"
        with open(source, "w", encoding="ascii") as f:
            f.write(SOURCE.format(code=code, extra=extra))
        subprocess.run([shutil.which("gcc-14") or "gcc", "-O1", "-o", path, source, *options], check=True)
        return path

    def ask(self, *words, code, socket=None, **how):
        done = self.vmsgr("doctor", "--json", "--socket", socket or self.daemon.socket, *words, **how)
        assert done.code == code and done.err == "", done
        found = json.loads(done.out)
        assert found["all_carried"] == (code == 0)
        return found, {f["topic"]: f for f in found["findings"]}


@pytest.fixture
def shop(here, vmsgr, daemon):
    return Shop(here, vmsgr, daemon)


@pytest.mark.parametrize("kind", ["nothing", "other_prctl", "other_dlopen"])
def test_a_common_program_is_carried(shop, kind):
    found, topics = shop.ask(shop.build("common", code=CODE[kind]), code=0)
    assert found["name"] == "common" and set(topics) == {"file", "daemon", "route"}
    assert {f["weight"] for f in found["findings"]} == {"fine"}


def test_real_programs_are_carried(shop):
    for program in (PYTHON, "sh", "curl", "redis-server", "iperf3"):
        if shutil.which(program):
            shop.ask(program, "whatever", "--json", code=0)


@pytest.mark.parametrize("kind, weight", [("io_uring", "maybe"), ("deepbind", "maybe"), ("uncovered", "maybe"),
                                          ("own_calls", "maybe"), ("seccomp", "hint")])
def test_what_the_code_does_is_said(shop, kind, weight):
    for options in ([], ["-fno-plt"], ["-no-pie"]):
        _, topics = shop.ask(shop.build(kind, *options, code=CODE[kind]), code=0 if weight == "hint" else 1)
        assert topics[kind]["weight"] == weight and topics[kind]["text"].startswith(kind), topics[kind]


def test_code_of_a_library_counts(shop):
    shop.build("libringed.so", "-shared", "-fPIC", "-Dmain=ringed", code=CODE["io_uring"])
    program = shop.build("user", f"{shop.here}/libringed.so", code="extern int ringed(int, char**); return ringed(n, p);")
    _, topics = shop.ask(program, code=1)
    assert topics["io_uring"]["text"].startswith("libringed.so can set io_uring up")


def test_files_into_which_nothing_is_loaded_are_named(shop):
    common = shop.build("common")
    for name, topic, made in (
            ("statically", "static", shop.build("statically", "-static")),
            ("musl", "libc", shop.build("musl", "-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1")),
            ("gopher", "go", shop.build("gopher", extra=GO_NOTE)),
            ("static_gopher", "go", shop.build("static_gopher", "-static", extra=GO_NOTE)),
            ("small", "32-bit", patched(common, f"{shop.here}/small", {4: 1, 18: 3})),
            ("arm", "machine", patched(common, f"{shop.here}/arm", {18: 183}))):
        found, topics = shop.ask(made, code=1)
        assert found["name"] == name and topics[topic]["weight"] == "plain" and topics[topic]["remedy"], found


def patched(program, path, changes):
    with open(program, "rb") as f:
        data = bytearray(f.read())
    for at, value in changes.items():
        data[at] = value
    with open(path, "wb") as f:
        f.write(data)
    os.chmod(path, 0o755)
    return path


def test_rights_of_a_file_are_named(shop):
    if os.geteuid() != 0:
        pytest.skip("needs root, who may give rights to a file")
    program = shop.build("strong")
    for mode, topic in ((0o4755, "setuid"), (0o2755, "setgid")):
        os.chmod(program, mode)
        _, topics = shop.ask(program, code=1, user=NOBODY)
        assert topics[topic]["weight"] == "plain"
        assert topic not in shop.ask(program, code=0)[1]   # root has these rights already
    os.chmod(program, 0o2745)   # no execution for the group: a mark for locks
    os.setxattr(program, "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0))
    _, topics = shop.ask(program, code=1, user=NOBODY)
    assert "capabilities" in topics
    os.chown(program, NOBODY, NOBODY)
    os.chmod(program, 0o4755)
    assert "setuid" in shop.ask(program, code=1)[1]   # root, too, would have another user than its own


def test_scripts_are_judged_by_their_interpreter(shop, write):
    static = shop.build("interpreter", "-static")
    found, topics = shop.ask(write(f"#!{static} -x\n", "script", 0o755), code=1)
    assert (found["name"], found["program"]) == ("interpreter", static) and {"static", "script"} <= set(topics)
    found, topics = shop.ask(write("#!/usr/bin/env -S A=1 python3 -I\n", "py", 0o755), code=0,
                             env={"PATH": "/usr/bin:/bin"})
    assert found["name"] == "python3" and found["program"].endswith("/python3") and "script" in topics
    shop.ask(write("#!/no/such/thing\n", "lost", 0o755), code=1)


def test_a_library_that_this_c_library_is_too_old_for(shop, here):
    """The preload library stands in for one that was built on a newer system: it wants a version of a library that is older."""
    versions = f"{here}/versions"
    os.makedirs(f"{here}/new")
    for name, version in (("new/libold.so", "OLD_2"), ("libold.so", "OLD_1")):
        with open(versions, "w", encoding="ascii") as f:
            f.write(version + " { global: old; };\n")
        shop.build(name, "-shared", "-fPIC", f"-Wl,--version-script={versions}", "-Wl,-soname,libold.so", "-Dmain=old")
    shop.build("libvmsgr-preload.so", "-shared", "-fPIC", "-Dmain=other", f"{here}/new/libold.so",
               code="extern int old(int, char**); return old(n, p);")
    _, topics = shop.ask(shop.build("common"), code=1,
                         env={"VMSGR_PRELOAD": f"{here}/libvmsgr-preload.so", "LD_LIBRARY_PATH": here})
    assert "version `OLD_2' not found" in topics["glibc"]["text"]


def test_other_preloads_are_named(shop, here):
    shop.build("libother.so", "-shared", "-fPIC", "-Dmain=connect")
    _, topics = shop.ask(shop.build("common"), code=0, env={"LD_PRELOAD": f"{here}/libother.so"})
    assert "stands in front of connect()" in topics["preload"]["text"]
    shutil.copy(LIBRARY, f"{here}/libvmsgr-preload.so")
    _, topics = shop.ask(shop.build("common"), code=1, env={"LD_PRELOAD": f"{here}/libvmsgr-preload.so"})
    assert topics["preload"]["remedy"] == "unset LD_PRELOAD"


def test_a_program_with_libraries_beside_it_is_found_through_a_link(shop, here):
    os.makedirs(f"{here}/lib")
    shop.build("lib/libnear.so", "-shared", "-fPIC", "-Dmain=near")
    program = shop.build("real", f"{here}/lib/libnear.so", "-Wl,-rpath,$ORIGIN/lib", code="extern int near(int, char**); near(n, p);")
    os.makedirs(f"{here}/bin")
    os.symlink(program, f"{here}/bin/real")
    os.rename(f"{here}/lib/libnear.so", f"{here}/lib/kept")
    _, topics = shop.ask(f"{here}/bin/real", code=1)
    assert "cannot open shared object file" in topics["linker"]["text"]


def test_daemon_and_routes_are_looked_at(shop, here, write):
    _, topics = shop.ask(PYTHON, code=1, socket=f"{here}/none.sock")
    assert topics["daemon"]["weight"] == "plain" and f"{here}/none.sock" in topics["daemon"]["text"]
    with fake.Fake(f"{here}/v.sock", [[fake.welcome(status=13, text=b"uid 0 is not let in")]]):
        _, topics = shop.ask(PYTHON, code=1, socket=f"{here}/v.sock")
        assert "not let in" in topics["daemon"]["text"]
    only_osds = write('routes:\n  - {name: o, program: "ceph-*", via: direct}\n')
    _, topics = shop.ask("--routes", only_osds, PYTHON, code=1)
    assert topics["routes"]["text"] == "no route is for a program named 'python3'"
    for to, code, says in (("127.0.0.1:80", 0, "is carried, by route 'loopback', via direct"),
                           ("127.0.0.8:80", 1, "stays plain, by route 'kernel'"), ("127.0.0.9:80", 1, "is refused"),
                           ("10.0.0.1:80", 1, "stays plain, no route matches")):
        _, topics = shop.ask("--to", to, PYTHON, code=code)
        assert says in topics["address"]["text"], topics


def test_what_cannot_be_told_is_exit_2(shop, vmsgr, write):
    vmsgr("doctor", "/no/such").refused(2, "/no/such: no such program")
    vmsgr("doctor", write("x")).refused(2, "found, but it cannot be executed")
    vmsgr("doctor", "--routes", write("routes: 1\n", "r.yaml"), "true").refused(2, "r.yaml")


def test_people_get_lines_of_80_columns(shop, vmsgr, daemon):
    done = vmsgr("doctor", "--socket", daemon.socket, shop.build("io_uring_by_itself", code=CODE["io_uring"]))
    assert done.code == 1 and "To do: " in done.out and "maybe" in done.out
    assert all(len(line) <= 80 for line in done.out.splitlines()), done.out
    assert all(len(line) <= 100 for line in vmsgr("doctor", "--help").out.splitlines())


def test_go_programs_run_with_the_library_for_their_children(shop, vmsgr, write):
    done = vmsgr("run", "--routes", write(ROUTES), "--", shop.build("gopher", extra=GO_NOTE), "x")
    assert done.code == 2 and done.err.count("\n") == 1
    assert "the connections of" in done.err and "it is a Go program" in done.err
