"""The search: ``edgedet compress``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedet import recipe
from edgedet.artifact import Artifact
from edgedet.cli.common import Data, Json, Overrides, Resume, data_of, show, write_json
from edgedet.errors import GateFailed, UsageError

FRONT = "front"
_DEFAULTS = {(32, 32): "cifake-compress"}
"""By the teacher's input."""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("compress")(compress)


def compress(
    artifact: Annotated[Path, typer.Argument(help="The full-precision checkpoint to compress.")],
    out: Annotated[Path, typer.Option("--out", help="The folder of the search: empty, new, or one to resume.")],
    overrides: Overrides = None,
    target: Annotated[str, typer.Option(help="A target; what is not this machine is estimated.")] = "host",
    recipe_name: Annotated[str | None, typer.Option("--recipe", help="What is tried; else by the input's size.")] = None,
    max_latency_ms: Annotated[float | None, typer.Option(help="Of one image.")] = None,
    max_size_kb: Annotated[float | None, typer.Option(help="Of the graph.")] = None,
    min_speedup: Annotated[float | None, typer.Option(help="Over the teacher's FP32 graph at batch 1, in one run.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Of balanced accuracy: its 95 % bound; 0.01 is a point.")] = None,
    budget_minutes: Annotated[float | None, typer.Option(min=0.01, help="Making and measuring, restarts included.")] = None,
    data: Data = None,
    resume: Resume = False,
    json: Json = None,
) -> None:
    """Search students, widths, pruning and precision for the best detector that fits a device, and write it to OUT/best."""
    from edgedet.search import report, run
    from edgedet.search.halving import Limits
    from edgedet.search.space import CompressRecipe

    limits = Limits(latency_ms=max_latency_ms, size_kb=max_size_kb, drop=max_drop, speedup=min_speedup)
    teacher = Artifact.load(artifact)
    name = recipe_name or _default(teacher)
    if recipe.load("train", name, dict).get("stage") != "compress":
        raise UsageError(f"{name} is no recipe for `edgedet compress`: `edgedet recipes` lists them")
    config = recipe.load("train", name, CompressRecipe, overrides or ())
    found = run.run(
        config, teacher, data_of(data), out, target=target, limits=limits, budget_minutes=budget_minutes, resume=resume
    )
    record = report.record(found, limits)
    write_json(str(out / f"{FRONT}.json"), record)
    notes = [*found.notes, *(f"not made: {each.name}: {each.reason}" for each in found.failures.values())]
    if found.results:
        report.plot(found, limits, out / f"{FRONT}.png")
    notes += [f"chosen: {found.chosen.name}, written to {out / run.BEST}"] if found.chosen else []
    show(report.table(found), *notes, json=json, record=record)
    if found.chosen is None:
        raise GateFailed(report.nothing_fits(found, limits))


def _default(teacher: Artifact) -> str:
    size = (teacher.manifest.preprocess.height, teacher.manifest.preprocess.width)
    if size not in _DEFAULTS:
        there = ", ".join(f"{name} for {height}x{width}" for (height, width), name in _DEFAULTS.items())
        raise UsageError(f"no search is kept for images of {size[0]}x{size[1]} (there is {there}): write one and give --recipe")
    return _DEFAULTS[size]
