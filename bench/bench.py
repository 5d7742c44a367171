#!/usr/bin/python3
"""What VMSGR costs and gives, beside plain TCP loopback (and AF_UNIX where a program can) in the same run.

Each bench runs its variants in turn after a warm-up; medians of the runs are compared, spread is the smallest and the
largest. Every single run goes to bench/results/*.csv; docs/BENCHMARKS.md and its pictures are made of the newest result
of each bench that had five runs or more. Exits 1 when a target is missed or a bench could not run.
"""
import argparse
import os
import shlex
import sys

import machine
import report
import sockmap
import world   # also puts tests/lib where the others find it
from record import Recorder
from world import process

import ceph_benches
import ceph_hosts
import channels
import encryption
import keeper
import micro
import programs
import trunk
import trunk_channels

BENCHES = {"stream": micro.stream, "rtt": micro.round_trip, "connect": micro.connect, "starts": micro.starts,
           "keeper": keeper.keeper,
           "ring": micro.ring, "channels": channels.channels, "trunk": trunk.trunk, "tls": encryption.encryption,
           "perf": trunk_channels.perf,
           "idle_channels": trunk_channels.idle_channels, "idle_peers": trunk_channels.idle_peers, "idle": micro.idle, "half-idle": micro.half_idle,
           "sockperf": programs.sockperf, "redis": programs.redis, "nginx": programs.nginx, "iperf3": programs.iperf3,
           "messenger": ceph_benches.messenger, "rados": ceph_benches.rados, "rados-direct": ceph_benches.rados_direct,
           "rados-hosts": ceph_hosts.rados_hosts}
ONLY_WHEN_NAMED = ("rados-direct", "rados-hosts")
RUNS_KEPT = 5   # fewer are for a look, not for the record


def parse():
    listed = "\n".join(f"  {name:<13} {' '.join(bench.__doc__.split())}" for name, bench in BENCHES.items())
    parser = argparse.ArgumentParser(description=f"{__doc__}\nbenches:\n{listed}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHES, metavar="NAME", help="these benches")
    parser.add_argument("--runs", type=int, default=RUNS_KEPT,
                        help="measured runs of each variant (default 5; fewer are not kept in docs/BENCHMARKS.md)")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of one run (default 1.5)")
    parser.add_argument("--ceph-seconds", type=int, default=5, help="length of one rados bench (default 5)")
    parser.add_argument("--connections", type=int, default=10000, help="of the idle bench (default 10000)")
    parser.add_argument("--shards", type=int, default=max(1, os.cpu_count() // 2),
                        help="vmsgrd's shards (default: as the daemon's, half of the processors)")
    parser.add_argument("--quick", action="store_true",
                        help="one short run of each, no warm-up, nothing kept: does it work at all?")
    parser.add_argument("--plain", action="store_true", help="no vmsgrd: how far plain runs differ from one another")
    parser.add_argument("--report", action="store_true", help="measure nothing, make docs/BENCHMARKS.md again")
    settings = parser.parse_args()
    if settings.quick:
        settings.runs, settings.seconds, settings.ceph_seconds = 1, 0.3, 2
    settings.keep = settings.runs >= RUNS_KEPT and not settings.plain
    return settings


def print_heading(settings):
    print(f"commit    {machine.commit()}\ncommand   bench/bench.py {shlex.join(sys.argv[1:])}\n"
          f"runs      {settings.runs} of {settings.seconds:g} s each, alternating, after a warm-up")
    for key, value in machine.facts().items():
        print(f"{key:<29} {value}")
    if why := sockmap.why_not():
        print(f"{'sockmap':<29} no column: {why}")
    print(f"\n{'bench':<25} {'metric':<20} {'variant':<15} {'median':>9} {'':<7} {'smallest .. largest':<22} ratio"
          "    wanted", flush=True)


def main():
    settings = parse()
    if settings.report:
        report.write()
        return 0
    why = world.why_not()
    if why:
        sys.exit(f"bench: {why}")
    print_heading(settings)
    recorder = Recorder(settings)
    for name, bench in BENCHES.items():
        if name in settings.only if settings.only else name not in ONLY_WHEN_NAMED:
            try:
                bench(settings, recorder)
            except (process.Failed, OSError, ValueError, KeyError) as e:   # the others can still be measured
                recorder.fail(name, f"{type(e).__name__}: {e}")
    print(f"\nsingle runs: {os.path.relpath(recorder.path, os.getcwd())}")
    if settings.keep:
        report.write()
    for name in recorder.missed:
        print(f"missed: {name}")
    for name in recorder.broken:
        print(f"failed: {name}")
    return 1 if recorder.missed or recorder.broken else 0


if __name__ == "__main__":
    sys.exit(main())
