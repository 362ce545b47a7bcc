"""The result lines as one table, for the terminal and as Markdown.

Each row says whether it was measured, published or estimated, and every value that was not measured here carries a mark that
the legend below explains: † published, ‡ estimated. A column that no row has anything for is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgedet.bench import probe
from edgedet.bench.power import Power
from edgedet.bench.result import BenchRow, Interval, Memory, Share
from edgedet.bench.statistics import UNSTEADY_COV
from edgedet.errors import BenchError

MARKS = {"measured": "", "published": "†", "estimated": "‡"}
NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """A heading, and the value of a row, or None when the row has none. `figure`: a number, aligned right and marked."""

    heading: str
    value: Callable[[BenchRow], str | None]
    figure: bool = True


def _latency(pick: Callable[[BenchRow], float | None]) -> Callable[[BenchRow], str | None]:
    return lambda row: _short(pick(row))


COLUMNS = (
    Column("model", lambda row: f"{row.name} (untrained)" if row.weights == "untrained" else row.name, figure=False),
    Column("figures", lambda row: "failed" if row.error else row.kind, figure=False),
    Column("runtime", lambda row: " ".join(filter(None, (row.runtime, row.runtime_version))) or None, figure=False),
    Column("precision", lambda row: row.precision, figure=False),
    Column("px", lambda row: _pixels(row), figure=False),
    Column("threads", lambda row: None if row.threads is None else str(row.threads)),
    Column("max Δ logit", lambda row: None if row.parity is None else f"{row.parity:.1g}"),
    Column("size KB", lambda row: None if row.size_bytes is None else _short(row.size_bytes / 1000)),
    Column("peak MB", lambda row: None if row.memory is None else _short(row.memory.peak_bytes / 1e6)),
    Column("GPU MB", lambda row: _on_device(row.memory)),
    Column("p50 ms", _latency(lambda row: row.latency.p50_ms if row.latency else None)),
    Column("p90 ms", _latency(lambda row: row.latency.p90_ms if row.latency else None)),
    Column("p99 ms", _latency(lambda row: row.latency.p99_ms if row.latency else None)),
    Column("file to score p50 ms", _latency(lambda row: row.end_to_end.p50_ms if row.end_to_end else None)),
    Column("preprocess p50 ms", _latency(lambda row: row.preprocess.p50_ms if row.preprocess else None)),
    Column("images/s (batch)", lambda row: _throughput(row)),
    Column("% of reference images/s", lambda row: _short(100 * row.share.value) if row.share else None),
    Column("images/J (batch)", lambda row: _per_joule(row)),
    Column("speed-up [95 %]", lambda row: _speedup(row)),
    Column("last step", lambda row: f"{row.bought.value:.2f} x" if row.bought else None),
    Column("bal. acc. % [95 %]", lambda row: _percent(row.accuracy.balanced_accuracy) if row.accuracy else None),
    Column("AUC %", lambda row: _percent(row.accuracy.auc, interval=False) if row.accuracy else None),
    Column("worst generator %", lambda row: _worst(row)),
    Column("flips %", lambda row: _percent(row.accuracy.flip_rate, interval=False) if row.accuracy else None),
)
BRIEF = (
    "model", "runtime", "px", "size KB", "p50 ms", "images/s (batch)", "% of reference images/s", "speed-up [95 %]",
    "bal. acc. % [95 %]", "flips %",
)  # fmt: skip
"""The headings that a first look needs; the precision is part of the name of every artifact that the exporter made."""


def rich_tables(rows: Sequence[BenchRow], width: int) -> list[Table]:
    """The table for a terminal of `width` characters; what does not fit goes on below, under the same first column."""
    columns, lines = cells(rows)
    widths = [max(len(text) for text in (column.heading, *(line[at] for line in lines))) for at, column in enumerate(columns)]
    tables = []
    for shown in _pages(widths, width):
        table = Table(header_style="bold")
        for position in shown:
            table.add_column(columns[position].heading, justify="right" if columns[position].figure else "left")
        for row, line in zip(rows, lines, strict=True):
            table.add_row(*(Text(line[position]) for position in shown), style="" if row.kind == "measured" else "dim")
        tables.append(table)
    return tables


def markdown(rows: Sequence[BenchRow]) -> str:
    """The same as Markdown, ending in a newline."""
    return _markdown(*cells(rows), footnotes(rows))


def brief(rows: Sequence[BenchRow]) -> str:
    """The columns of `BRIEF` as Markdown and where they were measured; sources and warnings are left to the whole table."""
    columns, found = cells(rows)
    kept = [at for at, column in enumerate(columns) if column.heading in BRIEF]
    where = dict.fromkeys(_where(row) for row in rows if row.kind == "measured")
    return _markdown([columns[at] for at in kept], [[line[at] for at in kept] for line in found], list(where))


def _markdown(columns: Sequence[Column], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    lines = grid([column.heading for column in columns], rows, right=[column.figure for column in columns])
    return "\n".join([*lines, *(["", *(f"- {escape(note)}" for note in notes)] if notes else [])]) + "\n"


def grid(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[bool]) -> list[str]:
    """A Markdown table, line by line; `right`: the columns that are aligned right."""
    rule = ["---:" if aligned else "---" for aligned in right]
    return [_line(headings), _line(rule), *(_line([escape(cell) for cell in row]) for row in rows)]


def show(rows: Sequence[BenchRow], console: Console | None = None) -> None:
    """Print the table and its footnotes on `console`, standard output by default."""
    out = console or Console()
    for table in rich_tables(rows, out.width):
        out.print(table)
    for note in footnotes(rows):
        out.print(Text(f"- {note}"))


def footnotes(rows: Sequence[BenchRow]) -> list[str]:
    """What stands below the table: where and how it was measured, sources, failures, and what to be wary of; each once."""
    notes = [_where(row) for row in rows if row.kind == "measured"]
    notes += [f"{MARKS[row.kind]} {row.kind}: {row.name} on {row.device.name}: {row.source}" for row in rows if MARKS[row.kind]]
    notes += [f"speed-up: {row.statistic} of {row.speedup.baseline} / {row.statistic}, one run" for row in rows if row.speedup]
    notes += [f"% of reference images/s, {row.name}: {_of(row.share)}" for row in rows if row.share]
    notes += [f"images/J: {_drawn(row.power)}" for row in rows if row.power]
    notes += [f"no energy: {row.power_reason}" for row in rows if row.power_reason]
    notes += [note for row in rows for note in _twice(row, rows)]
    notes += ["last step: speed-up over the artifact before the last compression step" for row in rows if row.bought]
    notes += ["flips: verdicts that differ from the full-precision ancestor's" for row in rows if row.accuracy]
    notes += ["max Δ logit: on golden images, to the logits that the artifact was exported with" for row in rows if row.parity]
    notes += [_harness(rows)] if any(row.harness_ms is not None for row in rows) else []
    notes += [f"p99 of {row.name}: {row.latency.p99_reason}" for row in rows if row.latency and row.latency.p99_reason]
    notes += [f"{row.name} failed: {row.error}" for row in rows if row.error]
    notes += [f"accuracy on split {row.accuracy.split}" for row in rows if row.accuracy and row.accuracy.split]
    notes += [note for row in rows for note in row.notes]
    return list(dict.fromkeys([*notes, *_warnings(rows)]))


def _twice(row: BenchRow, rows: Sequence[BenchRow]) -> list[str]:
    """What an artifact's comparison with itself says of the measurement; nothing where its speed-up is over another one.

    It is the same when artifact, runtime and threads are.
    """
    ratio, alike = row.speedup, (row.digest, row.runtime, row.threads)
    if ratio is None or row.name == ratio.baseline:
        return []
    holds = ratio.low <= 1 <= ratio.high
    verdict = "holds 1, as it must" if holds else "does not hold 1: nothing smaller than this can be told apart here"
    said = f"{row.name} is {ratio.baseline} again: {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] {verdict}"
    return [said for other in rows if other.name == ratio.baseline and (other.digest, other.runtime, other.threads) == alike]


def _of(share: Share) -> str:
    """Which published throughput it is a share of."""
    what = f"{share.model} at {share.img_size} px, {share.precision}, batch {share.batch}"
    return f"images/s here / {share.of:,.0f} {share.kind} for {what} on the {share.device}; throughputs, not latencies"


def _drawn(power: Power) -> str:
    """What images per joule are of."""
    return f"of {power.scope} ({power.source}), above {power.idle_mw / 1000:.2f} W at rest, model only, without a pause"


def _harness(rows: Sequence[BenchRow]) -> str:
    slowest = max(row.harness_ms for row in rows if row.harness_ms is not None)
    return f"the harness itself, on a runtime that does nothing: {1000 * slowest:.2f} µs a call, not subtracted"


def _where(row: BenchRow) -> str:
    cores = f", {row.device.cores} cores" if row.device.cores else ""
    flags = f" ({', '.join(row.device.flags)})" if row.device.flags else ""
    card = f"{row.accelerator}, " if row.accelerator else ""
    return f"measured on {card}{row.device.name}{cores}{flags}, {row.device.system}, {(row.date or '')[:10]}"


def _warnings(rows: Sequence[BenchRow]) -> list[str]:
    """What a reader must know before the measured figures are believed."""
    unsteady = [f"{row.name} {row.latency.cov:.1%}" for row in rows if row.latency and row.latency.cov > UNSTEADY_COV]
    cold = [row.name for row in rows if row.warmup_stable is False]
    machine = [probe.busy(row.device) for row in rows] + [probe.disturbed(row.others_share) for row in rows]
    machine += [probe.hot(row.throttled) for row in rows]
    return [
        *(warning for warning in machine if warning),
        *([f"unsteady, coefficient of variation above {UNSTEADY_COV:.1%}: {', '.join(unsteady)}"] if unsteady else []),
        *([f"not steady when the warm-up ended: {', '.join(cold)}"] if cold else []),
    ]


def _pages(widths: Sequence[int], width: int) -> list[list[int]]:
    """Column positions by table, each beginning with the first column."""
    pages, used = [[0]], widths[0] + 4
    for position in range(1, len(widths)):
        if used + widths[position] + 3 > width and len(pages[-1]) > 1:
            pages.append([0])
            used = widths[0] + 4
        pages[-1].append(position)
        used += widths[position] + 3
    return pages


def cells(rows: Sequence[BenchRow]) -> tuple[list[Column], list[list[str]]]:
    """The columns that some row has a value for, and the marked values by row.

    Raises:
        BenchError: there are no rows.
    """
    if not rows:
        raise BenchError("no results to show: run the benchmark first")
    columns = [column for column in COLUMNS if any(column.value(row) for row in rows)]
    return columns, [[_cell(column, row) for column in columns] for row in rows]


def _cell(column: Column, row: BenchRow) -> str:
    value = column.value(row)
    if not value:
        return NOTHING
    return value + MARKS[row.kind] if column.figure else value


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def escape(text: str) -> str:
    """`text` for a cell or a line of Markdown."""
    return text.replace("|", "\\|").replace("\n", " ")


def _short(value: float | None) -> str | None:
    """Three significant digits, without an exponent: 0.0312, 4.56, 12.3, 1,234."""
    if value is None:
        return None
    for least, digits in ((100, 0), (10, 1), (1, 2), (0.1, 3)):
        if abs(value) >= least:
            return f"{value:,.{digits}f}"
    return f"{value:.4f}"


def _pixels(row: BenchRow) -> str | None:
    if row.img_size is None:
        return None
    height, width = row.img_size
    return str(height) if height == width else f"{height}x{width}"


def _throughput(row: BenchRow) -> str | None:
    best = row.best_throughput
    return None if best is None else f"{_short(best.images_per_second)} ({best.batch})"


def _on_device(memory: Memory | None) -> str | None:
    return None if memory is None or memory.device_bytes is None else _short(memory.device_bytes / 1e6)


def _per_joule(row: BenchRow) -> str | None:
    load = row.best_load
    return None if load is None else f"{_short(load.images_per_joule)} ({load.batch})"


def _speedup(row: BenchRow) -> str | None:
    ratio = row.speedup
    if ratio is not None and ratio.baseline == row.name:
        return "1"
    return None if ratio is None else f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _percent(figure: Interval | None, *, interval: bool = True) -> str | None:
    if figure is None or figure.value is None:
        return None
    if not interval or figure.low is None or figure.high is None:
        return f"{100 * figure.value:.1f}"
    return f"{100 * figure.value:.1f} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"


def _worst(row: BenchRow) -> str | None:
    found = row.accuracy
    value = _percent(found.worst_balanced_accuracy, interval=False) if found else None
    return None if found is None or value is None else f"{found.worst_generator} {value}"
