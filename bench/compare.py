#!/ usr / bin / python3
"""Whether this tree is slower than another commit: both run the same benches in turn, each with its own harness.

BASE is checked out and built below build/compare. A row is worse (or better) when its median lies outside of what the
other commit's runs span, and the other median outside of its own; where a bench has a plain variant, its ratio to that
one, of the same run, is compared. A bench that could not run is named, and its other runs count. Exits 1 when a row is
worse or a bench of this tree could not run.
"""
import argparse
import csv
import os
import statistics
import subprocess
import sys

import machine
import record
import world
from world import process

NOT_OURS = (*record.RIVALS, world.TCP_ONE, world.RENO)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", metavar="BASE", help="a commit")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="these benches of bench.py")
    parser.add_argument("--runs", type=int, default=5, help="of each commit (default 5)")
    parser.add_argument("--seconds", type=float, default=0.7, help="length of one run (default 0.7)")
    parser.add_argument("--ceph-seconds", type=int, default=4, help="length of one rados bench (default 4)")
    return parser.parse_args()


def tree_of(commit):
    """A built checkout of it."""
    sha = subprocess.run(["git", "rev-parse", "--short", f"{commit}^{{commit}}"], cwd=machine.ROOT, check=True, text=True,
                         stdout=subprocess.PIPE).stdout.strip()
    tree = os.path.join(machine.ROOT, "build/compare", sha)
    if not os.path.exists(tree):
        subprocess.run(["git", "worktree", "add", "--force", "--detach", tree, sha], cwd=machine.ROOT, check=True)
    build(tree)
    return sha, tree


def build(tree):
    subprocess.run(["cmake", "--preset", "release"], cwd=tree, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", "--preset", "release"], cwd=tree, check=True, stdout=subprocess.DEVNULL)


def run_once(tree, args):
    """What one run of the tree's own bench.py has measured: (bench, metric, variant) -> (value, unit, whether more is
    better), and what could not run. Older commits do not say the third; this tree's runs decide."""
    looks = os.path.join(tree, "build/bench-looks.csv")
    begin = os.path.getsize(looks) if os.path.exists(looks) else 0
    words = ["--runs", "1", "--seconds", str(args.seconds), "--ceph-seconds", str(args.ceph_seconds)]
    done = subprocess.run([sys.executable, "bench/bench.py", *words, *(["--only", *args.only] if args.only else [])],
                          cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed:")]
    if done.returncode not in (0, 1):
        raise process.Failed(f"bench.py in {tree}: {done.stdout[-2000:]}")
    with open(looks, encoding="utf-8", newline="") as f:
        f.seek(begin)
        rows = [row for row in csv.reader(f) if len(row) >= 9 and row[3] not in ("machine", "bench")]
    return {(bench, metric, variant): (float(value), unit, better == ["higher"])
            for _, _, _, bench, variant, _, metric, value, unit, *better in rows
}, failed


def per_plain(found):
    """Values of one run, those of carried variants as ratios to the plain one of the same run where there is one."""
    plain = {(bench, metric): value for (bench, metric, variant), (value, *_) in found.items() if variant == "TCP"}
    out = {}
    for (bench, metric, variant), (value, unit, higher) in found.items():
        if variant not in NOT_OURS:
            by = plain.get((bench, metric))
            out[bench, metric, variant] = (value / by, f"{unit} / TCP", higher) if by else (value, unit, higher)
    return out


def standing(runs, bench, metric, variant, higher):
    values = {}
    for run in runs:
        for (of_bench, of_metric, name), (value, *_) in run.items():
            if (of_bench, of_metric) == (bench, metric):
                values.setdefault(name, []).append(value)
    return record.beside_rivals(values, variant, higher)


def main():
    args = parse()
    why = world.why_not()
    if why:
        sys.exit(f"compare: {why}")
    sha, tree = tree_of(args.base)
    build(machine.ROOT)
    runs, failed = {sha: [], "this": []}, {
sha:
    [], "this" : []
}
    for n in range(args.runs):
        for name, where in ((sha, tree), ("this", machine.ROOT)):
            print(f"run {n + 1} of {args.runs}: {name}", file=sys.stderr, flush=True)
            rows, lines = run_once(where, args)
            runs[name].append(rows)
            failed[name] += lines
    worse = report(sha, runs)
    for name, lines in failed.items():
        for line in lines:
            print(f"{name}: {line}")
    return 1 if worse or failed["this"] else 0


def report(sha, runs):
    old, new = ([per_plain(run) for run in runs[name]] for name in (sha, "this"))
    worse = 0
    print(f"{'bench, metric, variant':<60} {sha:>10} {'this':>10}  verdict  beside the best rival")
    keys = dict.fromkeys(key for run in new for key in run)
    for key in keys:
        now = [run[key][0] for run in new if key in run]
        was = [run[key][0] for run in old if key in run]
        _, unit, higher = next(run[key] for run in new if key in run)
        found = record.verdict(was, now, higher) if was else "new"
        worse += found == "worse"
        medians = [f"{statistics.median(v):.4g}" if v else "-" for v in (was, now)]
        print(f"{', '.join(key):<60} {medians[0]:>10} {medians[1]:>10}  {found:<8} "
              f"{standing(runs['this'], *key, higher)}  ({unit})")
    print(f"{worse} worse")
    return worse


if __name__ == "__main__":
    sys.exit(main())
