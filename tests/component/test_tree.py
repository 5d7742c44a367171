"""The checks of the tree itself, and that they find what they are for."""
import os
import re
import shutil
import subprocess

import pytest
from lib.process import ROOT

pytestmark = pytest.mark.fast

CHECK = os.path.join(ROOT, "tools/check-tree")
SINNERS = {
    "src/shm/a.cc": ('#include "proto/routes.hh"\n', "src/shm may not include src/proto"),
    "src/cli/b.cc": ("#include <seastar/core/future.hh>\n", "may include seastar/core/future.hh"),
    "src/conf/c.cc": ("\n" * 501, "501 lines; at most 500"),
    "tests/c.cc": ("\n" * 601, "601 lines; at most 600"),
    "src/conf/h.cc": ("namespace a {\nint b(int c) {  // {\n" + "c = '{';\n" * 59 + "}\n}\n", "b has 61 lines; at most 60"),
    "src/base/d.hh": ("int x;\n", "no #pragma once"),
    "src/base/CamelCase.cc": ("\n", "file names are snake_case"),
    "src/base/e.cc": ("// " + "x" * 120 + "\n", "123 columns"),
    "src/new/f.cc": ("\n", "src/new is no folder of the house"),
    "tools/m.sh": ("a=1\n" + "<" * 7 + " HEAD\n", "a merge that was not finished"),
    "docs/g.md": ("see /" + "home/somebody/notes\n", "a path of one machine"),
}


def test_check_tree_finds_each_sin(here):
    for path, (text, _) in SINNERS.items():
        os.makedirs(os.path.join(here, os.path.dirname(path)), exist_ok=True)
        with open(os.path.join(here, path), "w", encoding="ascii") as f:
            f.write(text)
    done = subprocess.run([CHECK, here], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    for path, (_, says) in SINNERS.items():
        assert any(line.startswith(path) and says in line for line in done.stdout.splitlines()), (path, done.stdout)
    assert re.search(r"^0 passed, \d+ failed$", done.stdout, re.M)


@pytest.mark.parametrize("page", ["vmsgr.1", "vmsgrd.8", "libvmsgr.3"])
def test_man_pages_have_no_warnings(page):
    if shutil.which("man") is None:
        pytest.skip("no man on this machine")
    done = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", f"{ROOT}/man/{page}"],
                          capture_output=True, text=True, timeout=60, env={**os.environ, "MANROFFSEQ": ""})
    assert done.returncode == 0 and done.stderr == "" and done.stdout


def test_man_page_names_every_command_and_exit_code():
    with open(f"{ROOT}/man/vmsgr.1", encoding="utf-8") as f:
        page = f.read()
    for word in ("run", "status", "conns", "routes", "trunks", "explain", "doctor", "VMSGR_SOCKET", "VMSGR_PRELOAD", "VMSGR_LOG",
                 "VMSGR_SPIN_US", "spin"):
        assert word in page
    for code in (0, 1, 2, 3, 125, 126, 127):
        assert re.search(rf"^\.B {code}$", page, re.M), code


def test_example_configuration_is_good(daemon_command):
    done = daemon_command("--config", f"{ROOT}/packaging/vmsgrd.yaml", "--check-config")
    assert done.code == 0, done
