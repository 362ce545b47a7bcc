"""What lies in a folder that a report can be made of: artifacts, result lines, evaluations, audits, raw samples."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edgedet.artifact import Artifact
from edgedet.artifact.manifest import MANIFEST
from edgedet.bench import result, samples
from edgedet.bench.result import BenchRow
from edgedet.bench.samples import Series
from edgedet.data.audit import Audit
from edgedet.errors import BenchError, EdgedetError
from edgedet.metrics import Figure


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """One condition, or one generator of it, as far as a report reads it."""

    balanced_accuracy: Figure
    splits: tuple[str, ...] = ()
    generators: dict[str, Slice] = {}


class Evaluated(msgspec.Struct, frozen=True, kw_only=True):
    """What ``edgedet eval --json`` writes, as far as a report reads it."""

    artifact: str
    evaluations: dict[str, Slice]
    audit: str = ""


@dataclass
class Material:
    """Everything that was found. `unused`: a line for each file that could have been something, and why it is not."""

    artifacts: list[Artifact] = field(default_factory=list)
    results: dict[str, list[BenchRow]] = field(default_factory=dict)
    evaluations: list[Evaluated] = field(default_factory=list)
    audits: list[Audit] = field(default_factory=list)
    samples: list[Series] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def collect(folder: Path) -> Material:
    """Read everything below `folder`; links to folders are not followed, and an artifact with a changed byte is not used.

    Raises:
        BenchError: it is no folder.
    """
    if not folder.is_dir():
        raise BenchError(f"{folder}: no such folder: give the one with artifacts and result lines in it")
    found = Material()
    for path, is_artifact in _files(folder):
        name = path.relative_to(folder).as_posix()
        try:
            if is_artifact:
                _artifact(found, path)
            else:
                _file(found, path, name)
        except EdgedetError as error:
            found.unused.append(str(error).replace(f"{folder}{os.sep}", ""))
    return found


def _files(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Artifacts' folders, and the files that are in none, by name."""
    for top, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if MANIFEST in names:
            folders.clear()
            yield Path(top), True
            continue
        yield from ((Path(top, name), False) for name in sorted(names))


def _artifact(found: Material, path: Path) -> None:
    artifact = Artifact.load(path)
    if artifact.digest not in {each.digest for each in found.artifacts}:
        found.artifacts.append(artifact)


def _file(found: Material, path: Path, name: str) -> None:
    if path.suffix == ".jsonl":
        found.results[name] = result.load(path)
    elif path.suffix == ".json":
        _json(found, path, name)
    elif path.suffix == ".npz":
        found.samples += samples.load(path)


def _json(found: Material, path: Path, name: str) -> None:
    """An evaluation, an audit, or the lines of a benchmark as one list; what is none of them is left alone with a word."""
    raw = path.read_bytes()
    for kind, keep in _KINDS:
        try:
            keep(found, name, msgspec.json.decode(raw, type=kind))
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
            continue
        return
    found.unused.append(f"{name}: neither an evaluation, nor an audit, nor result lines")


_KINDS: tuple[tuple[Any, Any], ...] = (
    (Evaluated, lambda found, _, value: found.evaluations.append(value)),
    (Audit, lambda found, _, value: found.audits.append(value)),
    (list[BenchRow], lambda found, name, value: found.results.__setitem__(name, value)),
)
