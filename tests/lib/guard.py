"""The last line of cleaning up: a small process that outlives its parent by a moment.

`process.py` starts it and tells it on stdin which sessions and directories exist. When the parent is gone,
killed by SIGKILL included, stdin ends, and the guard kills what still runs in those sessions and removes those
directories. It acts on nothing that was not named to it.

    session SID TICKS    SID is a session leader started at TICKS (field 22 of /proc/PID/stat)
    forget SID           it ended and was waited for
    dir PATH, undir PATH
    release              the parent leaves everything running on purpose
"""
import os
import shutil
import signal
import sys
import time


def members(sid, ticks):
    """Processes of session `sid` not older than its leader was: a number used again is not ours."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as f:
                fields = f.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == sid and int(fields[19]) >= ticks and fields[0] not in "ZX":
            found.append(int(name))
    return found


def kill_session(sid, ticks, patience_s=5.0):
    """SIGKILL to every process of a session until none is left."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        pids = members(sid, ticks)
        if not pids:
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.01)


def main():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    sessions, dirs = {}, {}
    for line in sys.stdin:
        verb, _, rest = line.rstrip("\n").partition(" ")
        if verb == "session":
            sid, ticks = rest.split()
            sessions[int(sid)] = int(ticks)
        elif verb == "forget":
            sessions.pop(int(rest), None)
        elif verb == "dir":
            dirs[rest] = True
        elif verb == "undir":
            dirs.pop(rest, None)
        elif verb == "release":
            return
    for sid, ticks in reversed(list(sessions.items())):
        kill_session(sid, ticks)
    for path in dirs:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main()
