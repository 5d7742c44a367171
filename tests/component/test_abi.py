"""The ABI of libvmsgr: names of functions, sizes and offsets of structs and values of constants, as tests/component/libvmsgr.abi has them.

A change that old programs do not notice (a new function, a new field at the end of a struct that carries its `size`) goes into
that file: `VMSGR_WRITE_ABI=1 python3 -m pytest tests/component/test_abi.py`. Any other change needs a new SOVERSION.
"""
import os
import re
import subprocess

import pytest
from lib import vmsgrd
from lib.process import ROOT

pytestmark = pytest.mark.fast

RELEASE = os.path.dirname(vmsgrd.BIN)
RECORD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libvmsgr.abi")


def structs(header):
    """(name, fields) of each struct that programs can see into."""
    header = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\} \1;", header, re.S):
        fields = [re.search(r"(\w+)\s*(\[\d+\])?\s*$", word)[1]
                  for line in body.split(";") if line.strip() for word in line.split(",")]
        yield name, fields


def sizes(header, here):
    program = ['#include <stddef.h>', '#include <stdio.h>', '#include <vmsgr/vmsgr.h>', 'int main(void) {']
    for name, fields in structs(header):
        program.append(f'printf("{name} %zu bytes\\n", sizeof({name}));')
        program += [f'printf("{name}.{field} at %zu\\n", offsetof({name}, {field}));' for field in fields]
    for constant in re.findall(r"^#define (VMSGR_\w+) \d+", header, re.M):
        program.append(f'printf("{constant} = %d\\n", {constant});')
    source = os.path.join(here, "abi.c")
    with open(source, "w", encoding="ascii") as f:
        f.write("\n".join([*program, "}"]) + "\n")
    subprocess.run(["gcc-14", "-D_GNU_SOURCE", f"-I{ROOT}/include", f"-I{RELEASE}/include", source, "-o", f"{here}/abi"],
                   check=True)
    return subprocess.run([f"{here}/abi"], capture_output=True, text=True, check=True).stdout.splitlines()


def exported():
    done = subprocess.run(["nm", "-D", "--defined-only", f"{RELEASE}/lib/libvmsgr.so"], capture_output=True, text=True,
                          check=True)
    return sorted(line.split()[-1] for line in done.stdout.splitlines() if line.split()[-2] != "A")


def test_abi_is_the_recorded_one(here):
    with open(f"{ROOT}/include/vmsgr/vmsgr.h", encoding="ascii") as f:
        header = f.read()
    now = exported() + sizes(header, here)
    assert "vmsgr_error.text at 4" in now and "vmsgr_session_open@@VMSGR_0" in now
    if os.environ.get("VMSGR_WRITE_ABI"):
        with open(RECORD, "w", encoding="ascii") as f:
            f.write("\n".join(now) + "\n")
    with open(RECORD, encoding="ascii") as f:
        assert now == f.read().splitlines()


def test_the_map_names_what_the_header_declares_and_nothing_else():
    with open(f"{ROOT}/include/vmsgr/vmsgr.h", encoding="ascii") as f:
        declared = set(re.findall(r"^VMSGR_API [^;(]*?(\w+)\(", f.read(), re.M))
    with open(f"{ROOT}/cmake/libvmsgr.map", encoding="ascii") as f:
        named = set(re.findall(r"^\s+(vmsgr_\w+);$", f.read(), re.M))
    assert len(declared) > 40 and named == declared
