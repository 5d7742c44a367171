"""What cmake/Hardening.cmake asks for, read back from the binaries that were built."""
import glob
import os
import re
import subprocess

import pytest
from lib import vmsgrd
from lib.process import ROOT

pytestmark = pytest.mark.fast

RELEASE = os.path.dirname(vmsgrd.BIN)
PRELOAD = f"{RELEASE}/lib/libvmsgr-preload.so"
LOADED_BY_OTHERS = [PRELOAD, f"{RELEASE}/lib/libvmsgr.so"]
OLDEST_GLIBC = (2, 34)   # CentOS Stream 9; Ubuntu 22.04 has 2.35, Debian 12 has 2.36
BINARIES = sorted(p for p in glob.glob(f"{RELEASE}/bin/*") + glob.glob(f"{RELEASE}/lib/*.so") if os.path.isfile(p))
# The preload library is made of these, and of files of its own.
IN_PRELOAD = [f"{RELEASE}/archive/libvmsgr_{module}.a" for module in ("base", "shm", "proto", "client")]


def text_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def undefined(path, *words):
    return {line.split()[-1].split("@")[0] for line in text_of("nm", *words, "--undefined-only", path).splitlines()
            if " U " in line}


def test_the_programs_and_libraries_are_there():
    names = {os.path.basename(p) for p in BINARIES}
    assert {"vmsgr", "vmsgrd", "libvmsgr.so", "libvmsgr-preload.so"} <= names


@pytest.mark.parametrize("path", BINARIES, ids=os.path.basename)
def test_relro_bind_now_pie_and_no_executable_stack(path):
    header, segments, dynamic = (text_of("readelf", f"-{what}W", path) for what in "hld")
    assert re.search(r"Type:\s+DYN", header)
    assert re.search(r"^\s*GNU_RELRO ", segments, re.M)
    flags = re.search(r"^\s*GNU_STACK\s+(?:0x\w+\s+){5}(\S+)", segments, re.M)
    assert flags and flags[1] == "RW", segments
    assert "BIND_NOW" in dynamic or re.search(r"FLAGS_1\)\s+Flags:.*\bNOW\b", dynamic)
    assert "TEXTREL" not in dynamic
    if not path.endswith(".so"):
        assert re.search(r"FLAGS_1\)\s+Flags:.*\bPIE\b", dynamic)


@pytest.mark.parametrize("name", ["bin/vmsgr", "bin/vmsgrd", "lib/libvmsgr.so", "lib/libvmsgr-preload.so"])
def test_stacks_are_protected(name):
    assert "__stack_chk_fail" in undefined(f"{RELEASE}/{name}", "-D")


@pytest.mark.parametrize("name", ["bin/vmsgr", "bin/vmsgrd", "lib/libvmsgr.so"])
def test_libc_calls_are_fortified(name):
    fortified = undefined(f"{RELEASE}/{name}", "-D") & {"__memcpy_chk", "__snprintf_chk", "__vsnprintf_chk", "__memset_chk",
                                                         "__fprintf_chk", "__vfprintf_chk", "__memmove_chk"}
    assert fortified


def test_nothing_in_the_preload_library_calls_a_fortified_function_that_it_hooks():
    hooked = {name for name in re.findall(r"\b__\w+_chk\b", text_of("nm", "-D", "--defined-only", PRELOAD))}
    assert {"__read_chk", "__recv_chk", "__recvfrom_chk"} <= hooked
    for archive in IN_PRELOAD:
        assert not hooked & undefined(archive), archive


def test_the_exported_hooks_are_not_taken_from_elsewhere():
    """A second copy of the C++ library's or of libc's symbols would be exported beside the hooks."""
    exported = {line.split()[-1].split("@")[0] for line in text_of("nm", "-D", "--defined-only", PRELOAD).splitlines()}
    with open(f"{ROOT}/cmake/libvmsgr.map", encoding="ascii") as f:
        ours = set(re.findall(r"\bvmsgr_\w+;", f.read()))
    assert ours and not {name.rstrip(";") for name in ours} & exported
    assert not {name for name in exported if name.startswith("_Z")}


@pytest.mark.parametrize("path", LOADED_BY_OTHERS, ids=os.path.basename)
def test_what_others_load_needs_libc_and_the_loader_alone(path):
    needed = set(re.findall(r"\(NEEDED\).*\[(\S+)\]", text_of("readelf", "-dW", path)))
    assert "libc.so.6" in needed and needed <= {"libc.so.6", "ld-linux-x86-64.so.2"}


@pytest.mark.parametrize("path", LOADED_BY_OTHERS, ids=os.path.basename)
def test_what_others_load_needs_no_newer_glibc(path):
    """Versions of symbols; and no GLIBC_ABI_DT_RELR, GLIBC_ABI_GNU2_TLS or better processor, which loaders refuse."""
    needs = text_of("readelf", "-VW", path).partition(".gnu.version_r")[2]
    versions = set(re.findall(r"\bName: (\S+)", needs))
    assert "GLIBC_2.2.5" in versions
    odd = {v for v in versions if not re.fullmatch(r"GLIBC_[0-9.]+", v)}
    new = {v for v in versions - odd if tuple(int(n) for n in v[6:].split(".")[:2]) > OLDEST_GLIBC}
    symbols = text_of("objdump", "-T", path).splitlines()
    assert not odd | new, [line for line in symbols if any(f"({v})" in line for v in odd | new)]
    assert "RELR" not in text_of("readelf", "-dW", path)
    assert not re.search(r"x86 ISA needed:.*x86-64-v[2-9]", text_of("readelf", "-nW", path))
