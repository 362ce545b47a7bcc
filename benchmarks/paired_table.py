"""The results of paired.py as Markdown, drawn from their file alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def markdown(found: Mapping[str, Any]) -> str:
    """A table of all detectors by generator, what the seeds gave, and the matrix of generators left out."""
    rows: Sequence[Row] = found["rows"]
    whole = [row for row in rows if row["without"] is None]
    first = sorted((row for row in whole if row["seed"] == whole[0]["seed"]), key=lambda row: -row["test"]["auc"]["value"])
    images = f"{first[0]['epochs']} passes, {first[0]['images']:,} images seen; {first[0]['n']:,} test images; {found['date']}"
    lines = [f"Test AUC in percent with its 95 % interval, one seed ({images})", "", *_table("detector", first, _detector), ""]
    lines += [*_seeds(whole), ""]
    left_out = [row for row in rows if row["without"] is not None]
    if left_out:
        passes = f"{left_out[0]['epochs']} passes"
        lines += [f"`{left_out[0]['detector']}` trained without one generator in {passes}, asked about each", ""]
        lines += [*_table("never seen", left_out, lambda row: str(row["without"])), ""]
    return "\n".join(lines)


def _detector(row: Row) -> str:
    return f"`{row['detector']}`"


def _table(title: str, rows: Sequence[Row], name: Any) -> list[str]:
    generators = sorted(rows[0]["generators"])
    lines = [f"| {title} | all | {' | '.join(generators)} |", f"| --- | {' | '.join('---:' for _ in ('all', *generators))} |"]
    for row in rows:
        cells = [_figure(row["test"]["auc"])]
        for generator in generators:
            cell = _figure(row["generators"][generator]["auc"])
            cells.append(f"**{cell}**" if generator == row["without"] else cell)
        lines.append(f"| {name(row)} | {' | '.join(cells)} |")
    return lines


def _figure(figure: Mapping[str, float]) -> str:
    return f"{100 * figure['value']:.1f} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


def _seeds(rows: Sequence[Row]) -> list[str]:
    """For each detector of more than one seed, the mean of its test AUCs and what they were."""
    lines = []
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        of = [row for row in rows if row["recipe"] == recipe]
        if len(of) > 1:
            values = [100 * row["test"]["auc"]["value"] for row in of]
            each = ", ".join(f"{value:.1f}" for value in values)
            mean, deviation = statistics.mean(values), statistics.stdev(values)
            lines.append(f"- {_detector(of[0])}, {len(of)} seeds: {mean:.1f}, standard deviation {deviation:.1f} ({each})")
    return lines
