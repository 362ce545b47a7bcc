"""Published latencies and throughputs of devices that are not here, and the work of the networks that they are of.

Three files of ``benchmarks/reference``, checked when they are read. Latencies and throughputs are apart, and stay so: a latency
at batch 1 is never made of a throughput, which is taken at a batch that fills the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

from edgedet.bench import reference
from edgedet.bench.reference import Amount, Count, Name, SourceRow
from edgedet.errors import BenchError
from edgedet.recipe import Config, folder_of
from edgedet.work import Work

LATENCIES, THROUGHPUTS, ARCHITECTURES = "latency.csv", "throughput.csv", "architectures.csv"
Precision = Literal["fp32", "fp16", "int8", "not printed"]


class _Published(Config, frozen=True, kw_only=True):
    """What both kinds of rows say first.

    target: edgedet's name of the device, empty when it has none; device: as the source calls it.
    mode: the power mode, ``(assumed)`` where the source does not print it.
    model: as the source calls it; architecture: ``timm/<name>`` or ``torchvision/<name>``, empty when neither has it.
    """

    target: str
    device: Name
    mode: str
    model: Name
    architecture: str
    precision: Precision
    height: Count
    width: Count


class LatencyRow(_Published, frozen=True, kw_only=True):
    """One published latency of a call on `batch` images, in milliseconds; `statistic` says of what kind."""

    batch: Count
    latency_ms: Amount
    statistic: Name
    source: Name


class ThroughputRow(_Published, frozen=True, kw_only=True):
    """One published throughput at a batch that its source chose, in images per second."""

    batch: Name
    images_per_second: Amount
    source: Name


P = TypeVar("P", LatencyRow, ThroughputRow)


class ArchitectureRow(Config, frozen=True, kw_only=True):
    """The work of an architecture at an image size; the columns are those of :class:`edgedet.work.Work`."""

    architecture: Name
    height: Count
    width: Count
    macs: float
    convolution_macs: float
    grouped_macs: float
    attention_macs: float
    weights: float
    elements: float
    kernels: int


@cache
def latencies() -> tuple[LatencyRow, ...]:
    """Every published latency.

    Raises:
        BenchError: the file is not valid; names the line.
    """
    return tuple(read(folder_of("benchmarks/reference") / LATENCIES, LatencyRow, sources()))


@cache
def throughputs() -> tuple[ThroughputRow, ...]:
    """Every published throughput but timm's, which `edgedet.bench.reference` reads.

    Raises:
        BenchError: the file is not valid; names the line.
    """
    return tuple(read(folder_of("benchmarks/reference") / THROUGHPUTS, ThroughputRow, sources()))


def read(path: Path, into: type[P], known: Mapping[str, SourceRow]) -> list[P]:
    """Read and check a file of published rows against the sources that are `known`.

    Raises:
        BenchError: names the file, the line and what is wrong with it.
    """
    found: dict[P, None] = {}
    for where, row in reference.lines(path, into):
        reference.require_source(row.source, known, where)
        if row in found:
            size = f"{row.height}x{row.width}"
            raise BenchError(f"{where}: the same measurement is there twice: {row.model}, {size}, {row.source}")
        found[row] = None
    return list(found)


@cache
def sources() -> dict[str, SourceRow]:
    """Where rows come from, by key.

    Raises:
        BenchError: the file is not valid; names the line.
    """
    return reference.sources_of(folder_of("benchmarks/reference") / "sources.csv")


def work_of(architecture: str, height: int, width: int) -> Work:
    """The work of one image through a published architecture.

    Raises:
        BenchError: it is not in the file, or the file is not valid.
    """
    found = _works().get((architecture, height, width))
    if found is None:
        raise BenchError(
            f"{ARCHITECTURES} has no work of {architecture} at {height}x{width}: run benchmarks/architectures.py"
        )
    return found


@cache
def _works() -> dict[tuple[str, int, int], Work]:
    path = folder_of("benchmarks/reference") / ARCHITECTURES
    return {
        (row.architecture, row.height, row.width): Work(**{name: getattr(row, name) for name in Work.__struct_fields__})
        for _, row in reference.lines(path, ArchitectureRow)
    }
