#!/usr/bin/python3
"""What carrying connections through vmsgrd costs, as ratios to plain TCP measured in the same run.

Medians of alternating runs (plain, routed, plain, routed ...) after one warm-up of each; spread is the smallest and
the largest run. Every single run goes to bench/results/ratios-COMMIT.csv.
"""
import argparse
import csv
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests"))

from lib import netns, process, vmsgrd  # noqa: E402
from lib.rig import Rig  # noqa: E402

PORT = 5201
IDLE_CONNECTIONS = 50
OPEN_AND_WAIT = """
import socket, sys, time
listener = socket.create_server(('127.0.0.1', 5300), backlog=128)
pairs = []
for _ in range(int(sys.argv[1])):
    client = socket.create_connection(('127.0.0.1', 5300))
    server = listener.accept()[0]
    client.sendall(b'x')
    server.recv(1)
    pairs += [client, server]
print('ready', flush=True)
time.sleep(3600)
"""


def machine():
    model = "unknown CPU"
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}"


def commit():
    done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True,
                          check=False)
    return done.stdout.strip() or "unknown"


class Recorder:
    """Collects single runs, writes them as CSV, and prints medians and ratios with what they have to reach."""

    def __init__(self, args):
        self.args, self.values, self.failed = args, {}, []
        os.makedirs(os.path.join(ROOT, "bench/results"), exist_ok=True)
        name = f"ratios-{commit()}{'-plain' if args.plain else ''}.csv"
        self.path = os.path.join(ROOT, "bench/results", name)
        self._file = open(self.path, "a", encoding="ascii", newline="")   # --only runs add to the same file
        self._csv = csv.writer(self._file)
        if self._file.tell() == 0:
            self._csv.writerow(["time", "machine", "commit", "bench", "variant", "run", "value", "unit"])

    def add(self, bench, variant, run, value, unit):
        self.values.setdefault((bench, variant), []).append(value)
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self._csv.writerow([now, machine(), commit(), bench, variant, run, f"{value:.6g}", unit])
        self._file.flush()

    def alternate(self, bench, variants, unit, target):
        """variants: name -> function that measures once; the first is what the others are compared with."""
        for measure in variants.values():
            measure()   # warm-up
        for run in range(self.args.runs):
            for name, measure in variants.items():
                self.add(bench, name, run, measure(), unit)
        self.report(bench, list(variants), unit, target)

    def report(self, bench, variants, unit, target):
        base = statistics.median(self.values[bench, variants[0]])
        for name in variants:
            values = self.values[bench, name]
            middle = statistics.median(values)
            line = f"{bench:<22} {name:<15} {middle:>9.3g} {unit:<7} {min(values):>9.3g} .. {max(values):<9.3g}"
            if name in target:
                ratio = middle / base
                good = ratio >= target[name]
                line += f" {ratio:5.2f} x  {'ok' if good else 'BELOW'} {target[name]}"
                if not good:
                    self.failed.append(f"{bench} {name}")
            print(line, flush=True)

    def limit(self, bench, variant, value, unit, most):
        self.add(bench, variant, 0, value, unit)
        good = value <= most
        print(f"{bench:<22} {variant:<15} {value:>9.3g} {unit:<31} {'ok' if good else 'ABOVE'} {most}", flush=True)
        if not good:
            self.failed.append(f"{bench} {variant}")


class Loopback:
    """A namespace and a vmsgrd that routes every connection of its loopback."""

    def __init__(self, args):
        self.args, self.dir, self.netns = args, process.make_dir("vb-"), netns.Netns("bench")
        self.daemon = vmsgrd.Vmsgrd(self.dir, routes=[vmsgrd.route("all", address="127.0.0.0/8")], netns=self.netns,
                                    shards=args.shards, plain=args.plain).start()

    def close(self):
        self.daemon.stop()
        self.netns.close()
        process.remove_dir(self.dir)

    def iperf3(self, client, server):
        """Gbit/s received; client and server say whether that end is routed."""
        prefix = self.daemon.prefix()
        with process.Process([*(prefix if server else []), "iperf3", "-s", "-1", "-p", str(PORT), "-B", "127.0.0.1"],
                             netns=self.netns, log=f"{self.dir}/iperf3.log") as listening:
            listening.wait_ready(lambda: any(s.local[1] == PORT for s in netns.tcp_sockets(self.netns, ("LISTEN",))),
                                 10, "listen")
            done = process.run([*(prefix if client else []), "iperf3", "-c", "127.0.0.1", "-p", str(PORT), "-J", "-t",
                                str(self.args.seconds), "-l", "131072"], netns=self.netns, timeout_s=60)
            return json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 1e9

    def idle_cpu_percent(self, seconds=10):
        time.sleep(1)
        before, began = process.cpu_s(self.daemon.pid), time.monotonic()
        time.sleep(seconds)
        return 100 * (process.cpu_s(self.daemon.pid) - before) / (time.monotonic() - began)


