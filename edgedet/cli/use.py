"""Using an artifact: ``edgedet detect | show``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from edgedet.artifact import Artifact
from edgedet.cli.common import Json, Threads, show, table, warn
from edgedet.errors import DataError

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("detect")(detect)
    app.command("show")(show_artifact)


def detect(
    artifact: Annotated[Path, typer.Argument(help="The artifact to run.")],
    images: Annotated[list[Path], typer.Argument(help="Images, and folders of images.")],
    json: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write JSON lines; - is stdout.")] = None,
    operating_point: Annotated[str | None, typer.Option(help="A threshold: half, balanced, fpr1, fpr5.")] = None,
    runtime: Annotated[str, typer.Option(help="The runtime; auto takes the one for the artifact.")] = "auto",
    threads: Threads = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
) -> None:
    """Score images: probability of fake, verdict, and margin to the threshold. Exits 1 when an image cannot be read."""
    from edgedet.runtime.detector import Detector

    files = list(_files(images))
    failed = 0
    with (
        Detector.load(artifact, runtime=runtime, threads=threads, batch_size=batch_size) as detector,
        _Lines(json) as write,
    ):
        found = detector.stream(files, on_error="return", operating_point=operating_point)
        for path, prediction in zip(files, found, strict=True):
            record = {"image": _text(path), **prediction.__dict__, "artifact": detector.artifact.digest}
            if prediction.error:
                failed += 1
                warn(prediction.error)
            write(record)
    if failed:
        warn(f"{failed} of {len(files)} images could not be read")
        raise typer.Exit(1)


class _Lines:
    """Where predictions go: a line for people on stdout, JSON lines to a file, or JSON lines to stdout."""

    def __init__(self, json: str | None) -> None:
        self._json = json

    def __enter__(self) -> Any:
        try:
            self._file = Path(self._json).open("wb") if self._json and self._json != "-" else None
        except OSError as error:
            raise DataError(f"{self._json}: cannot be written: {error.strerror}") from error
        return self._write

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def _write(self, record: dict[str, Any]) -> None:
        line = msgspec.json.encode(record)
        if self._file:
            self._file.write(line + b"\n")
        if self._json == "-":
            sys.stdout.write(line.decode() + "\n")
        elif not record["error"]:
            print(f"{record['verdict']:4}  {record['score']:.4f}  margin {record['margin']:+.4f}  {record['image']}")


def _files(paths: list[Path]) -> Iterator[Path]:
    """The images named, and those below the folders named, in order of name; links that lead in circles are not followed."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(child for child in path.rglob("*") if child.suffix.lower() in IMAGES)
        if not found:
            raise DataError(f"{path}: no images in this folder; expected files ending in {', '.join(IMAGES)}")
        yield from found


def _text(path: Path) -> str:
    """A path as text that JSON can hold, whatever bytes its name has."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def show_artifact(
    artifact: Annotated[Path, typer.Argument(help="The artifact to show.")],
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file again.")] = False,
    json: Json = None,
) -> None:
    """Show an artifact's manifest and its line of parents."""
    found = Artifact.load(artifact, verify=verify)
    manifest = found.manifest
    rows = [
        ("kind", manifest.kind),
        ("made by", manifest.stage),
        ("detector", f"{manifest.detector.name} {msgspec.json.encode(manifest.detector.arguments).decode()}"),
        ("input", f"{manifest.preprocess.geometry} {manifest.preprocess.height}x{manifest.preprocess.width}"),
        ("size", f"{found.model_bytes / 1000:,.1f} kB"),
        ("operating point", f"{manifest.calibration.operating_point}: score >= {manifest.calibration.threshold:.4f}"),
        ("seed", str(manifest.seed)),
        ("files", ", ".join(sorted(manifest.files))),
        ("tools", ", ".join(f"{name} {version}" for name, version in manifest.tools.items())),
        *(("note", note) for note in manifest.notes),
        *(("gate", gate["text"]) for gate in manifest.metrics.get("gates", ())),
    ]
    chain = [*manifest.lineage, found.as_ancestor()]
    lines = [(f"{'  ' * depth}{each.stage}", each.kind, each.name, each.digest[:16]) for depth, each in enumerate(chain)]
    verified = "every file has the sha256 that the manifest lists" if verify else "not re-hashed (--verify does)"
    show(
        table(f"{found.path}  {found.digest[:16]}  {verified}", ("", ""), rows),
        table("lineage", ("stage", "kind", "name", "digest"), lines),
        json=json,
        record={"digest": found.digest, "verified": verify, "manifest": manifest},
    )
