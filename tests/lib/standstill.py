"""Hooks for conftest files. A test that fails while the machine stood still is run again, at most twice: a virtual machine that
others take the processors from for a second proves nothing about time. A process that only sleeps tells, by when it was woken.
A few busy programs of ours do not delay it so; hundreds could. What ran again is said at the end with how it had failed, and in
the JUnit file. A failure of a fixture's end always counts: it may be of earlier tests.
"""
import atexit
import os
import subprocess
import sys
import tempfile
import time

from _pytest.runner import runtestprotocol

NOTICED_S = 0.1
RUNS = 3
SLEEPER = f"""
import os, time
parent, last = os.getppid(), time.monotonic()
while os.getppid() == parent:
    time.sleep(0.01)
    now = time.monotonic()
    if now - last > {NOTICED_S}:
        os.write(1, b"%f %f\\n" % (last, now))
    last = now
"""


class Sleeper:
    def __init__(self):
        self._out = tempfile.TemporaryFile()
        self._process = subprocess.Popen([sys.executable, "-c", SLEEPER], stdin=subprocess.DEVNULL, stdout=self._out)
        atexit.register(self.end)

    def end(self):
        self._process.kill()
        self._process.wait()

    def longest_s(self, since, until):
        """The longest time, in seconds, for which the machine has stood still between those (time.monotonic())."""
        time.sleep(3 * NOTICED_S)   # it writes of one when that is over
        text = os.pread(self._out.fileno(), os.fstat(self._out.fileno()).st_size, 0).decode()
        spans = [tuple(map(float, line.split())) for line in text.splitlines()]
        return max((end - begin for begin, end in spans if begin < until and end > since), default=0)


_sleeper = None


def pytest_runtest_protocol(item, nextitem):
    global _sleeper
    _sleeper = _sleeper or Sleeper()
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for run in range(1, RUNS + 1):
        began = time.monotonic()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        ended, failed = time.monotonic(), [r for r in reports if r.failed]
        if run == RUNS or not failed or any(r.when == "teardown" for r in failed):
            break
        still_s = _sleeper.longest_s(began, ended)
        if still_s == 0:
            break
        how = getattr(failed[0].longrepr, "reprcrash", failed[0].longrepr)
        item.user_properties.append(("stood_still_s", f"{still_s:.2f}: {how}"))
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter):
    for reports in terminalreporter.stats.values():
        for r in reports:
            still = [value for name, value in getattr(r, "user_properties", ()) if name == "stood_still_s"]
            if still and r.when == "teardown":
                terminalreporter.write_line(f"ran again, as the machine stood still: {r.nodeid}")
                for text in still:
                    terminalreporter.write_line(f"    {text}")