def bench_iperf3(args, recorder):
    world = Loopback(args)
    recorder.alternate("iperf3 128 KiB writes", {
        "plain": lambda: world.iperf3(False, False),
        "client routed": lambda: world.iperf3(True, False),
        "server routed": lambda: world.iperf3(False, True),
        "both routed": lambda: world.iperf3(True, True),
    }, "Gbit/s", {"client routed": 0.8, "server routed": 0.8, "both routed": 0.6})
    world.close()


def bench_idle(args, recorder):
    if args.plain:
        return
    world = Loopback(args)
    recorder.limit("vmsgrd idle", "nothing open", world.idle_cpu_percent(), "% CPU", 1.0)
    argv = [*world.daemon.prefix(), "/usr/bin/python3", "-c", OPEN_AND_WAIT, str(IDLE_CONNECTIONS)]
    with process.Process(argv, netns=world.netns, stdout=subprocess.PIPE) as holder:
        if holder.stdout.readline() != b"ready\n":
            raise process.Failed("the program with idle connections did not start")
        recorder.limit("vmsgrd idle", f"{2 * IDLE_CONNECTIONS} ends open", world.idle_cpu_percent(), "% CPU", 1.0)
    world.close()


def bench_rados(args, recorder):
    """A new memstore cluster each time: they grow, and a used one is slower than a new one."""
    variants = {"plain": True, "routed": args.plain}
    for run in range(-1, args.runs):   # the first of each is the warm-up
        for name, plain in variants.items():
            with Rig(plain=plain, shards=args.shards) as rig:
                wrote = rig.bench("write", args.seconds, "-b", "4096", "--no-cleanup")
                read = rig.bench("rand", args.seconds)
            if run >= 0:
                recorder.add("rados bench 4K write", name, run, float(wrote["Average IOPS"]), "IOPS")
                recorder.add("rados bench 4K read", name, run, float(read["Average IOPS"]), "IOPS")
    for bench in ("rados bench 4K write", "rados bench 4K read"):
        recorder.report(bench, list(variants), "IOPS", {"routed": 0.9})


BENCHES = {"iperf3": bench_iperf3, "rados": bench_rados, "idle": bench_idle}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="measured runs of each variant (default 5)")
    parser.add_argument("--seconds", type=int, default=3, help="length of one run (default 3)")
    parser.add_argument("--shards", type=int, default=max(1, os.cpu_count() // 2),
                        help="vmsgrd's shards (default: as the daemon's, half of the processors)")
    parser.add_argument("--only", choices=BENCHES, help="one of the benches instead of all")
    parser.add_argument("--plain", action="store_true", help="no vmsgrd: how far plain runs differ from one another")
    parser.add_argument("--check", action="store_true", help="exit 1 when a ratio is not reached")
    args = parser.parse_args()
    why = netns.why_not() or (None if args.plain else vmsgrd.why_not())
    if why:
        sys.exit(f"ratios: {why}")
    print(f"machine   {machine()}\ncommit    {commit()}\ncommand   bench/ratios.py {shlex.join(sys.argv[1:])}\n"
          f"runs      {args.runs} of {args.seconds} s each, alternating, after one warm-up\n")
    print(f"{'bench':<22} {'variant':<15} {'median':>9} {'':<7} {'smallest .. largest':<22} ratio  needed")
    recorder = Recorder(args)
    try:
        for name, bench in BENCHES.items():
            if args.only in (None, name):
                bench(args, recorder)
    except process.Failed as e:
        sys.exit(f"ratios: {e}")
    print(f"\nsingle runs: {os.path.relpath(recorder.path, os.getcwd())}")
    if recorder.failed:
        print(f"not reached: {', '.join(recorder.failed)}")
    sys.exit(1 if args.check and recorder.failed else 0)


if __name__ == "__main__":
    main()
