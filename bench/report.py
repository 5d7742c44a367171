"""docs/BENCHMARKS.md (the part between its markers) and its pictures, from the newest result of each bench."""
import os
import re

import machine
from record import load_latest

DOCUMENT = os.path.join(machine.ROOT, "docs/BENCHMARKS.md")
BEGIN, END = "<!-- made by bench/bench.py: begin -->", "<!-- made by bench/bench.py: end -->"
RATIOS, SIZES, PERF = "benchmarks-ratios.png", "benchmarks-sizes.png", "benchmarks-perf.png"


ORDER = ("channel", "vmsgr perf", "trunk", "TLS", "stream", "round trip", "connect", "sockperf", "redis", "nginx", "iperf3",
         "messenger", "rados", "idle", "ring")


def in_order(benches):
    def place(bench):
        size = re.search(r"(\d+) B", bench)
        kind = next((n for n, word in enumerate(ORDER) if word in bench), len(ORDER))
        return kind, int(size[1]) if size else 0, bench
    return {bench: benches[bench] for bench in sorted(benches, key=place)}


def has_streams(benches):
    return any(bench.startswith("stream ") for bench in benches)


def has_ratios(benches):
    return any(not row["absolute"] for _, row, _ in judged(benches))


def judged(benches):
    """(bench, row, row of the first variant) of everything that has a target."""
    for bench, result in benches.items():
        for row in result["rows"]:
            if "target" in row:
                base = next((r for r in result["rows"] if r["metric"] == row["metric"]), None)
                yield bench, row, base


def _number(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _wanted(row):
    unit = " " + row["unit"] if row["absolute"] else ""
    return f"{'≥' if row['higher'] else '≤'} {row['target']:g}{unit}"


def _targets_table(benches):
    yield "| what | plain TCP | VMSGR | unit | ratio | wanted | |"
    yield "|---|--:|--:|---|--:|--:|---|"
    for bench, row, base in judged(benches):
        variant = "" if row["variant"] == "VMSGR" else f" ({row['variant']})"
        compared = "" if base is row else _number(base["median"])
        if row["absolute"] and base["variant"] not in ("TCP", row["variant"]):
            compared = ""   # a share of something else than the first variant
        elif base["variant"] not in ("TCP", row["variant"]):
            compared += f" ({base['variant']})"
        ratio = f"{row['ratio']:.2f}" if "ratio" in row and not row["absolute"] else ""
        yield (f"| {bench}: {row['metric']}{variant} | {compared} | "
               f"{_number(row['median'])} | {row['unit']} | {ratio} | {_wanted(row)} | "
               f"{'' if row['ok'] else '**missed**'} |")


def _whole_table(benches):
    yield "| bench | metric | variant | median | smallest .. largest | unit | ratio | beside the best rival |"
    yield "|---|---|---|--:|--:|---|--:|---|"
    for bench, result in benches.items():
        for row in result["rows"]:
            path = f", {row['path']}" if row["path"] else ""
            ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
            yield (f"| {bench} | {row['metric']} | {row['variant']}{path} | {_number(row['median'])} | "
                   f"{_number(row['min'])} .. {_number(row['max'])} | {row['unit']} | {ratio} | {row.get('beside', '')} |")


def _origin_table(benches):
    yield "| bench | commit | date | runs | load average meanwhile |"
    yield "|---|---|---|--:|---|"
    for bench, result in benches.items():
        runs = max(row["runs"] for row in result["rows"])
        low, high = result["load"]
        yield f"| {bench} | {result['commit']} | {result['date']} | {runs} | {low:.1f} .. {high:.1f} |"


def text(latest):
    benches = in_order(latest["benches"])
    parts = ["## Against the targets", "",
             *([f"![ratios]({RATIOS})", ""] if has_ratios(benches) else []), *_targets_table(benches), "",
             *(["## Streams by message size", "", f"![streams]({SIZES})", ""] if has_streams(benches) else []),
             *(["## Message channels by message size", "", f"![channels]({PERF})", ""]
               if "vmsgr perf" in benches else []),
             "## The machine", "", "| | |", "|---|---|",
             *(f"| {key} | {value} |" for key, value in latest["machine"].items()), "",
             "## Everything", "", *_whole_table(benches), "", "## When", "", *_origin_table(benches)]
    return "\n".join(parts)


def write():
    latest = load_latest()
    with open(DOCUMENT, encoding="utf-8") as f:
        document = f.read()
    head, _, rest = document.partition(BEGIN)
    _, found, tail = rest.partition(END)
    if not found:
        raise SystemExit(f"bench: {DOCUMENT} lacks the markers '{BEGIN}' and '{END}'")
    made = text(latest) if latest["benches"] else "Nothing was measured yet."
    with open(DOCUMENT, "w", encoding="utf-8") as f:
        f.write(f"{head}{BEGIN}\n\n{made}\n\n{END}{tail}")
    if latest["benches"]:
        import plots   # matplotlib takes a second to load, and nothing else needs it
        folder = os.path.dirname(DOCUMENT)
        if has_ratios(latest["benches"]):
            plots.ratios(list(judged(in_order(latest["benches"]))), os.path.join(folder, RATIOS))
        if has_streams(latest["benches"]):
            plots.sizes(latest["benches"], os.path.join(folder, SIZES))
        if "vmsgr perf" in latest["benches"]:
            plots.perf(latest["benches"]["vmsgr perf"], os.path.join(folder, PERF))
    print(f"written: {os.path.relpath(DOCUMENT)}")
