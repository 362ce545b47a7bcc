"""Using an artifact: ``edgedet detect | serve | show``."""

from __future__ import annotations

import contextlib
import enum
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import typer

from edgedet.artifact import Artifact
from edgedet.cli.common import Json, Threads, one_line, show, table, valid, warn
from edgedet.data.layouts import EXTENSIONS
from edgedet.data.parallel import tracked
from edgedet.errors import DataError, UsageError

MEASURED_FROM = 2_000
"""From so many images on, finding the fastest runtime takes less time than it saves."""

_CREW_FROM = 64


class Engine(str, enum.Enum):
    """Where the work is done."""

    LOCAL = "local"
    RAY = "ray"


if TYPE_CHECKING:
    from edgedet.runtime.detector import Prediction


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("detect")(detect)
    app.command("serve")(serve)
    app.command("show")(show_artifact)


def detect(
    artifact: Annotated[Path, typer.Argument(help="The artifact to run.")],
    images: Annotated[list[Path], typer.Argument(help="Images, and folders of images; links to folders are not followed.")],
    json: Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write JSON lines; - is stdout.")] = None,
    operating_point: Annotated[str | None, typer.Option(help="A threshold: half, balanced, fpr1, fpr5, worst_tier.")] = None,
    runtime: Annotated[str, typer.Option(help="The runtime; auto measures and takes the fastest for thousands.")] = "auto",
    threads: Threads = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    engine: Annotated[Engine, typer.Option(help="local: this machine. ray: the machines of a Ray cluster.")] = Engine.LOCAL,
    address: Annotated[str, typer.Option(help="HOST:PORT of the cluster's head; auto: one here, or started here.")] = "auto",
) -> None:
    """Score images: probability of fake, verdict, and margin to the threshold. Exits 1 when an image cannot be read."""
    if engine is Engine.LOCAL and address != "auto":
        raise UsageError(f"--address {address} is of a Ray cluster: add --engine ray")
    files, refused = files_of(images)
    failed = len(refused)
    for reason in refused:
        warn(reason)
    subject = Artifact.load(artifact)
    if runtime == "auto" and len(files) >= MEASURED_FROM:
        runtime = _fastest(subject, files[:batch_size], threads)
    asked = _Asked(subject, files, runtime, threads, batch_size, operating_point)
    with (_by_cluster(asked, address) if engine is Engine.RAY else _here(asked)) as found, _writer(json) as write:
        # On a terminal the lines themselves show how far it is.
        shown = tracked(found, total=len(files), title="scoring", show=not sys.stdout.isatty())
        for path, prediction in zip(files, shown, strict=True):
            if prediction.error:
                failed += 1
                warn(prediction.error)
            write(_record(path, prediction, subject))
    if failed:
        warn(f"{failed} of {len(files) + len(refused)} could not be read")
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Asked:
    """What is scored, and how."""

    artifact: Artifact
    files: list[Path]
    runtime: str
    threads: int | None
    batch_size: int
    operating_point: str | None


@contextlib.contextmanager
def _here(asked: _Asked) -> Iterator[Iterator[Prediction]]:
    from edgedet.runtime.detector import Detector

    workers = _workers(asked.artifact, asked.files, asked.runtime, asked.threads)
    with Detector.load(
        asked.artifact, runtime=asked.runtime, threads=asked.threads, batch_size=asked.batch_size, workers=workers
    ) as detector:
        yield detector.stream(asked.files, on_error="return", operating_point=asked.operating_point)


@contextlib.contextmanager
def _by_cluster(asked: _Asked, address: str) -> Iterator[Iterator[Prediction]]:
    from edgedet.runtime import cluster
    from edgedet.runtime.connection import connected

    with connected(address):
        yield cluster.stream(
            asked.artifact,
            asked.files,
            runtime=asked.runtime,
            threads=asked.threads,
            batch_size=asked.batch_size,
            operating_point=asked.operating_point,
        )


def _workers(artifact: Artifact, files: list[Path], runtime: str, threads: int | None) -> int:
    """One a core where there is enough to do for all and nobody asked for a number of threads."""
    from edgedet.data.parallel import usable_cores
    from edgedet.runtime import base

    name = base.choose(artifact) if runtime == "auto" else runtime
    base.require(name)
    spread = threads is None and base.RUNTIMES[name].shared and len(files) >= _CREW_FROM
    return usable_cores() if spread else 1


