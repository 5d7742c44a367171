#!/usr/bin/python3
"""The differential socket test: the same small scenarios on kernel sockets and through VMSGR.

    diff_sockets.py --sockdiff PATH --prefix 'vmsgr run ... --' [--family 4|6|46] [--only GLOB]...

The baseline (pp: both roles plain) runs twice; a scenario that differs from itself is a fault of
the test ("flaky"). Then each combination of COMBOS for which prefixes are given, compared with the
baseline line by line. Differences named in the table of known ones do not fail; known ones that no
longer occur are reported. What differs is run twice more, and counts when it differs again.
Exit: 0 same, 1 differs, 2 usage.
"""
import argparse
import collections
import difflib
import fnmatch
import json
import os
import selectors
import shlex
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROLES = ("server", "client")
# How (server, client) are started: each word but plain is a prefix, and how its connections go follows from its routes.
COMBOS = {"pp": ("plain", "plain"), "rp": ("server", "plain"), "pr": ("plain", "client"), "ll": ("server", "client"),
          "rr": ("direct", "direct"), "tt": ("far", "trunk"), "pt": ("plain", "trunk")}
# A known difference of the one is expected of the other as well.
INHERITS = {"ll": ("rr",), "tt": ("rr",), "pt": ("pr", "tt")}
# A difference counts when one of two more runs shows it again. Single ones are shown; on a loaded machine time-outs
# make a few, so they fail the test only beyond this share. The same goes for the kernel differing from itself.
CONFIRMING_RUNS = 2
UNSTABLE_SHARE = 0.01
STUCK_S = 90  # no word from any lane for so long: something is wrong with the roles themselves


class Lane:
    """One worker in each role, connected by a channel of their own."""

    def __init__(self):
        self.ctl = {}
        self.pending = set()
        self.scenario = None
        self.lines = None


