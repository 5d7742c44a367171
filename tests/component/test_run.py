"""vmsgr run: what it does to the environment, how it finds things, and how it ends."""
import json
import os
import shutil
import subprocess

import pytest
from lib import vmsgrd

pytestmark = pytest.mark.fast

SHOW = "import os, json; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith(('VMSGR', 'LD_'))}))"
PYTHON = "/usr/bin/python3"
LIBRARY = os.path.join(os.path.dirname(vmsgrd.BIN), "lib", "libvmsgr-preload.so")
ROUTES = "routes:\n  - {name: all, via: direct, ports: 6800-7300}\n"


@pytest.fixture
def routes_file(write):
    return write(ROUTES)


def environment(done):
    assert done.code == 0 and done.err == "", done
    return json.loads(done.out)


def test_program_gets_library_routes_and_socket(vmsgr, routes_file, here):
    env = environment(vmsgr("run", "-q", "--routes", routes_file, "--socket", f"{here}/v.sock", "--", PYTHON, "-c", SHOW))
    assert env == {"LD_PRELOAD": LIBRARY, "VMSGR_SOCKET": f"{here}/v.sock",
                   "VMSGR_ROUTES": "all * any * 6800-7300 direct posix", "VMSGR_INHERIT": "0"}


def test_log_and_an_earlier_preload_are_kept(vmsgr, routes_file):
    libc = next(path for path in ("/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6") if os.path.exists(path))
    env = environment(vmsgr("run", "--log", "--quiet", "--routes", routes_file, "--", PYTHON, "-c", SHOW,
                            env={"LD_PRELOAD": libc}))
    assert env["LD_PRELOAD"] == f"{LIBRARY}:{libc}"
    assert env["VMSGR_LOG"] == "1"


def test_relative_socket_becomes_absolute(vmsgr, routes_file, here):
    done = subprocess.run([vmsgrd.VMSGR, "run", "--socket", "x/../v.sock", "--routes", routes_file, PYTHON, "-c", SHOW],
                          cwd=here, capture_output=True, text=True, timeout=20)
    assert json.loads(done.stdout)["VMSGR_SOCKET"] == f"{here}/v.sock"


def test_routes_come_from_the_daemon(vmsgr, daemon):
    env = environment(vmsgr("run", "--socket", daemon.socket, "--", PYTHON, "-c", SHOW))
    assert env["VMSGR_ROUTES"].split(";")[2] == "loopback * any 127.0.0.0/8 0-65535 direct posix"


def test_without_daemon_and_routes_the_program_runs_plain_with_a_warning(vmsgr, here):
    done = vmsgr("run", "--socket", f"{here}/v.sock", "--", PYTHON, "-c", SHOW + "; raise SystemExit(7)")
    assert done.code == 7 and done.out == "{}\n", done
    assert done.err.count("\n") == 1 and "runs without VMSGR: no vmsgrd at" in done.err


@pytest.mark.parametrize("quiet", [[], ["-q"], ["--quiet"]], ids=["told", "q", "quiet"])
def test_without_daemon_but_with_routes_the_library_waits_for_one(vmsgr, routes_file, here, quiet):
    done = vmsgr("run", *quiet, "--socket", f"{here}/v.sock", "--routes", routes_file, "--", PYTHON, "-c", SHOW)
    assert done.code == 0 and json.loads(done.out)["LD_PRELOAD"] == LIBRARY, done
    says = f"vmsgr: run: {PYTHON} runs on plain sockets until vmsgrd takes its connections: no vmsgrd at {here}/v.sock"
    assert done.err == "" if quiet else done.err.startswith(says) and done.err.count("\n") == 1, done


@pytest.mark.parametrize("words", [[], ["--routes"]], ids=["daemon-routes", "own-routes"])
def test_who_may_not_use_the_socket_is_told_once(vmsgr, daemon, routes_file, here, words):
    os.chmod(here, 0o755)
    run = ["run", "--socket", daemon.socket, *words, *([routes_file] if words else [])]
    told = vmsgr(*run, "--", "true", user=65534)
    assert told.code == 0 and told.err.count("\n") == 1, told
    assert f"no permission for {daemon.socket} (mode 0660, group root); join that group" in told.err
    silent = vmsgr(*run, "-q", "--", "true", user=65534)
    assert (silent.code, silent.err) == (0, ""), silent
    root = vmsgr(*run, "--", "true")
    assert (root.code, root.err) == (0, ""), root