def _fastest(artifact: Artifact, files: list[Path], threads: int | None) -> str:
    """The runtime that takes a batch of these files fastest, and a line on stderr that says so."""
    from edgedet.bench import pick
    from edgedet.data.parallel import usable_cores
    from edgedet.runtime.base import rivals
    from edgedet.runtime.detector import batches, decoded

    if len(rivals(artifact)) == 1:
        return "auto"
    images = decoded(artifact.manifest.preprocess, iter(files), ahead=len(files))
    inputs = [np.stack(batch) for batch in batches(images, len(files)) if isinstance(batch, list)]
    if not inputs:
        return "auto"
    found = pick.fastest(artifact, inputs, threads=threads or usable_cores())
    warn(f"{artifact.path} {found}")
    return found.runtime


def _record(path: Path, prediction: Prediction, artifact: Artifact) -> dict[str, Any]:
    error = valid(prediction.error) if prediction.error else None
    return {"image": valid(str(path)), **prediction.__dict__, "error": error, "artifact": artifact.digest}


@contextlib.contextmanager
def _writer(json: str | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Where predictions go: lines for people on stdout, and JSON lines to a file; or JSON lines alone on stdout."""
    if json == "-":
        yield lambda record: print(msgspec.json.encode(record).decode())
        return
    if not json:
        yield _print
        return
    try:
        file = Path(json).open("wb")  # noqa: SIM115 (closed below; only opening is explained)
    except OSError as error:
        raise DataError(f"{json}: cannot be written: {error.strerror}") from error

    def both(record: dict[str, Any]) -> None:
        file.write(msgspec.json.encode(record) + b"\n")
        _print(record)

    with file:
        yield both


def _print(record: dict[str, Any]) -> None:
    if not record["error"]:
        margin = f"margin {record['margin']:+.4f}" + ("  unsure" if record["unsure"] else "")
        print(f"{record['verdict']:4}  {record['score']:.4f}  {margin}  {one_line(record['image'])}")


def files_of(paths: list[Path]) -> tuple[list[Path], list[str]]:
    """The images named and those below the folders named, by name, and why a folder could not be read."""
    files: list[Path] = []
    refused: list[str] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside, reasons = _below(path)
        if not inside and not reasons:
            raise DataError(f"{path}: no images in this folder; expected files ending in {', '.join(sorted(EXTENSIONS))}")
        files += inside
        refused += reasons
    return files, refused


def _below(folder: Path) -> tuple[list[Path], list[str]]:
    errors: list[OSError] = []
    walk = os.walk(folder, onerror=errors.append)  # does not follow links, which may lead in circles
    # A folder that is called an image is no image, and is said to be none.
    found = (Path(top, name) for top, folders, names in walk for name in (*folders, *names))
    images = sorted(path for path in found if path.suffix.lower() in EXTENSIONS and not path.name.startswith("."))
    return images, [f"{error.filename}: folder cannot be read: {error.strerror}" for error in errors]


def serve(
    artifact: Annotated[Path, typer.Argument(help="The artifact to serve.")],
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every one of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    runtime: Annotated[str, typer.Option(help="The runtime; auto takes the one for the artifact.")] = "auto",
    threads: Threads = None,
    batch: Annotated[int, typer.Option(min=1, help="Images that share one call of the model at most.")] = 16,
    wait_ms: Annotated[float, typer.Option(min=0, help="How long the first of a batch waits for others.")] = 2.0,
    max_bytes: Annotated[int, typer.Option(min=1, help="Of one image.")] = 20_000_000,
    max_pixels: Annotated[int, typer.Option(min=1, help="Of one image.")] = 100_000_000,
) -> None:
    """Serve a detector over HTTP: POST an image to /v1/detect; a page to try it is at /. Ctrl-C stops it."""
    from edgedet.runtime.detector import Detector
    from edgedet.serve.app import ServeConfig, run

    config = ServeConfig(batch=batch, wait_ms=wait_ms, max_bytes=max_bytes, max_pixels=max_pixels)
    detector = Detector.load(artifact, runtime=runtime, threads=threads, spin=False)
    warn(f"serving {artifact} on http://{host}:{port}")
    run(detector, config, host=host, port=port)


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
        ("detector", manifest.detector.text),
        ("input", f"{manifest.preprocess.geometry} {manifest.preprocess.height}x{manifest.preprocess.width}"),
        ("size", f"{found.model_bytes / 1000:,.1f} kB"),
        ("operating point", f"{manifest.calibration.operating_point}: score >= {manifest.calibration.threshold:.4f}"),
        ("seed", str(manifest.seed)),
        ("files", ", ".join(sorted(manifest.files))),
        ("tools", ", ".join(f"{name} {version}" for name, version in manifest.tools.items())),
        *(("other teacher", f"{each.name} ({each.stage}, {each.digest[:16]})") for each in manifest.teachers),
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
