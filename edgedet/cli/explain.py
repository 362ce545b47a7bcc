"""Where a detector looks: ``edgedet explain``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgedet.artifact import Artifact
from edgedet.cli.common import Json, Threads, one_line, show, table, valid, warn
from edgedet.cli.use import files_of
from edgedet.errors import ImageError, UsageError

if TYPE_CHECKING:
    from edgedet.explain.run import Explanation, Run


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("explain")(explain)


def explain(
    artifact: Annotated[Path, typer.Argument(help="A checkpoint, or a graph that was exported with --maps.")],
    images: Annotated[list[Path], typer.Argument(help="Images, and folders of images.")],
    out: Annotated[Path | None, typer.Option("--out", help="A PNG for one image, else a folder for one PNG each.")] = None,
    method: Annotated[str, typer.Option(help="cam, gradcam, rollout, attention, residual or patches.")] = "auto",
    layer: Annotated[str | None, typer.Option(help="Of a checkpoint: the module that Grad-CAM looks at.")] = None,
    operating_point: Annotated[str | None, typer.Option(help="A threshold: half, balanced, fpr1, fpr5, worst_tier.")] = None,
    threads: Threads = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    json: Json = None,
) -> None:
    """Draw where a detector looks, over what it was given, and say how much of that lies at the border of images.

    Exits 1 when an image cannot be read.
    """
    from edgedet.explain.heat import open_explainer
    from edgedet.explain.run import Run

    files, refused = files_of(images)
    if out is not None and out.suffix.lower() == ".png" and len(files) > 1:
        raise UsageError(f"--out {out}: {len(files)} images need a folder, not one PNG")
    pictures = _names(files, out)
    loaded = Artifact.load(artifact)
    explainer = open_explainer(loaded, layer=layer, threads=threads)
    try:
        run = Run(loaded, explainer, method, operating_point=operating_point, batch_size=batch_size)
        records = list(_records(run, files, pictures, refused))
    finally:
        explainer.close()
    for reason in refused:
        warn(reason)
    _show(run, records, json)
    if refused:
        warn(f"{len(refused)} of {len(records) + len(refused)} could not be read")
        raise typer.Exit(1)


def _records(run: Run, files: list[Path], pictures: dict[Path, Path], refused: list[str]) -> Iterator[dict[str, Any]]:
    """A record for each image that can be read, its picture written; the others are added to `refused`."""
    for path, found in zip(files, run.each(files), strict=True):
        if isinstance(found, ImageError):
            refused.append(str(found))
            continue
        picture = pictures.get(path)
        if picture is not None:
            _write(picture, run.draw(found))
        yield _record(path, found, picture)


def _record(path: Path, found: Explanation, picture: Path | None) -> dict[str, Any]:
    return {
        "image": valid(str(path)),
        "verdict": found.prediction.verdict,
        "score": found.prediction.score,
        "margin": found.prediction.margin,
        "least": float(found.heat.min()),
        "largest": float(found.heat.max()),
        "border": found.border,
        "numbers": found.numbers,
        "picture": valid(str(picture)) if picture is not None else None,
    }


def _names(files: list[Path], out: Path | None) -> dict[Path, Path]:
    """Where each picture goes; images of one name in several folders are numbered.

    Raises:
        UsageError: a picture would take the place of an image.
    """
    if out is None:
        return {}
    found = dict.fromkeys(files, out) if out.suffix.lower() == ".png" else _numbered(files, out)
    images = {path.resolve() for path in files}
    over = next((picture for picture in found.values() if picture.resolve() in images), None)
    if over is not None:
        raise UsageError(f"--out {out}: the picture would take the place of the image {over}: give another place")
    return found


def _numbered(files: list[Path], out: Path) -> dict[Path, Path]:
    found: dict[Path, Path] = {}
    taken: set[str] = set()
    for path in files:
        name, number = path.stem, 1
        while name in taken:
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name)
        found[path] = out / f"{name}.png"
    return found


def _write(path: Path, data: bytes) -> None:
    from edgedet.data.store import ASKED_FOR, writing_file

    with writing_file(path, ASKED_FOR) as file:
        file.write(data)


def _show(run: Run, records: list[dict[str, Any]], json: str | None) -> None:
    border = run.border
    rows = [
        (
            one_line(record["image"]),
            record["verdict"],
            f"{record['score']:.4f}",
            f"{record['least']:.3g} .. {record['largest']:.3g}",
            "-" if record["border"] is None else f"{record['border']:.0%}",
        )
        for record in records
    ]
    columns = ("image", "verdict", "score", run.method, "at the border")
    shown = [table(str(run.artifact.path), columns, rows, right=("score", "at the border"))] if rows else []
    about = None
    if border is not None:
        about = {"mass": border.mass, "images": border.images, "most": border.most, "alarm": border.alarm}
    said = [border.said()] if border is not None else []
    record = {"artifact": run.artifact.digest, "method": run.method, "images": records, "border": about}
    show(*shown, *said, json=json, record=record)
