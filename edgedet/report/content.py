"""What a report says, as plain data: the page, the Markdown and the JSON are drawn from this, and from nothing else."""

from __future__ import annotations

from typing import Literal

from edgedet.artifact import Ancestor, Figures
from edgedet.bench.result import BenchRow
from edgedet.metrics import Figure
from edgedet.recipe import Config

SCHEMA = 1


class Run(Config, frozen=True, kw_only=True):
    """The result lines of one file, the full-precision original on top; `older`: lines that a later one takes the place of."""

    file: str
    rows: tuple[BenchRow, ...]
    older: int = 0


class OperatingPoint(Config, frozen=True, kw_only=True):
    """A threshold on the score, and where it lies on the validation ROC."""

    name: str
    threshold: float
    fpr: float
    tpr: float
    default: bool


class Curves(Config, frozen=True, kw_only=True):
    """On the validation split. roc: (fpr, tpr) corners; reliability: (mean score, share of fakes, weight) by bin.

    delta: balanced accuracy less that of the first of the line, on the same images, with its paired 95 % interval.
    """

    roc: tuple[tuple[float, float], ...]
    points: tuple[OperatingPoint, ...]
    reliability: tuple[tuple[float, float, float], ...]
    delta: Figure | None = None


class Subject(Config, frozen=True, kw_only=True):
    """One artifact. curves_missing: why there are no curves; lineage: from the first ancestor to the parent."""

    name: str
    digest: str
    stage: str
    kind: str
    detector: str
    precision: str
    size_bytes: int
    input: str
    seed: int | None
    lineage: tuple[Ancestor, ...]
    gates: tuple[dict[str, str], ...]
    notes: tuple[str, ...]
    tools: dict[str, str]
    metrics: Figures
    curves: Curves | None = None
    curves_missing: str = ""


class Sweep(Config, frozen=True, kw_only=True):
    """One artifact on one split. conditions: balanced accuracy by condition; generators: the clean one by generator."""

    name: str
    digest: str
    split: str
    conditions: dict[str, Figure]
    generators: dict[str, Figure]


class Distribution(Config, frozen=True, kw_only=True):
    """Latency of one row: milliseconds at each hundredth quantile, 0 to 1 (101 values), from `n` timed calls."""

    name: str
    digest: str
    scenario: Literal["model", "whole", "preprocess"]
    date: str
    n: int
    quantiles_ms: tuple[float, ...]


class AuditLine(Config, frozen=True, kw_only=True):
    """What is known of the data: `shortcuts` is the AUC of each baseline that sees no picture."""

    headline: str
    images: int | None = None
    shortcuts: dict[str, float | None] = {}
    leaks: int | None = None
    near: int | None = None


class Report(Config, frozen=True, kw_only=True):
    """Everything. missing: what the page has no section for, and the command that makes it."""

    schema: int = SCHEMA
    title: str
    made: str
    edgedet: str
    runs: tuple[Run, ...]
    subjects: tuple[Subject, ...]
    sweeps: tuple[Sweep, ...]
    latencies: tuple[Distribution, ...]
    audits: tuple[AuditLine, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def subject(self, digest: str | None) -> Subject | None:
        """The artifact of that digest, when its folder was there."""
        return next((each for each in self.subjects if each.digest == digest), None)
