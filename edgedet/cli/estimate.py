"""What cannot be measured here: ``edgedet estimate``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedet.artifact import Artifact
from edgedet.cli.common import Json, show, table
from edgedet.errors import BenchError
from edgedet.target import Precision, Target

if TYPE_CHECKING:
    from edgedet.bench.estimate import Estimate
    from edgedet.work import Work


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("estimate")(estimate)


def estimate(
    artifact: Annotated[Path, typer.Argument(help="A checkpoint or a graph; only its shapes are read.")],
    target: Annotated[str, typer.Option(help="A device that is not here; `edgedet targets` lists them.")] = "rtx-3090",
    json: Json = None,
) -> None:
    """Estimate latency and throughput on a device that is not here, from published figures, with their error."""
    from edgedet.bench import estimate as estimates
    from edgedet.models.work import of_artifact
    from edgedet.target import resolve

    device, subject = resolve(target), Artifact.load(artifact)
    work = of_artifact(subject)
    asked: dict[str, Callable[[], Estimate]] = {
        f"latency, batch 1, {precision}": _latency(work, device, precision) for precision in _precisions(subject, device)
    }
    asked["throughput, amp"] = lambda: estimates.throughput(work, device)
    found, refused = {}, {}
    for name, calculate in asked.items():
        try:
            found[name] = calculate()
        except BenchError as error:
            refused[name] = str(error)
    if not found:
        raise BenchError(next(iter(refused.values())))
    notes = [f"{name}: {note}" for name, each in found.items() for note in (each.method, *each.notes)]
    notes += [f"{name}: {why}" for name, why in refused.items()]
    rows = [(name, *_cells(each)) for name, each in found.items()]
    columns = ("figure", "estimated", "median", "p90", "networks", "rows")
    first = next(iter(found.values()))
    mode = f" in mode {first.mode}" if first.mode else ""
    title = f"{artifact}, {first.family}, on {device.device}{mode}: ‡ estimated, not measured; errors on networks left out"
    record = {"artifact": subject.digest, "work": work, "estimates": found, "refused": refused}
    show(table(title, columns, rows, right=columns[1:]), *notes, json=json, record=record)


def _latency(work: Work, device: Target, precision: Precision) -> Callable[[], Estimate]:
    from edgedet.bench import estimate as estimates

    return lambda: estimates.latency(work, device, precision)


def _precisions(artifact: Artifact, device: Target) -> tuple[Precision, ...]:
    """A graph has one, a checkpoint may be exported in any that the device takes."""
    graphs = artifact.manifest.graphs
    return tuple(each for each in device.precisions if not graphs or each == graphs[0].precision)


def _cells(each: Estimate) -> tuple[str, ...]:
    value = f"{each.value:,.0f}" if each.unit == "images/s" else f"{each.value:,.3g}"
    errors = (f"{100 * error:.0f} %" for error in (each.median_error, each.p90_error))
    return (f"{value} {each.unit}‡", *errors, str(each.architectures), str(each.rows))
