#!/usr/bin/python3
"""CPython's own tests of everything that uses sockets, on kernel sockets and through VMSGR: each has to come out the same.

Three modes: plain; local (server and client memory to memory); direct (both through vmsgrd, by routes with `local: no`).
A test that comes out otherwise than plain is run again by itself, three times in both modes: it differs if it still does in
most of them. What differs and has no reason in known.txt fails. With --table the results go into docs/COMPATIBILITY.md.
Exit code: 0 the same everywhere, known differences excepted; 1 something differs; 2 the suite is not there.
"""
import argparse
import fnmatch
import glob
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests"))

from lib import netns, process, vmsgrd  # noqa: E402

MODULES = ("test_socket test_asyncio test_ssl test_selectors test_epoll test_poll test_select test_socketserver test_httplib "
           "test_httpservers test_ftplib test_smtplib test_imaplib test_poplib test_xmlrpc test_subprocess test_signal "
           "test_io").split()
MODES = ("plain", "local", "direct")
OPTIONS = {"test_socket": ["-i", "*VSOCK*"],        # needs a hypervisor, and hangs without one
           "test_socketserver": ["-u", "network"]}  # nothing of it leaves the machine
TEST_LIMIT_S, MODULE_LIMIT_S, AGAIN = 180, 900, 3
KNOWN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "known.txt")
TABLE = os.path.join(ROOT, "docs/COMPATIBILITY.md")
BEGIN, END = "<!-- made by make test-suites -->", "<!-- end -->"
NOT_THERE = "CPython's test suite is not installed: run 'tools/setup.sh suites' as root"


def interpreter():
    """The system's python3 if its tests are there, else another version of the system that has them; or None."""
    for python in ["/usr/bin/python3", *sorted(glob.glob("/usr/bin/python3.[0-9]*[0-9]"), reverse=True)]:
        there = subprocess.run([python, "-c", "import test.test_socket"], capture_output=True, check=False)
        if there.returncode == 0:
            return python
    return None


class Outcome:
    """What a module's run gave: {test: 'ok' | 'failed' | 'skipped'}, and how the run itself ended ('' well)."""

    def __init__(self, tests, trouble, connections):
        self.tests, self.trouble, self.connections = tests, trouble, connections

    def count(self, what):
        return sum(1 for r in self.tests.values() if r == what)


def outcomes_in(xml):
    try:
        cases = ET.parse(xml).getroot().iter("testcase")
    except (OSError, ET.ParseError):
        return {}
    found = {}
    for case in cases:
        bad = case.find("failure") is not None or case.find("error") is not None
        result = "failed" if bad else "skipped" if case.find("skipped") is not None else "ok"
        name = case.get("name")
        found[name] = "failed" if "failed" in (result, found.get(name)) else result
    return found


class Suite:
    """The daemon and the runs beside it, in a network namespace where there may be one."""

    def __init__(self, python, logs, patience_s=MODULE_LIMIT_S):
        self.python, self.logs, self.patience_s = python, logs, patience_s
        os.makedirs(logs, exist_ok=True)
        self.dir = process.make_dir("vs-")
        self.netns = None if netns.why_not() else netns.Netns("suites")
        routes = [vmsgrd.route("v4", address="127.0.0.0/8"), vmsgrd.route("v6", address="::1/128")]
        self.daemon = vmsgrd.Vmsgrd(self.dir, routes=routes, netns=self.netns).start()
        self.prefixes = {"plain": [], "local": self.daemon.prefix(routes),
                         "direct": self.daemon.prefix([{**r, "local": "no"} for r in routes])}

    def close(self):
        self.daemon.stop()
        if self.netns:
            self.netns.close()
        process.remove_dir(self.dir)

    def _connections(self):
        totals = self.daemon.status()["totals"]
        return totals["connections_total"] + totals["locals_opened"]

    def run(self, module, mode, only=(), label=""):
        """One run of a module, or of some of its tests."""
        name = f"{module}.{mode}{label}"
        xml, log = os.path.join(self.logs, name + ".xml"), os.path.join(self.logs, name + ".log")
        if os.path.exists(xml):
            os.unlink(xml)
        work = os.path.join(self.dir, f"work-{name}")
        os.makedirs(work, exist_ok=True)
        # A shell without a terminal starts what runs beside it with SIGINT ignored, and the suite tests SIGINT.
        words = ["env", "--default-signal=INT", *self.prefixes[mode], self.python, "-E", "-m", "test", "-v", "--timeout", str(TEST_LIMIT_S),
                 "--tempdir", work, "--junit-xml", xml, *OPTIONS.get(module, [])]
        for test in only:
            words += ["-m", test]
        before = self._connections()
        if os.path.exists(log):
            os.unlink(log)
        run = process.Process([*words, module], log=log, name=name, netns=self.netns, cwd=work,
                              env={"PYTHONDONTWRITEBYTECODE": "1"})
        try:
            code = run.wait(self.patience_s)
        except process.Failed:
            run.kill()
            code = None
        tests = outcomes_in(xml)
        trouble = "" if tests else f"no end after {self.patience_s} s" if code is None else f"ended with {code}"
        if trouble:
            trouble += " in " + last_test(log)
        return Outcome(tests, trouble, self._connections() - before)

    def still_differs(self, module, mode, test):
        """Whether it comes out otherwise than plain in most of some more runs of it alone."""
        differ = 0
        for n in range(AGAIN):
            plain, routed = (self.run(module, m, [test], f".again{n}") for m in ("plain", mode))
            differ += plain.tests.get(test) != routed.tests.get(test)
        return differ * 2 > AGAIN