def test_words_of_the_program_are_its_own(vmsgr, routes_file):
    echo = [PYTHON, "-c", "import sys; print(sys.argv[1:])", "--json", "--socket", "--", "status", "--help"]
    for separator in (["--"], []):
        done = vmsgr("run", "--routes", routes_file, *separator, *echo)
        assert done.out == "['--json', '--socket', '--', 'status', '--help']\n", done


def test_exit_code_and_signal_are_the_programs(vmsgr, routes_file):
    assert vmsgr("run", "--routes", routes_file, "--", "sh", "-c", "exit 42").code == 42
    assert vmsgr("run", "--routes", routes_file, "--", "sh", "-c", "kill -9 $$").code == -9


def test_missing_program_is_127_and_unexecutable_126(vmsgr, routes_file, write):
    run = ["run", "--routes", routes_file, "--"]
    vmsgr(*run, "no-such-program").refused(127, "no-such-program: not found in PATH")
    vmsgr(*run, "/no/such/program").refused(127, "/no/such/program: no such program")
    vmsgr(*run, write("text", "plain.txt")).refused(126, "found, but it cannot be executed")
    vmsgr(*run, "/").refused(126, "/: found, but it cannot be executed")


def test_broken_routes_file_starts_nothing(vmsgr, write, here):
    path = write("routes:\n  - {name: a, via: driect}\n")
    vmsgr("run", "--routes", path, "--", "touch", f"{here}/started").refused(125, f"{path}:2: routes[0].via: 'driect'")
    assert not os.path.exists(f"{here}/started")


def test_missing_library_starts_nothing(vmsgr, routes_file, here):
    run = ["run", "--routes", routes_file, "--", "touch", f"{here}/started"]
    vmsgr(*run, env={"VMSGR_PRELOAD": f"{here}/none.so"}).refused(125, "$VMSGR_PRELOAD names", "which is no file")
    os.makedirs(f"{here}/bin")
    shutil.copy(vmsgrd.VMSGR, f"{here}/bin/vmsgr")
    done = subprocess.run([f"{here}/bin/vmsgr", *run], capture_output=True, text=True, timeout=20)
    assert done.returncode == 125 and f"is not in {here}/lib; build or install it" in done.stderr
    os.makedirs(f"{here}/a b")
    shutil.copy(LIBRARY, f"{here}/a b/libvmsgr-preload.so")
    vmsgr(*run, env={"VMSGR_PRELOAD": f"{here}/a b/libvmsgr-preload.so"}).refused(125, "a space or colon")
    assert not os.path.exists(f"{here}/started")


def test_installed_library_is_found_beside_the_binary(routes_file, here):
    os.makedirs(f"{here}/bin")
    os.makedirs(f"{here}/lib/vmsgr")
    shutil.copy(vmsgrd.VMSGR, f"{here}/bin/vmsgr")
    shutil.copy(LIBRARY, f"{here}/lib/vmsgr/libvmsgr-preload.so")
    done = subprocess.run([f"{here}/bin/vmsgr", "run", "--routes", routes_file, PYTHON, "-c", SHOW],
                          capture_output=True, text=True, timeout=20)
    assert json.loads(done.stdout)["LD_PRELOAD"] == f"{here}/lib/vmsgr/libvmsgr-preload.so"


@pytest.fixture
def static_program(here):
    source, path = f"{here}/s.c", f"{here}/static"
    with open(source, "w", encoding="ascii") as f:
        f.write('#include <stdio.h>\n#include <stdlib.h>\n'
                'int main(void) { const char* p = getenv("LD_PRELOAD"); puts(p ? p : "plain"); return 3; }\n')
    compiler = shutil.which("gcc-14") or shutil.which("gcc")
    subprocess.run([compiler, "-static", "-o", path, source], check=True)
    return path


def test_static_program_runs_plain_with_a_warning(vmsgr, routes_file, static_program, write):
    script = write(f"#! {static_program} -x\n", "script", 0o755)
    for program in (static_program, script):
        done = vmsgr("run", "--routes", routes_file, "--", program)
        assert done.code == 3 and done.out == "plain\n", done
        assert vmsgr("run", "-q", "--routes", routes_file, "--", program).err == ""
        assert done.err.count("\n") == 1 and "it is linked statically, so LD_PRELOAD is ignored" in done.err


def test_setuid_program_runs_plain_with_a_warning(vmsgr, here, routes_file):
    program = f"{here}/setuid"
    shutil.copy(shutil.which("true"), program)
    os.chmod(program, 0o4755)
    os.chmod(here, 0o755)
    done = vmsgr("run", "--routes", routes_file, "--", program, user=65534)
    assert done.code == 0 and "it is setuid, so LD_PRELOAD is ignored" in done.err, done
