"""docs/study.md's tables and plots, drawn from the results of compression_study.py alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import marks
import matplotlib as mpl
from matplotlib.figure import Figure

BEGIN, END = "<!-- study: {} -->", "<!-- /study: {} -->"
TIERS = ("clean", "web", "hard")
COLUMNS = (
    "step", "size KB", "times as fast [95 %]", "clean %", "`web` %", "`hard` %", "worst degradation %", "TPR % at 1 % FPR",
    "worst generator %", "verdict flips %",
)  # fmt: skip

Row = Mapping[str, Any]
Case = Mapping[str, Any]


def draw(found: Mapping[str, Any], docs: Path) -> None:
    """Every case that is recorded, between its marks in study.md, and its plot beside it."""
    for name, case in found["cases"].items():
        plot(case, docs / f"study-{name}.svg")
        marks.put(docs / "study.md", BEGIN.format(name), END.format(name), section(name, case))


def section(name: str, case: Case) -> str:
    """What stands between the marks of a case."""
    return f"{markdown(case)}\n![balanced accuracy over size](study-{name}.svg)\n"


def markdown(case: Case) -> str:
    """A line a step: means over the seeds, their standard deviation, and the 95 % interval over images."""
    steps = by_step(case["rows"])
    seeds = len({row["seed"] for row in case["rows"]})
    lines = [f"| {' | '.join(COLUMNS)} |", f"| --- | {' | '.join('---:' for _ in COLUMNS[1:])} |"]
    timed = case.get("latency", {"rows": {}})["rows"]
    lines += [f"| {' | '.join([name, *_cells(rows, timed.get(name))])} |" for name, rows in steps.items()]
    counted = f"{seeds} seed{'s' if seeds > 1 else ''}"
    lines += ["", f"- {counted}, {next(iter(steps.values()))[0]['n']:,} test images, {case['date']}, {case['device']}"]
    lines += [f"- {', '.join(f'{tool} {version}' for tool, version in case['tools'].items())}"]
    if timed:
        first = next(iter(timed.values()))
        took = f"{first['p50_ms']:.3g} ms on {first['threads']} threads"
        lines.append(f"- the teacher takes {took}; the rows of the first seed, in turns")
    short = [name for name, rows in steps.items() if len(rows) < seeds]
    lines += [f"- of fewer seeds: {'; '.join(short)}"] if short else []
    lines += [f"- {row['name']}, seed {row['seed']}: {row['refused']}" for row in case["rows"] if "refused" in row]
    return "\n".join([*lines, ""])


def by_step(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of all seeds by the name of their step, but for those that were refused."""
    made = [row for row in rows if "refused" not in row]
    return {name: [row for row in made if row["name"] == name] for name in dict.fromkeys(row["name"] for row in made)}


def _cells(rows: Sequence[Row], timed: Mapping[str, Any] | None) -> list[str]:
    worst = min((row["worst"] for row in rows), key=lambda each: each["balanced_accuracy"]["value"])
    least = [min(row["generators"], key=lambda name: row["generators"][name]["value"]) for row in rows]
    of_least = [row["generators"][name] for row, name in zip(rows, least, strict=True)]
    return [
        f"{statistics.mean(row['bytes'] for row in rows) / 1000:,.1f}",
        _speedup(timed["speedup"]) if timed else "–",
        *(over_seeds([row["tiers"][tier]["balanced_accuracy"] for row in rows]) for tier in TIERS),
        f"{over_seeds([row['worst']['balanced_accuracy'] for row in rows])} ({worst['condition']})",
        over_seeds([row["tiers"]["clean"]["tpr_at_fpr1"] for row in rows]),
        f"{over_seeds(of_least)} ({', '.join(dict.fromkeys(least))})",
        over_seeds([row["flips"] for row in rows]),
    ]


def _speedup(ratio: Mapping[str, float]) -> str:
    return f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def over_seeds(figures: Sequence[Mapping[str, Any]]) -> str:
    """The mean in percent, the seeds' standard deviation, and the mean of the ends of their intervals; a dash for none."""
    if any(figure["value"] is None for figure in figures):
        return "–"
    mean, low, high = (100 * statistics.mean(figure[end] for figure in figures) for end in ("value", "low", "high"))
    spread = f" ± {100 * statistics.stdev(figure['value'] for figure in figures):.1f}" if len(figures) > 1 else ""
    return f"{mean:.1f}{spread} [{low:.1f}, {high:.1f}]"


def plot(case: Case, path: Path) -> None:
    """Balanced accuracy over size in the three tiers, the mean of the seeds and their whole range."""
    steps = by_step(case["rows"])
    with mpl.rc_context({"svg.hashsalt": "edgedet", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7.5, 4.2), layout="constrained")
        axes = figure.subplots()
        for tier, marker in zip(TIERS, "os^", strict=True):
            values = [[100 * row["tiers"][tier]["balanced_accuracy"]["value"] for row in rows] for rows in steps.values()]
            sizes = [statistics.mean(row["bytes"] for row in rows) / 1000 for rows in steps.values()]
            means = [statistics.mean(each) for each in values]
            arms = [[mean - min(each), max(each) - mean] for mean, each in zip(means, values, strict=True)]
            axes.errorbar(sizes, means, [*zip(*arms, strict=True)], linestyle="none", marker=marker, capsize=2, label=tier)
            if tier == "clean":
                for name, size, mean in zip(steps, sizes, means, strict=True):
                    axes.annotate(name, (size, mean), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=7)
        axes.set(xscale="log", xlabel="size of the graph, KB (log)", ylabel="balanced accuracy, %")
        axes.grid(alpha=0.3)
        axes.legend(title="as seen")
        figure.savefig(path, metadata={"Date": None, "Creator": None})
