"""What is known of one candidate after a round, kept as JSON beside its artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edgedet.data.store import writing_file
from edgedet.errors import ArtifactError
from edgedet.recipe import Config
from edgedet.search.cost import Cost


class Result(Config, frozen=True, kw_only=True):
    """One candidate, measured and judged on the validation split.

    path: of its artifact, below the search's folder. rung: the round, from 0; epochs: of distillation.
    worst, worst_generator: balanced accuracy of the generator that fares worst. overall: of all images.
    drop, drop_bound: of balanced accuracy against the teacher, paired, and its upper 95 % bound: overall or at a generator,
        wherever the bound is largest, which `drop_slice` names.
    latency_ms, latency_kind: of one image, measured here or estimated; p90_error: the estimate's, relative.
    speedup: over the teacher's FP32 graph on that device; None when that has no estimate. speedup_high: the upper end of the
        95 % interval of a measured one.
    energy_mj: millijoules of one image above rest, where it was measured.
    failed_gates: those of the artifact's manifest.
    """

    name: str
    trunk: str
    precision: str
    path: str
    digest: str
    rung: int
    epochs: int
    overall: float
    worst: float
    worst_generator: str
    drop: float
    drop_bound: float
    drop_slice: str
    latency_ms: float
    latency_kind: Literal["measured", "estimated"]
    p90_error: float = 0.0
    speedup: float | None
    speedup_high: float | None = None
    energy_mj: float | None = None
    size_bytes: int
    failed_gates: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def latency_bound(self) -> float:
        """What a limit is compared with: the latency as it was measured, or the estimate with its error on top."""
        return self.latency_ms * (1 + self.p90_error)


def priced(result: Result, cost: Cost) -> Result:
    """`result` at another cost."""
    return msgspec.structs.replace(
        result,
        latency_ms=cost.latency_ms,
        speedup=cost.speedup,
        speedup_high=cost.speedup_high,
        energy_mj=cost.energy_mj,
    )


def better(result: Result, cost: Cost) -> Result:
    """`result` with the better of its own cost and another that was measured."""
    found = priced(result, cost)
    return msgspec.structs.replace(
        found,
        latency_ms=min(result.latency_ms, found.latency_ms),
        speedup=max(result.speedup or 0.0, found.speedup or 0.0),
        speedup_high=max(result.speedup_high or 0.0, found.speedup_high or 0.0),
    )


class Failure(Config, frozen=True, kw_only=True):
    """A candidate that could not be made, and why; it is not tried again."""

    name: str
    rung: int
    reason: str


def save(path: Path, record: Result | Failure) -> None:
    """Write it whole.

    Raises:
        DataError: the folder cannot be written.
    """
    with writing_file(path, "give another --out") as file:
        file.write(msgspec.json.format(msgspec.json.encode({type(record).__name__.lower(): record}), indent=2))


class _Saved(Config, frozen=True, kw_only=True):
    result: Result | None = None
    failure: Failure | None = None


def load(path: Path) -> Result | Failure | None:
    """What :func:`save` wrote; None when there is nothing.

    Raises:
        ArtifactError: something else is there.
    """
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(f"{path}: is no result of this search: {error}; remove it to make that candidate again") from error
    return saved.result or saved.failure
