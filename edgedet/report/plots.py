"""The report's plots: each takes plain data of `edgedet.report.content` and gives an ``<svg>``, None with nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from edgedet.bench.result import BenchRow
from edgedet.evaluate.degrade import CLEAN
from edgedet.metrics import Figure
from edgedet.report import svg
from edgedet.report.content import Curves, Distribution, Subject, Sweep
from edgedet.report.robustness import LEVELS, UNTOUCHED, families, others

_STYLES = ("-", "--", ":", "-.")
_ROC_POINTS = 300  # drawn of one curve; more would only make the file larger


@svg.styled
def pareto(rows: Sequence[BenchRow], name: str) -> str | None:
    """Balanced accuracy over p50 latency, with intervals; the line joins those that no other beats in both."""
    shown = [row for row in rows if row.latency and not math.isnan(_bounds(row)[0])]
    if not shown:
        return None
    made, (axes,) = svg.figure(6.4, 4.0)
    for number, row in enumerate(shown):
        x, (y, low, high) = _p50(row), _bounds(row)
        colour, mark = svg.colour(number), svg.marker(number)
        label = row.name if row.runtime in (None, "onnxruntime") else f"{row.name}, {row.runtime}"
        arms = [[y - low], [high - y]]
        axes.errorbar([x], [y], arms, color=colour, marker=mark, capsize=3, linestyle="none", label=label)
    front = _front([(_p50(row), _bounds(row)[0]) for row in shown])
    axes.plot(*zip(*front, strict=True), color=svg.FAINT, linestyle="--", zorder=0, label="best of both")
    axes.set(xscale="log", xlabel="p50 latency, ms (log)", ylabel="balanced accuracy, %")
    axes.legend()
    return svg.inline(made, name, f"balanced accuracy over latency of {len(shown)} rows")


@svg.styled
def heatmap(sweeps: Sequence[Sweep], name: str) -> str | None:
    """Balanced accuracy of each generator (rows) under each artifact (columns), both with their figures."""
    shown = [sweep for sweep in sweeps if sweep.generators]
    generators = sorted({generator for sweep in shown for generator in sweep.generators})
    if not generators:
        return None
    cells = [[_percent(sweep.generators.get(generator)) for sweep in shown] for generator in generators]
    longest = max(map(len, generators))
    made, (axes,) = svg.figure(1.6 + 0.08 * longest + 1.0 * len(shown), 1.4 + 0.32 * len(generators))
    axes.pcolormesh(cells, cmap="viridis", vmin=50, vmax=100, edgecolors=svg.PAPER, linewidth=1)
    for y, line in enumerate(cells):
        for x, value in enumerate(line):
            ink = "#ffffff" if value < 80 else "#000000"
            axes.text(x + 0.5, y + 0.5, "–" if math.isnan(value) else f"{value:.1f}", ha="center", va="center", color=ink)
    axes.set_xticks([x + 0.5 for x in range(len(shown))], [sweep.name for sweep in shown], rotation=30, ha="right")
    axes.set_yticks([y + 0.5 for y in range(len(generators))], generators)
    axes.invert_yaxis()
    axes.grid(False)
    axes.tick_params(length=0)
    return svg.inline(made, name, "balanced accuracy by generator and artifact")


@svg.styled
def roc(subjects: Sequence[Subject], name: str) -> str | None:
    """TPR over FPR on a logarithmic axis, where a detector's work is decided, with its operating points."""
    shown = _drawn(subjects)
    if not shown:
        return None
    made, (axes,) = svg.figure(6.4, 4.4)
    least = 1.0
    for number, (artifact, curves) in enumerate(shown):
        line = _thinned([point for point in curves.roc if point[0] > 0])
        least = min([least, *(fpr for fpr, _ in line)])
        xs, ys = [100 * fpr for fpr, _ in line], [100 * tpr for _, tpr in line]
        axes.plot(xs, ys, color=svg.colour(number), label=artifact)
        for point in curves.points:
            face = svg.colour(number) if point.default else svg.PAPER
            axes.plot(100 * max(point.fpr, least), 100 * point.tpr, svg.marker(number), color=svg.colour(number), mfc=face)
    axes.set(xscale="log", xlabel="reals called fake, % (FPR, log)", ylabel="fakes called fake, % (TPR)", ylim=(None, 100.5))
    axes.legend(title="filled: where verdicts are taken", loc="lower right")
    return svg.inline(made, name, f"ROC of {len(shown)} artifacts with their operating points")


