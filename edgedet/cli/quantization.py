"""What `edgedet export --int8` tried on held-out images, as tables."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from edgedet.artifact import Figures
from edgedet.cli.common import table

_ERROR = ("mean |dz|", "largest |dz|", "flips")


def quantization_tables(found: Figures) -> list[Table | str]:
    """Of the methods that ranges were picked by, and of the mixes of INT8 and float; nothing where nothing was tried."""
    shown: list[Table | str] = []
    if "ranges" in found:
        rows = [(row["ranges"], *_error(row)) for row in found["ranges"]]
        shown.append(table("ranges, on held-out images", ("method", *_ERROR), rows, right=_ERROR))
    if "mixed" in found:
        shown += [_alone(found["mixed"]["alone"]), *_pareto(found["mixed"])]
    return shown


def _alone(ranked: list[dict[str, Any]]) -> Table:
    rows = [(", ".join(row["block"]), *_error(row)) for row in ranked]
    return table("what INT8 costs in each block alone", ("block", *_ERROR), rows, right=_ERROR)


def _pareto(mixed: dict[str, Any]) -> list[Table | str]:
    """The mixes that no other beats, with their times: an estimate is marked, a measurement has its unit."""
    columns = ("blocks in float", *_ERROR, "time, estimated, x float", "ms, measured")
    rows = []
    for row in mixed["pareto"]:
        times = f"{row['estimated_time']:.2f}", f"{row['measured_ms']:.3g}" if "measured_ms" in row else "–"
        rows.append((str(row["blocks_in_float"]), *_error(row), *times))
    if mixed["float_ms"] is not None:
        rows.append(("all", "0", "0", "0", "1", f"{mixed['float_ms']:.3g}"))
    return [table("mixed precision", columns, rows, right=columns), mixed["how"]]


def _error(row: dict[str, Any]) -> tuple[str, str, str]:
    return f"{row['mean_error']:.4f}", f"{row['max_error']:.3f}", f"{row['flips']} of {row['n']}"
