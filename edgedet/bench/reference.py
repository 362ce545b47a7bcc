"""Published figures of other machines, with their sources: what a measured row is set beside, never mixed with.

Rows are data (``benchmarks/reference``), checked against :class:`PublishedRow` when they are read. The RTX 3090's are the
throughputs that timm publishes: images per second of the whole network in mixed precision, at a batch that fills the card,
synthetic input already on it. They are no latencies, and none is derived from them. In these files models with branches that
merge for deployment (mobileone, repvgg, fastvit, repvit) are in their slower training form.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from edgedet.errors import BenchError, nearest
from edgedet.recipe import Config, folder_of

Name = Annotated[str, msgspec.Meta(min_length=1)]
Count = Annotated[int, msgspec.Meta(gt=0)]
Amount = Annotated[float, msgspec.Meta(gt=0, lt=1e9)]

DEVICES = {"rtx-3090": ("NVIDIA GeForce RTX 3090", "rtx3090_timm.csv")}
"""The name on the command line: the device's name, the file of its rows."""

_ARCHITECTURES = {
    "resnet50": "resnet50",
    "ram-net": "resnet50",
    "mobilenetv4-small": "mobilenetv4_conv_small",
    "efficientnet-lite0": "efficientnet_lite0",
    "vit-small": "vit_small_patch16_224",
    "swin-tiny": "swin_tiny_patch4_window7_224",
    "resnet101": "resnet101",
}
"""By detector, the network that a published row of its cost is of: its trunk, with another head."""


class SourceRow(Config, frozen=True, kw_only=True):
    """Where rows come from: the software that was measured, how, and the page that says so."""

    source: Name
    runtime: Name
    protocol: Name
    url: Name
    licence: Name


class FigureRow(Config, frozen=True, kw_only=True):
    """One line of a file of published throughputs; `source` is a key of ``sources.csv``."""

    model: Name
    precision: Literal["amp", "fp32", "fp16", "int8"]
    layout: Literal["nchw", "nhwc"]
    img_size: Count
    batch_size: Count
    samples_per_sec: Amount
    gmacs: Amount
    params_m: Amount
    source: Name


class PublishedRow(Config, frozen=True, kw_only=True):
    """One published throughput, images per second, of the timm architecture `model`; always ``kind = "published"``."""

    device: str
    model: str
    precision: str
    layout: str
    img_size: int
    batch_size: int
    samples_per_sec: float
    gmacs: float
    params_m: float
    source: SourceRow
    kind: Literal["published"] = "published"


R = TypeVar("R", bound=Config)


def architecture_of(detector: str) -> str | None:
    """The timm architecture that a detector's published row is found under; None for networks that nobody else has."""
    if detector.startswith("timm/"):
        return detector.removeprefix("timm/")
    return _ARCHITECTURES.get(detector)


def find(architecture: str, img_size: int, *, precision: str = "amp", device: str = "rtx-3090") -> list[PublishedRow]:
    """The published rows of a timm `architecture` at `img_size` pixels, the fastest first; none is an empty list.

    Raises:
        BenchError: no figures are kept for `device`, or the file is not valid.
    """
    wanted = (architecture, img_size, precision)
    rows = [row for row in load(device) if (row.model, row.img_size, row.precision) == wanted]
    return sorted(rows, key=lambda row: -row.samples_per_sec)


@cache
def load(device: str = "rtx-3090") -> tuple[PublishedRow, ...]:
    """Every published row of `device`.

    Raises:
        BenchError: no figures are kept for `device`, or the file is not valid.
    """
    name, folder = device_name(device), folder_of("benchmarks/reference")
    return tuple(read(folder / DEVICES[device][1], folder / "sources.csv", device=name))


def device_name(device: str) -> str:
    """What `device`, a name of the command line, is called in full.

    Raises:
        BenchError: no figures are kept for it.
    """
    if device not in DEVICES:
        raise BenchError(f"no published figures for {device!r}{nearest(device, DEVICES)}")
    return DEVICES[device][0]


def read(figures: Path, sources: Path, *, device: str) -> list[PublishedRow]:
    """Read and check a file of figures and the file of its sources.

    Raises:
        BenchError: names the file, the line and what is wrong with it.
    """
    known = sources_of(sources)
    found: dict[tuple[object, ...], PublishedRow] = {}
    for where, row in lines(figures, FigureRow):
        require_source(row.source, known, where)
        key = (row.model, row.precision, row.layout, row.img_size, row.batch_size, row.source)
        if key in found:
            raise BenchError(f"{where}: the same measurement is there twice: {row.model}, {row.img_size} px, {row.source}")
        values = {field: getattr(row, field) for field in FigureRow.__struct_fields__ if field != "source"}
        found[key] = PublishedRow(device=device, source=known[row.source], **values)
    return list(found.values())


def sources_of(path: Path) -> dict[str, SourceRow]:
    """The file of sources, by key.

    Raises:
        BenchError: names the file, the line and what is wrong with it.
    """
    return {row.source: row for _, row in lines(path, SourceRow)}


def require_source(source: str, known: Mapping[str, SourceRow], where: str) -> None:
    """Refuse a row without a known source.

    Raises:
        BenchError: names the line and the nearest source.
    """
    if source not in known:
        raise BenchError(f"{where}: source {source!r} is not in sources.csv{nearest(source, known)}")


def lines(path: Path, into: type[R]) -> Iterable[tuple[str, R]]:
    """Each line of a CSV file as ``(file:line, struct)``.

    Raises:
        BenchError: the file cannot be read, has other columns, or a line is not valid.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BenchError(f"{path}: published figures cannot be read: {error}") from error
    header = table[0] if table else []
    if header != list(into.__struct_fields__):
        raise BenchError(f"{path}: expected the columns {', '.join(into.__struct_fields__)}, got {', '.join(header)}")
    for number, line in enumerate(table[1:], start=2):
        where = f"{path}:{number}"
        if len(line) != len(header):
            raise BenchError(f"{where}: expected {len(header)} fields, got {len(line)}")
        try:
            yield where, msgspec.convert(dict(zip(header, line, strict=True)), into, strict=False)
        except msgspec.ValidationError as error:
            raise BenchError(f"{where}: {error}") from error
