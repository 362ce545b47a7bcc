"""What a search found, for people and for machines: a table, a JSON record and a plot of the front."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from edgedet.data.store import writing_file
from edgedet.search.halving import Limits, nearest
from edgedet.search.result import Result
from edgedet.search.run import Search

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = ("candidate", "worst %", "lost [bound] at", "ms", "speed-up", "kB", "round")
_ENERGY = "mJ"


def table(search: Search) -> Table:
    """The candidates, those of the front first and the chosen one marked."""
    front = search.front
    names = {each.name for each in front}
    others = sorted((each for each in search.results.values() if each.name not in names), key=lambda each: -each.worst)
    title = "the front, which no other candidate beats in accuracy, speed and size; below it the others"
    made = Table(title=Text(title), title_justify="left")
    for column in (*_COLUMNS, *([_ENERGY] if _measured(search) else [])):
        first = column == _COLUMNS[0]
        made.add_column(column, justify="left" if first else "right", overflow="fold", no_wrap=first)
    for each in front:
        made.add_row(*map(Text, _row(each, search)))
    made.add_section()
    for each in others:
        made.add_row(*map(Text, _row(each, search)))
    return made


def record(search: Search, limits: Limits) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "chosen": search.chosen.name if search.chosen else None,
        "limits": {"latency_ms": limits.latency_ms, "size_kb": limits.size_kb, "drop": limits.drop, "speedup": limits.speedup},
        "front": [each.name for each in search.front],
        "candidates": list(search.results.values()),
        "failures": list(search.failures.values()),
        "notes": search.notes,
    }


def nothing_fits(search: Search, limits: Limits) -> str:
    """One line: that nothing fits, and what came nearest and by how much it did not."""
    if not search.results:
        first = next(iter(search.failures.values()), None)
        return f"no candidate could be made: {f'{first.name}: {first.reason}' if first else 'raise --budget-minutes'}"
    closest = nearest(list(search.results.values()), limits)
    missed = "; ".join(_missed(closest, limits))
    return f"nothing fits the limits; nearest is {closest.name} in {closest.path}: {missed}"


def plot(search: Search, limits: Limits, path: Path) -> None:
    """Worst-generator balanced accuracy against latency, and against energy where it was measured, as a PNG.

    The area of a point is the size of its file.

    Raises:
        DataError: it cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    panels = figure.subplots(1, 2 if _measured(search) else 1, sharey=True, squeeze=False)[0]
    kinds = " and ".join(sorted({each.latency_kind for each in search.results.values()}))
    _scatter(panels[0], search, lambda each: each.latency_ms, f"ms for one image, {kinds}")
    if limits.latency_ms is not None:
        panels[0].axvline(limits.latency_ms, color="black", linestyle=":", linewidth=0.8)
    for panel in panels[1:]:
        _scatter(panel, search, lambda each: each.energy_mj, "mJ for one image above rest, measured")
    panels[0].set_ylabel("balanced accuracy at the worst generator, %, validation")
    figure.suptitle("red is chosen, blue is the front; areas are file sizes", fontsize=9)
    with writing_file(path, "give another --out") as file:
        figure.savefig(file, format="png")


def _measured(search: Search) -> bool:
    """Whether energy is known of any."""
    return any(each.energy_mj is not None for each in search.results.values())


def _scatter(axes: Axes, search: Search, cost: Callable[[Result], float | None], label: str) -> None:
    """Every candidate whose cost is known, and a line through the front."""
    front = search.front
    known = [(each, spent) for each in search.results.values() if (spent := cost(each)) is not None]
    largest = max(each.size_bytes for each, _ in known)
    for each, spent in known:
        on_front, is_chosen = each in front, each == search.chosen
        colour = "tab:red" if is_chosen else "tab:blue" if on_front else "tab:grey"
        area = 20 + 300 * each.size_bytes / largest
        axes.scatter(spent, 100 * each.worst, s=area, color=colour, alpha=0.6, linewidths=0)
        if on_front:
            axes.annotate(each.name, (spent, 100 * each.worst), fontsize=6, xytext=(4, 4), textcoords="offset points")
    line = sorted((spent, 100 * each.worst) for each, spent in known if each in front)
    axes.plot([x for x, _ in line], [y for _, y in line], color="tab:blue", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel(label)


def _row(each: Result, search: Search) -> tuple[str, ...]:
    """Accuracy is balanced accuracy at the worst generator; a candidate with a failed gate is marked."""
    mark = "‡" if each.latency_kind == "estimated" else ""
    error = f" +{100 * each.p90_error:.0f} % p90" if mark else ""
    name = each.name + (" (chosen)" if each == search.chosen else "") + (" (a gate fails)" if each.failed_gates else "")
    return (
        name,
        f"{100 * each.worst:.2f}",
        f"{100 * each.drop:.2f} [{100 * each.drop_bound:.2f}] {each.drop_slice}",
        f"{each.latency_ms:.3g}{mark}{error}",
        "-" if each.speedup is None else f"{each.speedup:.3g}{mark}",
        f"{each.size_bytes / 1000:,.4g}",
        str(each.rung + 1),
        *(["-" if each.energy_mj is None else f"{each.energy_mj:.3g}"] if _measured(search) else []),
    )


def _missed(each: Result, limits: Limits) -> list[str]:
    """In words, each limit that it does not hold."""
    excess = limits.excess(each)
    error = " with its p90 error" if each.latency_kind == "estimated" else ""
    said = {
        "latency": f"{each.latency_bound:.3g} ms{error}, {limits.latency_ms or math.nan:.3g} allowed",
        "size": f"{each.size_bytes / 1000:.4g} kB, {limits.size_kb or math.nan:.4g} allowed",
        "speed-up": f"{each.speedup or math.nan:.3g} times as fast as the teacher, {limits.speedup or math.nan:.3g} wanted",
        "drop": (
            f"lost up to {100 * each.drop_bound:.2f} points against the teacher ({each.drop_slice}), "
            f"{100 * (limits.drop or math.nan):.2f} allowed"
        ),
    }
    return [said.get(name, f"{name} failed".removeprefix("gate: ")) for name in excess]
