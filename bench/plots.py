"""The pictures of docs/BENCHMARKS.md."""
import re

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

REACHED, MISSED, TARGET = "#2b7a9e", "#d9822b", "#222222"
LINES = {"TCP": ("#777777", "s"), "TCP reno": ("#bbbbbb", "s"), "AF_UNIX": ("#5a9a4b", "^"), "sockmap": ("#c28a2e", "v"), "VMSGR": (REACHED, "o")}


def ratios(judged, path):
    """Times better than plain TCP, so that longer is always better; a mark where the target lies."""
    rows = [(bench, row) for bench, row, base in judged
            if not row["absolute"] and row.get("ratio") and base["variant"] == "TCP"]
    figure, axes = plt.subplots(figsize=(9.5, 0.34 * len(rows) + 1.4), layout="constrained")
    for at, (bench, row) in enumerate(rows):
        better = row["ratio"] if row["higher"] else 1 / row["ratio"]
        target = row["target"] if row["higher"] else 1 / row["target"]
        axes.barh(at, better - 1, left=1, color=REACHED if row["ok"] else MISSED, height=0.62)
        axes.plot([target, target], [at - 0.42, at + 0.42], color=TARGET, linewidth=2)
        right = max(better, target, 1)
        axes.annotate(f"{better:.2f}{'' if row['ok'] else '  missed'}", (right, at), xytext=(5, 0),
                      textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [_label(bench, row) for bench, row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.8), high * 1.8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.axvline(1, color="#888888", linewidth=1)
    axes.set_xlabel("times better than plain TCP loopback in the same run (logarithmic)")
    handles = [plt.Rectangle((0, 0), 1, 1, color=REACHED), plt.Rectangle((0, 0), 1, 1, color=MISSED),
               plt.Line2D([0], [0], color=TARGET, linewidth=2)]
    axes.legend(handles, ["reached", "missed", "target"], loc="lower right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _label(bench, row):
    variant = "" if row["variant"] == "VMSGR" else f" [{row['variant'].removeprefix('VMSGR ')}]"
    return f"{bench}: {row['metric']}{variant}"


def sizes(benches, path):
    """Throughput of the stream program by message size; the spread of the runs as a band."""
    found = {}
    for bench, result in benches.items():
        size = re.fullmatch(r"stream (\d+) B writes", bench)
        for row in result["rows"] if size else ():
            if row["metric"] == "throughput":
                found.setdefault(row["variant"], []).append((int(size[1]), row))
    figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for variant, points in found.items():
        colour, marker = LINES.get(variant, ("#aa5588", "x"))
        points.sort(key=lambda p: p[0])
        x = [size for size, _ in points]
        axes.plot(x, [row["median"] for _, row in points], color=colour, marker=marker, label=variant)
        low, high = ([row[end] for _, row in points] for end in ("min", "max"))
        axes.fill_between(x, low, high, color=colour, alpha=0.15)
    _by_size(axes, found, "bytes a write()", "GB/s (logarithmic)")
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _by_size(axes, found, what, unit):
    ticks = sorted({size for points in found.values() for size, _ in points})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ticks, [f"{t} B" if t < 1024 else f"{t // 1024} KiB" for t in ticks])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(what)
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def perf(result, path):
    """What `vmsgr perf` said by message size: one way, and there and back."""
    figure, both = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for axes, ending, unit in zip(both, ("", " there and back"), ("GB/s (logarithmic)", "us (logarithmic)")):
        found = {}
        for row in result["rows"]:
            if size := re.fullmatch(rf"(\d+) B{ending}", row["metric"]):
                found.setdefault(row["variant"], []).append((int(size[1]), row["median"]))
        for variant, points in found.items():
            axes.plot(*zip(*sorted(points)), marker="o", label=variant)
        _by_size(axes, found, f"bytes a message{ending.replace(' there', ', there')}", unit)
    both[0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
