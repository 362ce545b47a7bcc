"""Aligned fakes from photographs: each through a latent autoencoder, both sides cut, encoded and labelled alike (needs torch).

A latent diffusion model's images end in its decoder, and a photograph that went through encoder and decoder carries the same
trace and nothing else of the model: same content, size and codec, so that a detector has only the trace to learn (Rajan et al.,
ICLR 2025; Chen et al., NeurIPS 2025).

A run may be stopped at any point. What it has made lies in a work folder beside `out` and is gone on with; images there are
whole or absent, and `out` appears in one step when all are made.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from edgedet.artifact import check_free
from edgedet.data.index import REAL, Index, Row
from edgedet.data.pairs import (
    Cut,
    Entry,
    PairConfig,
    choice,
    cut,
    digest_of,
    fake_path,
    is_whole,
    real_path,
    without_colour_like,
    write_manifest,
)
from edgedet.data.parallel import prefetch, tracked, usable_cores
from edgedet.data.scan import ScanResult
from edgedet.data.store import ASKED_FOR, explained, work_folder, writing_file
from edgedet.errors import DataError, ImageError
from edgedet.models.autoencoder import Autoencoder, Source, load

LOG, LEFT_OUT, SETTINGS = "log.txt", "left_out.csv", "settings.json"
_AREA = 256 * 256
_HELD = 4  # full batches of other sizes that may wait for company

log = logging.getLogger(__name__)


class ReconstructConfig(PairConfig, frozen=True, kw_only=True):
    """every: all autoencoders for each photograph, not a drawn one. batch: crops of 256x256 px at once, or as many pixels."""

    every: bool = False
    batch: Annotated[int, msgspec.Meta(ge=1)] = 8


@dataclass(frozen=True)
class Made:
    """What a run has made. left_out: (path, reason), photographs that are not in the set."""

    entries: tuple[Entry, ...]
    left_out: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Task:
    """A photograph and the generators whose image of it is not there yet."""

    photo: Row
    missing: tuple[str, ...]
    real_missing: bool


@dataclass
class _Run:
    """A folder that fills up. failed: by photograph, why it could not be used."""

    folder: Path
    config: ReconstructConfig
    photos: Index
    names: tuple[str, ...]
    failed: dict[str, str] = field(default_factory=dict)


def run(
    config: ReconstructConfig, scanned: ScanResult, autoencoders: Sequence[Source], out: Path, *, resume: bool = False
) -> Made:
    """Write the set of pairs of the reals of `scanned` to `out`, with its ``manifest.csv``; fakes of `scanned` are not used.

    Raises:
        ArtifactError: `out` exists.
        DataError: no real there, an unfinished run beside `out` without `resume` or with other settings or photographs, no
            photograph that can be used, or the disk is full.
        ModelError: an autoencoder cannot be loaded, or has no memory for a batch.
    """
    check_free(out)
    photos, copies = _distinct(scanned.index)
    started = _Run(work_folder(out), config, photos, tuple(sorted(source.name for source in autoencoders)))
    _begin(started, autoencoders, resume=resume)
    say = partial(_say, started.folder / LOG)
    tasks = _tasks(started)
    say(f"{len(photos)} photographs, {len(photos) - len(tasks)} done before, autoencoders: {', '.join(started.names)}")
    begun, count = time.monotonic(), 0
    loaded = {source.name: load(source) for source in autoencoders} if tasks else {}
    for generator, batch in _batches(started, tasks):
        count += _write(started, loaded[generator], batch)
    leaks = [(leak.path, f"the same bytes stand in split {leak.first_split}: {leak.first_path}") for leak in scanned.leaks]
    left_out = (*scanned.errors, *leaks, *copies, *started.failed.items())
    entries = _finish(started, left_out)
    say(f"{count} fakes made in {time.monotonic() - begun:.0f} s; {len(entries)} images, {len(left_out)} photographs left out")
    with explained(out, ASKED_FOR):
        started.folder.replace(out)
    return Made(tuple(entries), left_out)


def _distinct(index: Index) -> tuple[Index, list[tuple[str, str]]]:
    """The reals, one of each content, and the others with the reason.

    Raises:
        DataError: there are none.
    """
    first: dict[str, Row] = {}
    copies = []
    for row in index.rows:
        if row.label == REAL and first.setdefault(row.sha256, row) is not row:
            copies.append((row.path, f"the same bytes as {first[row.sha256].path}"))
    if not first:
        raise DataError(f"{index.root}: no photographs there: none of its {len(index)} images is real")
    return Index(index.root, tuple(first.values())), copies


def _begin(run: _Run, autoencoders: Sequence[Source], *, resume: bool) -> None:
    """The work folder, new, or the one that is gone on with; half-written files of a run that was killed are cleared."""
    settings = run.folder / SETTINGS
    given = {
        "configuration": msgspec.structs.replace(run.config, batch=1),
        "photographs": digest_of(run.photos.rows),
        "autoencoders": {source.name: source.digest() for source in autoencoders},
    }
    text = msgspec.json.format(msgspec.json.encode(given))
    if not settings.exists():
        _put(settings, text)
        return
    if not resume:
        raise DataError(f"{run.folder}: holds an unfinished run: add --resume to go on with it, or remove that folder")
    before, now = (msgspec.json.decode(each, type=dict[str, object]) for each in (settings.read_bytes(), text))
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        raise DataError(f"{run.folder}: was begun with other {' and '.join(changed)}: give those, or remove that folder")
    for left in run.folder.rglob(".*.partial-*"):
        left.unlink()


def _tasks(run: _Run) -> list[_Task]:
    tasks = []
    for photo in run.photos.rows:
        wanted = generators(photo, run.names, run.config)
        missing = tuple(name for name in wanted if not is_whole(run.folder / fake_path(photo, name)))
        real_missing = not is_whole(run.folder / real_path(photo))
        if missing or real_missing:
            tasks.append(_Task(photo, missing, real_missing))
    return tasks


def generators(photo: Row, names: Sequence[str], config: ReconstructConfig) -> tuple[str, ...]:
    """Whose image of `photo` the set has: all of `names`, or one that its content and the seed draw."""
    if config.every:
        return tuple(names)
    return (names[choice(photo.sha256, config.seed, len(names))],)


@dataclass(frozen=True)
class _Item:
    photo: Row
    cut: Cut


def _batches(run: _Run, tasks: Sequence[_Task]) -> Iterator[tuple[str, list[_Item]]]:
    """Cuts of one size for one generator, as many at once as the configuration says; what fills no batch comes last."""
    waiting: dict[tuple[str, tuple[int, ...]], list[_Item]] = defaultdict(list)
    most = run.config.batch * _AREA
    for item, missing in _cuts(run, tasks):
        for generator in missing:
            key = (generator, item.cut.pixels.shape)
            waiting[key].append(item)
            if _area(waiting[key]) + _area([item]) > most:
                yield generator, waiting.pop(key)
        while sum(map(_area, waiting.values())) > _HELD * most:
            fullest = max(waiting, key=lambda key: _area(waiting[key]))
            yield fullest[0], waiting.pop(fullest)
    for (generator, _), batch in waiting.items():
        yield generator, batch


def _area(items: Sequence[_Item]) -> int:
    return sum(item.cut.pixels.shape[0] * item.cut.pixels.shape[1] for item in items)


def _cuts(run: _Run, tasks: Sequence[_Task]) -> Iterator[tuple[_Item, tuple[str, ...]]]:
    """Every photograph decoded and cut, in the background, its real side written; what fails is noted with its reason."""

    def attempt(task: _Task) -> Cut | str:
        try:
            return cut(_read(run.photos, task.photo), task.photo.sha256, run.config)
        except ImageError as error:
            return str(error)

    threads = usable_cores()
    with contextlib.closing(prefetch(attempt, tasks, threads=threads, ahead=threads + 1)) as found:
        for task, made in zip(tasks, tracked(found, total=len(tasks), title="reconstruct"), strict=True):
            if isinstance(made, str):
                run.failed[task.photo.path] = made
                continue
            if task.real_missing:
                _put(run.folder / real_path(task.photo), made.codec.encode(made.pixels))
            yield _Item(task.photo, made), task.missing


def _read(photos: Index, photo: Row) -> bytes:
    try:
        data = (photos.root / photo.path).read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != photo.sha256:
        raise ImageError("has changed since the photographs were scanned")
    return data


def _write(run: _Run, autoencoder: Autoencoder, batch: Sequence[_Item]) -> int:
    """Reconstruct one batch and write it; how many images that were."""
    decoded = autoencoder(np.stack([item.cut.pixels for item in batch]))
    for item, fake in zip(batch, decoded, strict=True):
        alike = without_colour_like(item.cut.pixels, fake)
        _put(run.folder / fake_path(item.photo, autoencoder.name), item.cut.codec.encode(alike))
    return len(batch)


def _put(path: Path, data: bytes) -> None:
    with writing_file(path, ASKED_FOR) as file:
        file.write(data)


def _finish(run: _Run, left_out: Sequence[tuple[str, str]]) -> list[Entry]:
    """The tables of what is in the set and what is not.

    Raises:
        DataError: no photograph could be used.
    """
    good = [photo for photo in run.photos.rows if photo.path not in run.failed]
    if not good:
        raise DataError(f"none of {len(run.photos)} photographs can be used; the first: {': '.join(left_out[0])}")
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("path", "reason"), *left_out])
    _put(run.folder / LEFT_OUT, text.getvalue().encode("utf-8", "surrogateescape"))
    return write_manifest(run.folder, [(photo, generators(photo, run.names, run.config)) for photo in good])


def _say(path: Path, message: str) -> None:
    """A line for the log of the set, with the time, and for people."""
    log.info(message)
    with explained(path, ASKED_FOR), path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")