class Roles:
    """The two processes of one combination; runs scenarios on its lanes."""

    def __init__(self, sockdiff, prefixes, jobs, log):
        self.lanes = [Lane() for _ in range(jobs)]
        self.run_id = 0
        fds = {role: ([], []) for role in ROLES}
        theirs = []
        for lane in self.lanes:
            sync = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            theirs += sync
            for role, sync_end in zip(ROLES, sync):
                ours, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                theirs.append(child)
                lane.ctl[role] = ours
                fds[role][0].append(child.fileno())
                fds[role][1].append(sync_end.fileno())
        self.processes = []
        for role, prefix in zip(ROLES, prefixes):
            ctl, sync = (",".join(map(str, f)) for f in fds[role])
            command = prefix + [sockdiff, "--role", role, "--ctl", ctl, "--sync", sync]
            self.processes.append(subprocess.Popen(
                command, pass_fds=fds[role][0] + fds[role][1],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        for s in theirs:
            s.close()

    def start(self, lane, name, family):
        self.run_id += 1
        lane.scenario, lane.lines = (name, family), {role: [] for role in ROLES}
        lane.pending, lane.run_id = set(ROLES), self.run_id
        for role in ROLES:
            lane.ctl[role].send(f"R {self.run_id} {family} {name}".encode())

    def take(self, lane, role):
        """One message; True when the scenario is over in both roles."""
        message = lane.ctl[role].recv(65536)
        if not message:
            raise RuntimeError(f"the {role} process is gone (running {lane.scenario})")
        kind, run, text = message.decode(errors="replace").split(" ", 2)
        if int(run) != lane.run_id:
            return False
        if kind == "E":
            lane.pending.discard(role)
            if text != "exit 0":
                lane.lines[role].append("(ended: " + text + ")")
        else:
            lane.lines[role].append(text)
        return not lane.pending

    def run(self, todo, progress):
        results, todo, free = {}, collections.deque(todo), list(self.lanes)
        selector = selectors.DefaultSelector()
        for lane in self.lanes:
            for role in ROLES:
                selector.register(lane.ctl[role], selectors.EVENT_READ, (lane, role))
        while todo or len(free) < len(self.lanes):
            while todo and free:
                self.start(free.pop(), *todo.popleft())
            events = selector.select(STUCK_S)
            if not events:
                raise RuntimeError("no word from the roles")
            for key, _ in events:
                lane, role = key.data
                if lane not in free and self.take(lane, role):
                    results[lane.scenario] = lane.lines
                    free.append(lane)
                    progress(len(results))
        return results

    def stop(self):
        for lane in self.lanes:
            for s in lane.ctl.values():
                s.close()
        for p in self.processes:
            try:
                p.wait(10)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()


def read_known(path, pending=False):
    """Lines: GLOB COMBOS REASON. COMBOS: comma-separated, each with :4 or :6 or none, "=" before; * for all."""
    known = []
    if path and os.path.exists(path):
        for number, line in enumerate(open(path), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            parts = line.split(None, 2)
            if len(parts) != 3:
                sys.exit(f"{path}:{number}: want GLOB COMBOS REASON")
            known.append({"glob": parts[0], "combos": parts[1].split(","), "reason": parts[2],
                          "where": f"{os.path.basename(path)} line {number}", "pending": pending,
                          "hits": 0, "chances": 0})
    return known


def find_known(known, name, family, combo):
    found = None
    fitting = {text for c in ("*", combo, f"={combo}", *INHERITS.get(combo, ())) for text in (c, f"{c}:{family}")}
    for k in known:
        if fnmatch.fnmatchcase(name, k["glob"]) and fitting.intersection(k["combos"]):
            k["chances"] += 1
            found = found or k
    return found


def show_difference(base, seen):
    out = []
    for role in ROLES:
        if base[role] == seen[role]:
            continue
        for line in difflib.unified_diff(base[role], seen[role], lineterm="", n=1):
            if not line.startswith(("---", "+++", "@@")):
                out.append(f"    {role}: {line}")
    return out


def confirm(combo, differing, base, run):
    """Runs what differed twice more. What is the same both times leaves `differing` and is returned."""
    if not differing:
        return {}
    again = list(differing)
    seen = [run(combo, f"{combo} again", again) for _ in range(CONFIRMING_RUNS)]
    unstable = {key: differing[key] for key in again
                if not any(show_difference(base[key], results[key]) for results in seen)}
    for key in unstable:
        del differing[key]
    return unstable


def main():
    ap = argparse.ArgumentParser(description=__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--sockdiff", required=True)
    ap.add_argument("--prefix", default="", help="what both routed roles are started with")
    ap.add_argument("--direct-prefix", default="", help="the same for rr, with routes that say local: no")
    ap.add_argument("--far-prefix", default="", help="for the server of tt, attached to another daemon than the client")
    ap.add_argument("--trunk-prefix", default="", help="for the client of tt and pt, with routes that say via: trunk")
    ap.add_argument("--server-prefix", default="")
    ap.add_argument("--client-prefix", default="")
    ap.add_argument("--family", default="46", choices=["4", "6", "46"])
    ap.add_argument("--only", action="append", default=[], metavar="GLOB")
    ap.add_argument("--skip", action="append", default=[], metavar="GLOB")
    ap.add_argument("--combos", default=None, help="default: all for which prefixes are given")
    ap.add_argument("--jobs", type=int, default=8)
    ap.add_argument("--repeat", type=int, default=1, help="run each combination so often")
    ap.add_argument("--baseline-runs", type=int, default=2)
    ap.add_argument("--baseline", metavar="FILE",
                    help="read the baseline from it if it exists, else write it there")
    ap.add_argument("--known", metavar="FILE", default=os.path.join(HERE, "known.txt"))
    ap.add_argument("--pending", metavar="FILE", default=os.path.join(HERE, "pending.txt"),
                    help="known for now, each is printed; '' makes them fail")
    ap.add_argument("--json", metavar="FILE", help="write all traces there")
    ap.add_argument("--stderr", metavar="FILE", help="where the roles' own output goes")
    ap.add_argument("--max-shown", type=int, default=60, metavar="N",
                    help="details of so many scenarios at most")
    ap.add_argument("--trace", action="store_true", help="print the traces of all combinations")
    args = ap.parse_args()

    sockdiff = os.path.abspath(args.sockdiff)
    prefixes = {"plain": [], "server": args.server_prefix or args.prefix, "client": args.client_prefix or args.prefix,
                "direct": args.direct_prefix, "far": args.far_prefix, "trunk": args.trunk_prefix}
    prefixes = {how: shlex.split(text) if text else [] for how, text in prefixes.items()}

    def missing(combo):
        return [how for how in COMBOS[combo] if how != "plain" and not prefixes[how]]
    if args.combos is None:
        combos = [c for c in COMBOS if c != "pp" and not missing(c)]
    else:
        combos = [c for c in args.combos.split(",") if c]
    if any(c not in COMBOS for c in combos):
        ap.error("combos are " + ", ".join(COMBOS))
    for c in combos:
        if missing(c):
            ap.error(f"{c} needs --{missing(c)[0]}-prefix")

    listed = subprocess.run([sockdiff, "--list"], check=True, stdout=subprocess.PIPE, text=True)
    todo = []
    for line in listed.stdout.splitlines():
        name, families = line.split()
        if args.only and not any(fnmatch.fnmatchcase(name, g) for g in args.only):
            continue
        if any(fnmatch.fnmatchcase(name, g) for g in args.skip):
            continue
        todo += [(name, f) for f in args.family if f in families]
    if not todo:
        print("no scenario of that name")
        return 2
    pending = read_known(args.pending, pending=True)
    known = read_known(args.known) + pending
    log = open(args.stderr, "ab") if args.stderr else None
    tty = sys.stderr.isatty()

    def run(combo, label, todo=todo):
        def progress(n):
            if tty:
                print(f"\r{label} {n}/{len(todo)} ", end="", file=sys.stderr, flush=True)
        began = time.monotonic()
        roles = Roles(sockdiff, [prefixes[how] for how in COMBOS[combo]], min(args.jobs, len(todo)), log)
        try:
            results = roles.run(todo, progress)
        finally:
            roles.stop()
        if tty:
            print("\r\033[K", end="", file=sys.stderr)
        print(f"{label}: {len(results)} scenarios in {time.monotonic() - began:.1f} s", flush=True)
        return results

    shown = 0

    def show(title, lines):
        nonlocal shown
        shown += 1
        if shown <= args.max_shown:
            print(title, *lines, sep="\n")
        else:
            note = " (no more details: --max-shown)" if shown == args.max_shown + 1 else ""
            print(title + note)

    def name_of(key):
        return f"{key[0]} (IPv{key[1]})"

    def trace_of(results, key):
        return [f"    {role}: {line}" for role in ROLES for line in results[key][role]]

    traces, flaky, failed = {}, set(), 0
    if args.baseline and os.path.exists(args.baseline):
        with open(args.baseline) as f:
            base = {tuple(k.rsplit(" ", 1)): v for k, v in json.load(f).items()}
        todo = [key for key in todo if key in base]
    else:
        base = run("pp", "pp")
        for _ in range(args.baseline_runs - 1):
            again = run("pp", "pp again")
            for key in todo:
                difference = show_difference(base[key], again[key])
                if difference and key not in flaky:
                    flaky.add(key)
                    show(f"FLAKY {name_of(key)}: the kernel differs from itself", difference)
        if args.baseline:
            with open(args.baseline, "w") as f:
                json.dump({" ".join(k): v for k, v in base.items() if k not in flaky}, f, indent=0)
    traces["pp"] = base
    for key in todo:
        trouble = [line for role in ROLES for line in base[key][role]
                   if line.startswith(("TIMEOUT", "(ended", "PEER", "SYNC", "BIND"))]
        if trouble and key not in flaky:
            flaky.add(key)
            show(f"BROKEN {name_of(key)}: in trouble on kernel sockets", trace_of(base, key))
        elif args.trace:
            print(f"pp {name_of(key)}", *trace_of(base, key), sep="\n")

    for combo in combos:
        differing, known_hits, pending_hits = {}, {}, collections.defaultdict(list)
        for round_number in range(args.repeat):
            label = combo if args.repeat == 1 else f"{combo} #{round_number + 1}"
            results = run(combo, label)
            traces[label] = results
            for key in todo:
                if args.trace:
                    print(f"{label} {name_of(key)}", *trace_of(results, key), sep="\n")
                if key in flaky or key in differing or key in known_hits:
                    continue
                difference = show_difference(base[key], results[key])
                entry = find_known(known, *key, combo)
                if difference and entry:
                    known_hits[key] = entry
                    entry["hits"] += 1
                    if entry["pending"]:
                        pending_hits[entry["where"], entry["glob"]].append(key)
                elif difference:
                    differing[key] = difference
        unstable = confirm(combo, differing, base, run)
        failed += len(differing)
        if len(unstable) > len(todo) * UNSTABLE_SHARE:
            failed += len(unstable)
        for key, difference in differing.items():
            show(f"DIFFERS {combo} {name_of(key)}", difference)
        for entry in pending:
            keys = pending_hits[entry["where"], entry["glob"]]
            if keys:
                print(f"PENDING {combo} {', '.join(map(name_of, keys))}: {entry['reason']}")
            elif any(find_known([entry], *key, combo) for key in todo):
                print(f"NO LONGER DIFFERS in {combo}: {entry['where']}: {entry['glob']}")
        for key, difference in unstable.items():
            show(f"UNSTABLE {combo} {name_of(key)}: differed in one run of three", difference)
        same = len(todo) - len(flaky) - len(differing) - len(known_hits) - len(unstable)
        print(f"{combo}: {same} the same, {len(differing)} differ,"
              f" {len(known_hits)} known differences, {len(unstable)} unstable")
    for entry in known:
        if entry["chances"] and not entry["hits"] and not entry["pending"]:
            print(f"NO LONGER DIFFERS: {entry['where']}: {entry['glob']}"
                  f" {','.join(entry['combos'])}")
    if args.json:
        with open(args.json, "w") as f:
            json.dump({c: {" ".join(k): v for k, v in r.items()} for c, r in traces.items()},
                      f, indent=1)
    if flaky:
        print(f"{len(flaky)} scenarios are not usable: "
              + ", ".join(sorted(map(name_of, flaky))[:20]))
    return 1 if failed or len(flaky) > len(base) * UNSTABLE_SHARE else 0


if __name__ == "__main__":
    sys.exit(main())
