"""The report's tables as plain text, for the page and for Markdown alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgedet.bench import table
from edgedet.bench.result import BenchRow
from edgedet.bench.table import NOTHING
from edgedet.evaluate.tables import percent
from edgedet.metrics import Figure
from edgedet.report.content import Report, Run, Subject


@dataclass(frozen=True)
class Sheet:
    """headings, and whether each column holds figures; rows of cells; kinds: ``measured``, ``published``, ... by row."""

    headings: tuple[str, ...]
    figures: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    kinds: tuple[str, ...]


def of_run(run: Run, report: Report) -> Sheet:
    """The table of a benchmark, with what each artifact's verdicts lost to the full-precision original."""
    columns, cells = table.cells(run.rows)
    deltas = [_delta_of(row, report) for row in run.rows]
    shown = any(deltas)
    extra = (DELTA,) if shown else ()
    return Sheet(
        headings=(*(column.heading for column in columns), *extra),
        figures=(*(column.figure for column in columns), *([True] if shown else [])),
        rows=tuple((*line, *([delta or NOTHING] if shown else [])) for line, delta in zip(cells, deltas, strict=True)),
        kinds=tuple("failed" if row.error else row.kind for row in run.rows),
    )


DELTA = "Δ bal. acc. pp, validation [95 %]"


def of_subjects(subjects: Sequence[Subject]) -> Sheet:
    """The artifacts themselves: what they are, and their figures on the validation split."""
    columns: tuple[tuple[str, bool, Callable[[Subject], str]], ...] = (
        ("artifact", False, lambda each: each.name),
        ("made by", False, lambda each: each.stage),
        ("detector", False, lambda each: each.detector),
        ("precision", False, lambda each: each.precision),
        ("input", False, lambda each: each.input),
        ("size KB", True, lambda each: f"{each.size_bytes / 1000:,.1f}"),
        ("bal. acc. % [95 %]", True, lambda each: _percent(each, "balanced_accuracy")),
        (DELTA, True, lambda each: _points(each.curves.delta if each.curves else None)),
        ("AUC % [95 %]", True, lambda each: _percent(each, "auc")),
        ("TPR % at 1 % FPR", True, lambda each: _percent(each, "tpr_at_fpr1")),
        ("ECE % [95 %]", True, lambda each: _percent(each, "ece")),
        ("worst generator", False, lambda each: str(each.metrics.get("worst_generator") or NOTHING)),
        ("flips % [95 %]", True, lambda each: _percent(each, "flips_against_ancestor")),
        ("gates", False, _gates),
        ("digest", False, lambda each: each.digest[:12]),
    )
    columns = tuple(column for column in columns if any(column[2](each) != NOTHING for each in subjects))
    rows = tuple(tuple(value(each) for _, _, value in columns) for each in subjects)
    return Sheet(
        headings=tuple(heading for heading, _, _ in columns),
        figures=tuple(figure for _, figure, _ in columns),
        rows=rows,
        kinds=("measured",) * len(rows),
    )


def environment(report: Report) -> list[tuple[str, str]]:
    """Name and value of everything that is known of the machines and versions behind the figures."""
    lines: dict[tuple[str, str], None] = {}
    for run in report.runs:
        for row in run.rows:
            if row.kind == "measured":
                lines |= dict.fromkeys((f"{run.file}: {name}", value) for name, value in _machine(row))
    for subject in report.subjects:
        tools = ", ".join(f"{name} {version}" for name, version in sorted(subject.tools.items()))
        lines[f"{subject.name}: made with", tools or NOTHING] = None
    return list(lines)


def sort_key(cell: str) -> str:
    """What a cell is sorted by: its first number, or the last one when it begins with a name; nothing sorts last."""
    numbers = [part for part in cell.replace(",", "").replace("[", " ").replace("]", " ").split() if _is_number(part)]
    if not numbers:
        return ""
    return numbers[0].rstrip("†‡") if _is_number(cell.replace(",", "").split()[0]) else numbers[-1].rstrip("†‡")


def _is_number(text: str) -> bool:
    try:
        float(text.rstrip("†‡"))
    except ValueError:
        return False
    return True


def _machine(row: BenchRow) -> list[tuple[str, str]]:
    device = row.device
    facts = (
        ("device", device.name),
        ("system", device.system),
        ("cores", device.cores),
        ("what decides INT8", ", ".join(device.flags)),
        ("memory, GB", f"{device.memory_bytes / 1e9:.1f}" if device.memory_bytes else None),
        ("governor", device.governor),
        ("clock, MHz", device.clock_mhz),
        ("highest clock, MHz", device.max_clock_mhz),
        ("power mode", device.power_mode),
        ("load average at the start", device.load_average),
        ("date", (row.date or "")[:10]),
        ("null runtime, p50 µs a call", f"{1000 * row.harness_ms:.2f}" if row.harness_ms is not None else None),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(row.versions.items()))),
    )
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _delta_of(row: BenchRow, report: Report) -> str | None:
    subject = report.subject(row.digest)
    delta = subject.curves.delta if subject and subject.curves else None
    return _points(delta) if delta else None


def _points(delta: Figure | None) -> str:
    """A difference in percentage points, signed, with its interval."""
    if delta is None or delta["value"] is None:
        return NOTHING
    point = f"{100 * delta['value']:+.2f}"
    if delta["low"] is None or delta["high"] is None:
        return point
    return f"{point} [{100 * delta['low']:+.2f}, {100 * delta['high']:+.2f}]"


def _percent(subject: Subject, name: str) -> str:
    figure = subject.metrics.get(name)
    return percent(figure) if figure and figure["value"] is not None else NOTHING


def _gates(subject: Subject) -> str:
    outcomes = [gate["outcome"] for gate in subject.gates]
    if not outcomes:
        return NOTHING
    return ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes))