def last_test(log):
    """The last test that a log names as begun."""
    names = re.findall(r"^(\w+) \(([\w.]+)\)", process.tail(log, 400), re.M)
    return names[-1][1] if names else "its start"


def read_known(path=KNOWN):
    """[(pattern, modes, reason)] of known.txt."""
    found = []
    with open(path, encoding="utf-8") as f:
        for line in f:
            if line.strip() and not line.startswith("#"):
                pattern, modes, reason = line.split(None, 2)
                found.append((pattern, modes.split(","), reason.strip()))
    return found


def reason_for(known, test, mode):
    return next((reason for pattern, modes, reason in known if mode in modes and fnmatch.fnmatchcase(test, pattern)), None)


def stale(known, rows):
    """Lines of known.txt whose tests all ran and that explained nothing."""
    ran = {test for r in rows for test in r.outcomes["plain"].tests}
    differing = [d[0] for r in rows for d in r.differing]
    return [pattern for pattern, _, _ in known if fnmatch.filter(ran, pattern) and not fnmatch.filter(differing, pattern)]


def differences(plain, routed):
    """Tests that come out otherwise. A run that broke off says nothing of those that it did not reach."""
    tests = set(routed.tests) | (set() if routed.trouble else set(plain.tests))
    return sorted(t for t in tests if plain.tests.get(t) != routed.tests.get(t))


class Row:
    def __init__(self, module):
        self.module, self.outcomes, self.differing, self.seconds = module, {}, [], 0.0

    def unexplained(self):
        return [d for d in self.differing if d[2] is None]


def check_module(suite, module, modes, known):
    row, began = Row(module), time.monotonic()
    for mode in modes:
        row.outcomes[mode] = suite.run(module, mode)
    for mode in modes[1:]:
        routed = row.outcomes[mode]
        for test in differences(row.outcomes["plain"], routed):
            if suite.still_differs(module, mode, test):
                row.differing.append((test, mode, reason_for(known, test, mode)))
        if routed.trouble and routed.trouble != row.outcomes["plain"].trouble:
            row.differing.append((routed.trouble, mode, None))
    row.seconds = time.monotonic() - began
    return row


def plain_text(outcome):
    words = [f"{outcome.count('ok')} ok", f"{outcome.count('skipped')} skipped", f"{outcome.count('failed')} failed"]
    return ", ".join(w for w in words if not w.startswith("0 ") or w.endswith("ok")) + \
        (f"; {outcome.trouble}" if outcome.trouble else "")


def routed_text(row, mode):
    if mode not in row.outcomes:
        return "not run"
    many = sum(1 for d in row.differing if d[1] == mode)
    return (f"{many} differ" if many else "the same") + f" ({row.outcomes[mode].connections})"


def table(rows, python):
    """The part of docs/COMPATIBILITY.md that this command makes."""
    version = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    lines = [BEGIN, "", f"{version}, as Debian packages it. In brackets: the connections' ends that were carried.", "",
             "| module | tests | plain | local | direct | tests that differ |", "|---|---|---|---|---|---|"]
    for r in rows:
        differ = {}
        for test, mode, reason in r.differing:
            differ.setdefault((test, reason), []).append(mode)
        cells = [f"`{t.removeprefix(f'test.{r.module}.')}` ({', '.join(m)}): {why or 'no reason known'}"
                 for (t, why), m in differ.items()]
        lines.append(f"| {r.module} | {len(r.outcomes['plain'].tests)} | {plain_text(r.outcomes['plain'])} | "
                     f"{routed_text(r, 'local')} | {routed_text(r, 'direct')} | {'<br>'.join(cells) or '-'} |")
    return "\n".join([*lines, "", END])


def write_table(text, path=TABLE):
    with open(path, encoding="utf-8") as f:
        before, _, rest = f.read().partition(BEGIN)
    with open(path, "w", encoding="utf-8") as f:
        f.write(before + text + rest.partition(END)[2])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--module", action="append", choices=MODULES, help="only this one; may be repeated")
    parser.add_argument("--modes", default="local,direct", help="beside plain: local, direct")
    parser.add_argument("--table", action="store_true", help="write the results into docs/COMPATIBILITY.md")
    parser.add_argument("--logs", default=os.path.join(ROOT, "build/test-logs/suites"))
    words = parser.parse_args()
    python = interpreter()
    if python is None:
        print(NOT_THERE, file=sys.stderr)
        return 2
    known, rows = read_known(), []
    modes = ["plain", *(m for m in MODES[1:] if m in words.modes.split(","))]
    suite = Suite(python, words.logs)
    try:
        for module in words.module or MODULES:
            row = check_module(suite, module, modes, known)
            rows.append(row)
            print(f"{module:18} {row.seconds:6.1f} s  {plain_text(row.outcomes['plain'])}; " +
                  "; ".join(f"{m}: {routed_text(row, m)}" for m in modes[1:]), flush=True)
            for test, mode, reason in row.differing:
                print(f"    {mode}: {test}: {reason or 'NOT EXPLAINED'}", flush=True)
    finally:
        suite.close()
    for pattern in stale(known, rows):
        print(f"known.txt: {pattern} does not differ any more: take it out")
    if words.table:
        write_table(table(rows, python))
    bad = sum(1 for r in rows if r.unexplained())
    print(f"{len(rows) - bad} passed, {bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
