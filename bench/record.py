"""Collects single runs and judges them: medians, spread, ratios to the first variant of the same run, targets."""
import csv
import datetime
import json
import os
import statistics

import machine

RESULTS = os.path.join(machine.ROOT, "bench/results")
LOOKS = os.path.join(machine.ROOT, "build")   # what is not kept
LATEST = os.path.join(RESULTS, "latest.json")   # the newest whole result of each bench: BENCHMARKS.md is made of it
FIELDS = ["time", "commit", "load", "bench", "variant", "run", "metric", "value", "unit", "better"]


class Metric:
    """higher: more is better. A target bounds the median's ratio to the first variant; with absolute=True the median
    itself, with worst=True every single run."""

    def __init__(self, unit, *, higher=True, absolute=False, worst=False, targets=None):
        self.unit, self.higher, self.absolute, self.worst = unit, higher, absolute or worst, worst
        self.targets = targets or {}


# What other ways there are; a bench has those that run where it runs.
RIVALS = ("TCP", "AF_UNIX", "sockmap")


def verdict(was, now, higher):
    """now beside was, the values of all their runs: better or worse where each median lies outside of what the other's
    runs span."""
    before, after = statistics.median(was), statistics.median(now)
    if min(was) <= after <= max(was) or min(now) <= before <= max(now):
        return "level"
    return "better" if (after > before) == higher else "worse"


def beside_rivals(values, variant, higher, others=RIVALS):
    """values: variant -> those of its runs. 'ahead of', 'level with' or 'behind' the best rival; '' without one."""
    rivals = {rival: statistics.median(values[rival]) for rival in others if values.get(rival)}
    if not rivals or variant.startswith("TCP") or variant in rivals or not values.get(variant):
        return ""
    best = (max if higher else min)(rivals, key=rivals.get)
    how = {"better": "ahead of", "level": "level with", "worse": "behind"}
    return f"{how[verdict(values[best], values[variant], higher)]} {best}"


CPU = "CPU an operation"


def cpu_metric(targets=None):
    """Of every process that took part, vmsgrd too."""
    return Metric("us", higher=False, targets=targets)


class Recorder:
    def __init__(self, settings):
        self.settings, self.missed, self.broken, self.benches = settings, [], {}, {}
        self.commit = machine.commit()
        folder, name = (RESULTS, f"bench-{self.commit}") if settings.keep else (LOOKS, "bench-looks")
        os.makedirs(folder, exist_ok=True)
        self.path = os.path.join(folder, f"{name}.csv")
        self._file = open(self.path, "a", encoding="utf-8", newline="")   # --only runs add to the same file
        self._csv = csv.writer(self._file)
        if self._file.tell() == 0:
            self._csv.writerow(FIELDS)
        for key, value in machine.facts().items():
            self._row("machine", "", "", key, value, "", "")

    def _row(self, *words):
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        self._csv.writerow([now, self.commit, f"{machine.load():.2f}", *words])
        self._file.flush()

    def alternate(self, bench, variants, metrics, *, warm_up=True, paths=None, rivals=RIVALS):
        """variants: name -> function that measures once and returns metric -> value. Reports when all have run."""
        if self.settings.plain:
            variants = dict(list(variants.items())[:1]) | {f"{k} (plain)": v for k, v in list(variants.items())[1:]}
        if warm_up and not self.settings.quick:
            for measure in variants.values():
                measure()
        values, loads = {}, []
        for run in range(self.settings.runs):
            for variant, measure in variants.items():
                loads.append(machine.load())
                for metric, value in measure().items():
                    values.setdefault((metric, variant), []).append(value)
                    self._row(bench, variant, run, metric, f"{value:.6g}", metrics[metric].unit,
                              "higher" if metrics[metric].higher else "lower")
        self._judge(bench, list(variants), metrics, values, paths or {}, loads, rivals)

    def _judge(self, bench, variants, metrics, values, paths, loads, rivals):
        rows = []
        for metric, about in metrics.items():
            base = values.get((metric, variants[0]))
            for variant in variants:
                got = values.get((metric, variant))
                if not got:
                    continue
                row = {"metric": metric, "unit": about.unit, "higher": about.higher, "variant": variant,
                       "median": statistics.median(got), "min": min(got), "max": max(got), "runs": len(got),
                       "path": paths.get(variant, ""), "absolute": about.absolute}
                if base and variant != variants[0] and statistics.median(base) > 0:
                    row["ratio"] = row["median"] / statistics.median(base)
                if not about.absolute:
                    row["beside"] = beside_rivals({v: values.get((metric, v)) for v in variants}, variant, about.higher,
                                                  rivals)
                target = about.targets.get(variant)
                if target is not None:
                    judged = row["median"] if about.absolute else row.get("ratio")
                    if about.worst:
                        judged = row["min" if about.higher else "max"]
                    row["target"] = target
                    row["ok"] = judged is not None and (judged >= target if about.higher else judged <= target)
                    if not row["ok"]:
                        self.missed.append(f"{bench}, {metric}, {variant}")
                rows.append(row)
                self._print(bench, row)
        self.benches[bench] = {"rows": rows, "commit": self.commit, "machine": machine.one_line(),
                               "date": datetime.date.today().isoformat(), "load": [min(loads), max(loads)]}
        if self.settings.keep:
            self._keep(bench)

    @staticmethod
    def _print(bench, row):
        line = f"{bench:<25} {row['metric']:<20} {row['variant']:<15} {row['median']:>9.4g} {row['unit']:<7} " \
               f"{row['min']:>9.4g} .. {row['max']:<9.4g}"
        line += f" {row['ratio']:6.2f} x" if "ratio" in row else " " * 9
        if "target" in row:
            sign = ">=" if row["higher"] else "<="
            line += f"  {'ok    ' if row['ok'] else 'MISSED'} {sign} {row['target']:g}"
        line += f"  {row['beside']}" if row.get("beside") else ""
        print(line + (f"  ({row['path']})" if row["path"] else ""), flush=True)

    def note(self, bench, text):
        print(f"{bench:<25} {text}", flush=True)

    def fail(self, bench, why):
        self.broken[bench] = why
        print(f"{bench:<25} FAILED: {why}", flush=True)

    def _keep(self, bench):
        latest = load_latest()
        latest["benches"][bench] = self.benches[bench]
        latest["machine"] = machine.facts()
        with open(LATEST, "w", encoding="utf-8") as f:
            json.dump(latest, f, indent=1)
            f.write("\n")


def load_latest():
    try:
        with open(LATEST, encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError:
        return {"machine": {}, "benches": {}}
