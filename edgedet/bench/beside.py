"""What a measured row is set beside: the same network on the reference machine, measured there or else published.

Whoever has that machine runs ``edgedet bench ARTIFACT... --record benchmarks/reference/rtx-3090-measured.jsonl`` on it. From
then on a line of that file takes the place of the published one for the same detector, size and precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from edgedet.bench import reference, result
from edgedet.bench.entry import Entry
from edgedet.bench.probe import Device
from edgedet.bench.reference import PublishedRow
from edgedet.bench.result import BenchRow, Point, Share
from edgedet.recipe import folder_of

Beside: TypeAlias = "PublishedRow | BenchRow | str"
"""A published throughput, a line that was measured on the reference machine, or why there is neither."""


def find(entries: Sequence[Entry], device: str | None, lines: Path | None = None) -> Mapping[str, Beside]:
    """By entry name: the fastest line of `device`; `lines`: the file of measured ones, None the one that is kept for it.

    Raises:
        BenchError: no figures are kept for `device`, or a file of them is not valid.
    """
    if device is None:
        return {}
    name = reference.device_name(device)
    kept = lines or folder_of("benchmarks/reference") / f"{device}-measured.jsonl"
    there = [row for row in result.load(kept) if row.accelerator == name] if kept.is_file() else []
    return {entry.name: _measured(entry, there) or _published(entry, device, name) for entry in entries}


def _measured(entry: Entry, rows: Sequence[BenchRow]) -> BenchRow | None:
    preprocess = entry.artifact.manifest.preprocess
    wanted = (entry.detector_name, (preprocess.height, preprocess.width), entry.precision)
    same = [row for row in rows if (row.detector, row.img_size, row.precision) == wanted]
    timed = [(best.images_per_second, row) for row in same if (best := row.best_throughput) is not None]
    return max(timed, key=lambda each: each[0], default=(0.0, None))[1]


def _published(entry: Entry, device: str, name: str) -> PublishedRow | str:
    detector, preprocess = entry.detector_name, entry.artifact.manifest.preprocess
    architecture = reference.architecture_of(detector)
    if architecture is None:
        return f"no published row of the {name} for {detector}: it is none of the published architectures"
    square = preprocess.height == preprocess.width
    rows = reference.find(architecture, preprocess.height, device=device) if square else []
    size = f"{preprocess.height}x{preprocess.width}"
    return rows[0] if rows else f"no published row of the {name} for {architecture} at {size} px"


def device_of(found: PublishedRow | BenchRow) -> str | None:
    """The machine that it is of."""
    return found.device if isinstance(found, PublishedRow) else found.accelerator


def line(found: PublishedRow | BenchRow) -> BenchRow:
    """What is shown of it: a measured line as it is; a published throughput has no latency, and none is made from it."""
    if isinstance(found, BenchRow):
        return found
    return BenchRow(
        name=found.model,
        kind="published",
        source=f"{found.source.protocol}; {found.source.url}",
        device=Device(name=found.device),
        runtime=found.source.runtime,
        precision=found.precision,
        layout=found.layout,
        img_size=(found.img_size, found.img_size),
        batch=found.batch_size,
        statistic="throughput",
        throughput=(Point(batch=found.batch_size, images_per_second=found.samples_per_sec),),
    )


def with_share(row: BenchRow, found: Beside) -> BenchRow:
    """The row with its share of the other's throughput; a throughput is compared with a throughput, and nothing else is."""
    here = row.best_throughput
    if here is None or isinstance(found, str) or row.accelerator == device_of(found):
        return row
    other = line(found)
    there = other.best_throughput
    if there is None or other.img_size is None:
        return row
    share = Share(
        kind=other.kind,
        value=here.images_per_second / there.images_per_second,
        of=there.images_per_second,
        device=device_of(found) or other.device.name,
        model=other.name,
        img_size=other.img_size[0],
        precision=other.precision or "fp32",
        batch=there.batch,
    )
    return msgspec.structs.replace(row, share=share)
