#!/usr/bin/python3
"""Draws what `vmsgr perf --json` printed: messages a second and round trips by message size.

    vmsgr perf --json > local.json;  bench/plot_perf.py local.json [OTHER.json ...] perf.png
"""
import json
import os
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def main():
    if len(sys.argv) < 3 or not sys.argv[-1].endswith((".png", ".svg", ".pdf")):
        sys.exit(__doc__)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for path in sys.argv[1:-1]:
        with open(path, encoding="utf-8") as f:
            results = json.load(f)["results"]
        label = os.path.splitext(os.path.basename(path))[0]
        sizes = [r["bytes"] for r in results]
        left.plot(sizes, [r["bytes_per_s"] / 1e9 for r in results], marker="o", label=label)
        right.plot(sizes, [r["round_trip_us"]["p50"] for r in results], marker="o", label=f"{label}, median")
        right.plot(sizes, [r["round_trip_us"]["p99"] for r in results], marker=".", linestyle=":", label=f"{label}, p99")
    for axes, what in ((left, "GB/s"), (right, "round trip, us")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("bytes a message")
        axes.set_ylabel(what)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(sys.argv[-1], dpi=110)


if __name__ == "__main__":
    main()
