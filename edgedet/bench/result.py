"""One line of results: what was measured, on what, how; kept as JSON lines and read back."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from edgedet.bench.power import Load, Power
from edgedet.bench.probe import Device
from edgedet.bench.statistics import Latency, Ratio
from edgedet.errors import BenchError
from edgedet.recipe import Config

SCHEMA = 1

Kind = Literal["measured", "published", "estimated"]


class Point(Config, frozen=True, kw_only=True):
    """One step of the offline sweep: images per second at a batch size and a thread count, from `calls` calls."""

    batch: int
    images_per_second: float
    threads: int | None = None
    calls: int | None = None


class Interval(Config, frozen=True, kw_only=True):
    """A figure with its 95 % confidence interval; None where it could not be measured."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Accuracy(Config, frozen=True, kw_only=True):
    """How good the artifact's verdicts are, and on which split that was measured.

    worst_generator: the one with the lowest balanced accuracy, and that figure.
    flip_rate: the share of verdicts that differ from the full-precision ancestor's.
    """

    split: str | None = None
    balanced_accuracy: Interval | None = None
    auc: Interval | None = None
    worst_generator: str | None = None
    worst_balanced_accuracy: Interval | None = None
    flip_rate: Interval | None = None


class Memory(Config, frozen=True, kw_only=True):
    """Peak resident bytes of a process that only runs this artifact; `base_bytes`: before the model was loaded.

    device_bytes: what the model took of the GPU's memory, None where none runs it.
    """

    peak_bytes: int
    base_bytes: int
    device_bytes: int | None = None


class Share(Config, frozen=True, kw_only=True):
    """A measured throughput as a share (1 is all of it) of another machine's, `of` images per second.

    model, img_size, precision, batch: of the other row; a published one's network may only be the trunk of the measured one.
    """

    kind: Kind = "published"
    value: float
    of: float
    device: str
    model: str
    img_size: int
    precision: str
    batch: int


class BenchRow(Config, frozen=True, kw_only=True):
    """One artifact on one device, or one published or estimated figure.

    weights: ``untrained`` marks an artifact that is there for its speed alone.
    source: for what is not measured here, where it comes from or how it was estimated.
    warmup_ms, warmup_stable: before the single-stream runs. statistic: what `speedup` compares.
    latency: single-stream, model-only, batch 1. end_to_end: single-stream, encoded bytes to score. preprocess: to pixels only.
    throughput: the offline sweep, model-only. share: of a published one.
    power: at batch 1 and at the batch of the best throughput, or power_reason, why there is none.
    threads: in single-stream, the best of `threads_p50_ms` unless given.
    bought: the speed-up over the artifact before the last compression step (`edgedet.bench.steps`).
    parity: the largest difference of a golden image's logit to the artifact's own, on this runtime.
    harness_ms: the p50 of a runner that does nothing; not subtracted. others_share: processors taken by others meanwhile.
    throttled: how often the processor slowed itself down for its heat meanwhile, None where the system does not tell.
    detector: the network. accelerator: the GPU that it ran on, by its own name.
    error: why there are no figures; a failure is a row too.
    """

    schema: int = SCHEMA
    name: str
    kind: Kind
    source: str | None = None
    date: str | None = None
    device: Device
    accelerator: str | None = None
    detector: str | None = None
    runtime: str | None = None
    runtime_version: str | None = None
    precision: str | None = None
    layout: str | None = None
    img_size: tuple[int, int] | None = None
    batch: int = 1
    threads: int | None = None
    threads_p50_ms: dict[int, float] = {}
    weights: Literal["trained", "untrained"] | None = None
    digest: str | None = None
    size_bytes: int | None = None
    memory: Memory | None = None
    warmup_ms: float | None = None
    warmup_stable: bool | None = None
    statistic: str = "p50"
    latency: Latency | None = None
    throughput: tuple[Point, ...] = ()
    end_to_end: Latency | None = None
    preprocess: Latency | None = None
    share: Share | None = None
    power: Power | None = None
    power_reason: str | None = None
    speedup: Ratio | None = None
    bought: Ratio | None = None
    parity: float | None = None
    harness_ms: float | None = None
    others_share: float | None = None
    throttled: int | None = None
    accuracy: Accuracy | None = None
    versions: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    error: str | None = None

    def __post_init__(self) -> None:
        if self.kind != "measured" and not self.source:
            raise ValueError(f"a {self.kind} row needs its `source`")
        if self.kind == "measured" and self.error is None and not (self.date and self.digest):
            raise ValueError("a measured row needs its `date` and the artifact's `digest`")

    @property
    def best_load(self) -> Load | None:
        """Power at the batch with the most images per joule above rest; None where nothing was drawn above it."""
        loads = self.power.loads if self.power else ()
        found = {load.images_per_joule: load for load in loads if load.images_per_joule is not None}
        return found[max(found)] if found else None

    @property
    def best_throughput(self) -> Point | None:
        """The result of the offline scenario: the point of the sweep with the most images per second."""
        return max(self.throughput, key=lambda point: point.images_per_second, default=None)


def append(path: Path, rows: Iterable[BenchRow]) -> None:
    """Add `rows` to a file of JSON lines in one write at its end, so that two benchmarks can share the file.

    Raises:
        BenchError: the file cannot be written.
    """
    lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            if _ends_torn(path):
                lines = b"\n" + lines
            written = file.write(lines)
            os.fsync(file.fileno())
    except OSError as error:
        raise BenchError(f"{path}: results cannot be written: {error.strerror or error}") from error
    if written != len(lines):
        raise BenchError(f"{path}: only {written} of {len(lines)} bytes were written: the disk is full; the last line is torn")


def load(path: Path) -> list[BenchRow]:
    """Read what :func:`append` wrote.

    Raises:
        BenchError: the file cannot be read, or a line is not valid; names the line.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise BenchError(f"{path}: results cannot be read: {error.strerror or error}") from error
    return [_row(line, f"{path}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]


def _row(line: bytes, where: str) -> BenchRow:
    try:
        row = msgspec.json.decode(line, type=BenchRow)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BenchError(f"{where}: not a result line of schema {SCHEMA}: {error}") from error
    if row.schema != SCHEMA:
        raise BenchError(f"{where}: schema {row.schema}, this edgedet reads {SCHEMA}: use the edgedet that wrote it")
    return row


def _ends_torn(path: Path) -> bool:
    """Whether the last write was cut off in mid-line."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
