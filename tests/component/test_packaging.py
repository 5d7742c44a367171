"""What is installed beside the programs says what they say: completions, manual pages, the systemd unit, the packages."""
import glob
import importlib.util
import os
import re
import shutil
import subprocess

import pytest
from lib import vmsgrd
from lib.process import ROOT

pytestmark = pytest.mark.fast

RELEASE = os.path.dirname(vmsgrd.BIN)
COMPLETION = f"{RELEASE}/completion"
PAGES = {"vmsgr": "vmsgr.1", "vmsgrd": "vmsgrd.8"}


def completions():
    spec = importlib.util.spec_from_file_location("completions", f"{ROOT}/packaging/completion/completions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def commands():
    module = completions()
    return {program: module.read_commands(os.path.join(vmsgrd.BIN, program)) for program in PAGES}


def complete(program, *words, current=""):
    """What bash offers for the word `current` after these."""
    script = (f'source {COMPLETION}/bash/{program}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _{program}; '
              'printf "%s\\n" "${COMPREPLY[@]}"')
    done = subprocess.run(["bash", "-c", script, "bash", program, *words, current], capture_output=True, text=True,
                          timeout=20, cwd=ROOT)
    assert done.returncode == 0 and done.stderr == "", done
    return set(done.stdout.split())


def test_completions_know_every_command_and_option(commands):
    for program, known in commands.items():
        assert len(known) >= {"vmsgr": 12, "vmsgrd": 1}[program]
        for c in known:
            assert complete(program, *c.name.split(), current="--") >= {o.long for o in c.options}, c.name
            if c.commands:
                assert complete(program, *c.name.split()) == set(c.commands), c.name


@pytest.mark.parametrize("words, current, expected", [
    (["routes", "test", "--role"], "", {"client", "server"}),
    (["--json", "status"], "--s", {"--socket"}),
    (["--socket", "run"], "rou", {"routes"}),                # `run` is the socket's name
    (["run", "--routes"], "packaging/vmsgrd.y", {"packaging/vmsgrd.yaml"}),
    (["run", "--"], "bas", {"bash"}),
    (["run"], "bas", {"bash"}),
    (["run", "cat"], "packaging/vmsgrd.y", {"packaging/vmsgrd.yaml"}),
    (["send", ":7000"], "packaging/vmsgrd.y", {"packaging/vmsgrd.yaml"}),
    (["explain"], "", set()),
])
def test_bash_completes(words, current, expected):
    offered = complete("vmsgr", *words, current=current)
    assert offered == expected if len(expected) != 1 else offered >= expected


def test_vmsgrd_completes_its_modes():
    assert complete("vmsgrd", "--poll-mode") == {"adaptive", "busy"}


@pytest.mark.parametrize("shell, files", [("bash", "*"), ("zsh", "_*"), ("fish", "*.fish")])
def test_completions_are_good_for_the_shell(shell, files):
    made = sorted(glob.glob(f"{COMPLETION}/{shell}/{files}"))
    assert len(made) == 2
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    for path in made:
        done = subprocess.run([shell, "-n", path], capture_output=True, text=True, timeout=20)
        assert done.returncode == 0 and done.stderr == "", done


@pytest.mark.parametrize("program", PAGES)
def test_manual_page_and_help_name_the_same_options(commands, program):
    with open(f"{ROOT}/man/{PAGES[program]}", encoding="utf-8") as f:
        page = f.read().replace("\\-", "-")
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page))
    helped = {o.long for c in commands[program] for o in c.options} - {"--help"}
    assert helped <= options, helped - options
    others = {o.long for known in commands.values() for c in known for o in c.options}   # vmsgr status --json
    assert options - {"--help"} <= (helped if program == "vmsgr" else others), options - helped
    for c in commands[program]:
        for name in c.commands:
            assert re.search(rf"^\.SS {c.name} ?{name}$".replace("SS  ", "SS "), page, re.M) or name in page, name


def test_packages_have_the_version_of_the_project():
    with open(f"{ROOT}/CMakeLists.txt", encoding="utf-8") as f:
        version = re.search(r"project\(vmsgr VERSION (\S+)", f.read())[1]
    with open(f"{ROOT}/debian/changelog", encoding="utf-8") as f:
        assert re.match(rf"vmsgr \({re.escape(version)}[~)]", f.readline())


def test_packages_depend_on_what_setup_installs():
    with open(f"{ROOT}/debian/control", encoding="utf-8") as f:
        wanted = f.read().partition("Build-Depends:")[2].partition("\nStandards-Version")[0]
    with open(f"{ROOT}/tools/setup.sh", encoding="utf-8") as f:
        script = f.read()
    installed = {w for group in ("build", "from_sid", "deb") for w in re.search(rf"^{group}=\(([^)]*)\)", script, re.M)[1].split()}
    names = {re.split(r"[ :|(]", w.strip())[0] for w in wanted.split(",")} - {"debhelper-compat", "pkgconf"}
    assert names <= installed, names - installed


def test_libvmsgr_symbols_are_those_of_the_export_list():
    with open(f"{ROOT}/cmake/libvmsgr.map", encoding="ascii") as f:
        exported = set(re.findall(r"\b(vmsgr_\w+);", f.read()))
    with open(f"{ROOT}/debian/libvmsgr0.symbols", encoding="ascii") as f:
        assert set(re.findall(r"^ (vmsgr_\w+)@VMSGR_0 ", f.read(), re.M)) == exported


@pytest.fixture
def unit(here):
    """The unit as built, with a daemon where it looks for one."""
    with open(f"{RELEASE}/vmsgrd.service", encoding="utf-8") as f:
        text = f.read()
    path = f"{here}/vmsgrd.service"
    with open(path, "w", encoding="utf-8") as f:
        f.write(re.sub(r"^(ExecStart|ExecReload)=\S+", rf"\1={vmsgrd.VMSGRD}", text, flags=re.M))
    return path


def analyze(*words):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    shown = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, timeout=60).stdout
    if int(re.match(r"systemd (\d+)", shown)[1]) < 250:
        pytest.skip("this systemd-analyze looks at no unit by itself (--offline)")
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60)


def test_unit_has_no_mistakes(unit):
    done = analyze("verify", "--man=no", unit)
    mine = [line for line in done.stderr.splitlines() if "vmsgrd" in line]
    assert done.returncode == 0 and not mine, done


def test_unit_is_exposed_to_little(unit):
    done = analyze("security", "--offline=true", "--threshold=20", unit)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