@svg.styled
def reliability(subjects: Sequence[Subject], name: str) -> str | None:
    """The share of fakes over the score that promised it; the area of a dot is the share of the images."""
    shown = _drawn(subjects)
    if not shown:
        return None
    made, (axes,) = svg.figure(4.8, 4.4)
    axes.plot([0, 1], [0, 1], color=svg.FAINT, linestyle="--", label="as promised")
    for number, (artifact, curves) in enumerate(shown):
        xs, ys, weights = zip(*curves.reliability, strict=True)
        axes.plot(xs, ys, color=svg.colour(number), label=artifact, linewidth=1)
        axes.scatter(xs, ys, [12 + 200 * weight for weight in weights], color=svg.colour(number), marker=svg.marker(number))
    axes.set(xlabel="score", ylabel="share of fakes (classes weigh the same)", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.legend()
    return svg.inline(made, name, f"reliability of {len(shown)} artifacts")


@svg.styled
def latencies(distributions: Sequence[Distribution], name: str) -> str | None:
    """The share of calls that took no longer than so many milliseconds; dots at p50, p90 and p99."""
    if not distributions:
        return None
    made, (axes,) = svg.figure(6.4, 4.0)
    for number, each in enumerate(distributions):
        colour, levels = svg.colour(number), range(len(each.quantiles_ms))
        axes.plot(each.quantiles_ms, levels, color=colour, label=f"{each.name} ({each.n:,} calls)")
        marked = [(each.quantiles_ms[level], level) for level in (50, 90, 99)]
        axes.plot(*zip(*marked, strict=True), svg.marker(number), color=colour, markersize=4)
    axes.set(xscale="log", xlabel="milliseconds (log)", ylabel="calls that took no longer, %", ylim=(0, 101))
    axes.legend(loc="lower right")
    return svg.inline(made, name, f"latency distributions of {len(distributions)} rows")


@svg.styled
def robustness(sweeps: Sequence[Sweep], name: str) -> str | None:
    """One panel a kind of degradation, one line an artifact, with intervals; what has no level is in the last panel."""
    sweeps = [sweep for sweep in sweeps if len(sweep.conditions) > 1]
    names = list(dict.fromkeys(condition for sweep in sweeps for condition in sweep.conditions))
    curves, single = families(names), others(names)
    panels = len(curves) + bool(single)
    if not panels:
        return None
    columns = min(3, panels)
    rows = math.ceil(panels / columns)
    made, axes = svg.figure(1.0 + 3.3 * columns, 0.5 + 2.8 * rows, rows, columns)
    for place, kind in enumerate(curves):
        for number, sweep in enumerate(sweeps):
            _curve(axes[place], kind, sweep, number, list(curves[kind]))
        variants = ", ".join(f"{variant} {_STYLES[n % 4]}" for n, variant in enumerate(curves[kind]) if variant)
        axes[place].set_xlabel(f"{LEVELS[kind]}\n{variants}" if variants else LEVELS[kind])
        axes[place].set_ylabel("balanced accuracy, %" if place % columns == 0 else "")
    if single:
        _dots(axes[len(curves)], single, sweeps)
    for empty in axes[panels:]:
        empty.set_visible(False)
    handles = [axes[0].plot([], [], color=svg.colour(n), marker=svg.marker(n), label=s.name)[0] for n, s in enumerate(sweeps)]
    made.legend(handles=handles, loc="outside upper center", ncols=min(4, len(handles)))
    return svg.inline(made, name, f"balanced accuracy under {len(names) - 1} degradations")


def _drawn(subjects: Sequence[Subject]) -> list[tuple[str, Curves]]:
    """The name and the curves of each artifact that has some."""
    return [(subject.name, subject.curves) for subject in subjects if subject.curves]


def _curve(axes: Any, kind: str, sweep: Sweep, number: int, variants: list[str]) -> None:
    lines = families(sweep.conditions).get(kind, {})
    for variant, points in lines.items():
        known = [(level, sweep.conditions[condition]) for level, condition in points]
        if kind in UNTOUCHED and CLEAN in sweep.conditions:
            known = sorted([*known, (UNTOUCHED[kind], sweep.conditions[CLEAN])], key=lambda pair: pair[0])
        xs, ys = [level for level, _ in known], [_percent(figure) for _, figure in known]
        colour = svg.colour(number)
        axes.plot(xs, ys, _STYLES[variants.index(variant) % 4], color=colour, marker=svg.marker(number), markersize=3)
        if len(lines) == 1:  # bands of several lines would hide each other
            low = [_percent(figure, "low") for _, figure in known]
            axes.fill_between(xs, low, [_percent(figure, "high") for _, figure in known], color=colour, alpha=0.12, linewidth=0)


def _dots(axes: Any, conditions: Sequence[str], sweeps: Sequence[Sweep]) -> None:
    for number, sweep in enumerate(sweeps):
        values = [_percent(sweep.conditions.get(condition)) for condition in conditions]
        axes.plot(values, range(len(conditions)), svg.marker(number), color=svg.colour(number), markersize=4)
    axes.set_yticks(range(len(conditions)), conditions, fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="balanced accuracy, %")


def _thinned(line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of a long line the corners that are furthest apart in log FPR; the first and the last stay."""
    if len(line) <= _ROC_POINTS:
        return list(line)
    places = [math.log10(fpr) for fpr, _ in line]
    least = (places[-1] - places[0]) / _ROC_POINTS
    kept = [line[0]]
    for point, place in zip(line[1:-1], places[1:-1], strict=True):
        if place - math.log10(kept[-1][0]) >= least:
            kept.append(point)
    return [*kept, line[-1]]


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that no other beats: from the fastest on, each more accurate than all before it."""
    kept: list[tuple[float, float]] = []
    for latency, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or accuracy > kept[-1][1]:
            kept.append((latency, accuracy))
    return kept


def _p50(row: BenchRow) -> float:
    return row.latency.p50_ms if row.latency else math.nan


def _bounds(row: BenchRow) -> tuple[float, float, float]:
    """Balanced accuracy in percent, and its interval; without width when it has none, not a number when it was not measured."""
    found = row.accuracy.balanced_accuracy if row.accuracy else None
    if found is None or found.value is None:
        return math.nan, math.nan, math.nan
    low, high = (found.value if bound is None else bound for bound in (found.low, found.high))
    return 100 * found.value, 100 * low, 100 * high


def _percent(figure: Figure | None, bound: Literal["value", "low", "high"] = "value") -> float:
    """Not a number when it was not measured; the value in place of a bound that it has not."""
    if figure is None:
        return math.nan
    value = figure["value"] if figure[bound] is None else figure[bound]
    return math.nan if value is None else 100 * value
