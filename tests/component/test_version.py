"""The version is written in CMakeLists.txt alone; everything that shows it has it from there."""
import os
import re
import subprocess

import pytest
from lib import vmsgrd
from lib.process import ROOT

pytestmark = pytest.mark.fast

RELEASE = os.path.dirname(vmsgrd.BIN)


def text_of(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


@pytest.fixture
def version():
    return re.search(r"^project\(vmsgr VERSION (\d+\.\d+\.\d+) ", text_of(f"{ROOT}/CMakeLists.txt"), re.M)[1]


@pytest.mark.parametrize("program", ["vmsgr", "vmsgrd"])
def test_programs_show_it(program, version):
    done = subprocess.run([f"{vmsgrd.BIN}/{program}", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{program} {version}\n"


@pytest.mark.parametrize("path,shows", [("include/vmsgr/version.h", '#define VMSGR_VERSION "{}"'),
                                        ("vmsgr.pc", "Version: {}"), ("man/vmsgr.1", '"VMSGR {}"'),
                                        ("man/vmsgrd.8", '"VMSGR {}"'), ("man/libvmsgr.3", '"VMSGR {}"')])
def test_generated_files_show_it(path, shows, version):
    assert shows.format(version) in text_of(f"{RELEASE}/{path}")


def test_nothing_else_in_the_sources_writes_it(version):
    files = subprocess.run(["git", "grep", "-lF", f'"{version}"', "--", "src", "include", "cmake", "man", "packaging"],
                           cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert not files
