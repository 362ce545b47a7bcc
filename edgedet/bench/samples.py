"""The raw samples of a benchmark: every timed call, kept in one file beside the result lines."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from edgedet.bench.scenarios import Comparison
from edgedet.bench.statistics import Samples
from edgedet.errors import BenchError
from edgedet.recipe import Config

SCHEMA = "edgedet-samples-1"

Scenario = Literal["model", "whole", "preprocess"]
"""Single-stream: model-only, end to end, or preprocessing only."""


class _Series(Config, frozen=True, kw_only=True):
    name: str
    digest: str
    scenario: Scenario


class _Head(Config, frozen=True, kw_only=True):
    schema: str
    date: str
    series: tuple[_Series, ...]


@dataclass(frozen=True)
class Series:
    """Every timed call of one row in one scenario."""

    name: str
    digest: str
    scenario: Scenario
    date: str
    samples: Samples


def save(
    path: Path,
    model: Comparison,
    whole: Comparison,
    digests: Mapping[str, str],
    *,
    date: str,
    preprocess: Comparison | None = None,
) -> None:
    """Write an npz without pickled objects; `digests`: the artifact's by row name.

    Raises:
        BenchError: the file cannot be written.
    """
    series: list[_Series] = []
    arrays: dict[str, Any] = {}
    scenarios: dict[Scenario, Comparison] = {"model": model, "whole": whole}
    if preprocess is not None:
        scenarios["preprocess"] = preprocess
    for scenario, comparison in scenarios.items():
        for name, samples in comparison.samples.items():
            arrays[f"nanoseconds/{len(series)}"] = samples.nanoseconds
            arrays[f"rounds/{len(series)}"] = samples.rounds
            series.append(_Series(name=name, digest=digests[name], scenario=scenario))
    head: Any = np.frombuffer(msgspec.json.encode(_Head(schema=SCHEMA, date=date, series=tuple(series))), np.uint8)
    try:
        with path.open("wb") as file:
            np.savez_compressed(file, head=head, **arrays)
    except OSError as error:
        raise BenchError(f"{path}: samples cannot be written: {error.strerror or error}") from error


def load(path: Path) -> list[Series]:
    """Read what :func:`save` wrote.

    Raises:
        BenchError: it is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            head = msgspec.json.decode(file["head"].tobytes(), type=_Head)
            if head.schema != SCHEMA:
                raise ValueError(f"schema {head.schema!r}")
            kept = [Samples(file[f"nanoseconds/{at}"], file[f"rounds/{at}"]) for at in range(len(head.series))]
            pairs = zip(head.series, kept, strict=True)
            return [Series(each.name, each.digest, each.scenario, head.date, own) for each, own in pairs]
    except (OSError, KeyError, ValueError, msgspec.DecodeError, zipfile.BadZipFile) as error:
        raise BenchError(f"{path}: no samples of a benchmark can be read from it ({error})") from error
