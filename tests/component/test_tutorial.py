"""docs/TUTORIAL.md is run, line by line: each command succeeds, and prints what stands below it, other numbers allowed."""
import os
import re
import subprocess

import pytest
from lib import netns, process, vmsgrd

PAGE = os.path.join(process.ROOT, "docs/TUTORIAL.md")
MARK = "=== {} ==="


def steps():
    """(command, lines of its output) in the order of the page."""
    with open(PAGE, encoding="utf-8") as f:
        blocks = re.findall(r"^```console\n(.*?)^```$", f.read(), re.M | re.S)
    found = []
    for line in "".join(blocks).splitlines():
        if line.startswith("$ "):
            found.append([line[2:], []])
        elif line.startswith("> "):
            found[-1][0] += "\n" + line[2:]
        elif line.strip():
            found[-1][1].append(line)
    return found


def pattern(line):
    """Numbers may be others, '...' is anything, blanks are any blanks."""
    words = (r".*" if w == "..." else re.sub(r"(?:\\?[.,]?\d)+[KMG]?", r"[\\d.,:]+[KMG]?", re.escape(w)) for w in line.split())
    return r"\s*" + r"\s+".join(words).replace(r"\s+.*", r"(?:\s.*)?")


def test_the_tutorial_works():
    wanted = steps()
    assert len(wanted) > 15
    script = "cd /\n" + "".join(f"{command}\necho '{MARK.format(n)}' $?\n" for n, (command, _) in enumerate(wanted))
    script += "kill $(jobs -p) 2>/dev/null; wait 2>/dev/null; rm -rf /tmp/vmsgr-tutorial\n"
    environment = {"PATH": f"{vmsgrd.BIN}:{os.environ['PATH']}", "HOME": "/root", "LANG": "C.UTF-8"}
    with netns.Netns("tutorial") as space:
        done = subprocess.run([*space.prefix, "env", "-i", *(f"{k}={v}" for k, v in environment.items()), "bash", "-s"],
                              input=script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100,
                              check=False)
    at = 0
    for n, (command, lines) in enumerate(wanted):
        mark = re.compile(re.escape(MARK.format(n)) + r" (\d+)\n").search(done.stdout, at)
        assert mark, f"no end of: {command}\n{done.stdout[at:]}"
        printed, at = done.stdout[at:mark.start()].splitlines(), mark.end()
        assert mark[1] == "0" or command.startswith("vmsgr doctor"), (command, printed)
        left = iter(printed)
        for line in lines:
            assert any(re.fullmatch(pattern(line), p) for p in left), f"{command}\nprinted\n" + "\n".join(printed) + \
                f"\nwithout\n{line}"


@pytest.mark.parametrize("line, good, bad", [
    ("SET: 81234.50 requests per second, ...", "SET: 9.1 requests per second, p50=1", "GET: 9.1 requests per second, p"),
    ("PID  FD LOCAL", "  PID FD LOCAL", "PID LOCAL"),
    ("redis direct 24G", "redis direct 3.5M", "redis local 24G"),
])
def test_lines_are_compared_word_by_word(line, good, bad):
    assert re.fullmatch(pattern(line), good) and not re.fullmatch(pattern(line), bad)
