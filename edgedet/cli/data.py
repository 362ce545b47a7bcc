"""Data sets: ``edgedet data scan | audit | control | simulate | reconstruct``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from edgedet import recipe
from edgedet.artifact import check_free
from edgedet.cli.common import Json, Out, Resume, data_of, show, table, valid, warn
from edgedet.data.index import LABELS, REAL, Index
from edgedet.errors import UsageError
from edgedet.recipe import convert

if TYPE_CHECKING:
    from edgedet.data.audit import Audit


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    data = typer.Typer(help="Data sets: layouts to an index, and the embedded data set.", no_args_is_help=True)
    data.command("scan")(scan_folder)
    data.command("audit")(audit_set)
    data.command("control")(control_set)
    data.command("simulate")(simulate_set)
    data.command("reconstruct")(reconstruct_photos)
    app.add_typer(data, name="data")


def scan_folder(
    source: Annotated[Path, typer.Argument(help="A folder in a known layout, a table, or an archive.")],
    out: Annotated[Path, typer.Option("--out", help="The index to write, a CSV; it must not exist.")],
    label: Annotated[list[str] | None, typer.Option("--label", help="Another folder name, as in photos=real.")] = None,
    keep_leaks: Annotated[bool, typer.Option(help="Keep test images whose bytes also stand in another split.")] = False,
    seed: Annotated[int, typer.Option(help="Of the splits that are cut.")] = 0,
    json: Json = None,
) -> None:
    """Turn a folder layout into an index: label, generator, split, size, format, JPEG quality and sha256 of every image."""
    check_free(out)
    from edgedet.data.archive import scan_data

    result = scan_data(source, label_map=_label_map(label or []), seed=seed, keep_leaks=keep_leaks)
    result.index.save(out)
    _warn_of(result.errors)
    verb = "kept" if keep_leaks else "dropped"
    summary = (
        f"{out}: {len(result.index):,} images, {len(result.errors):,} that cannot be read, "
        f"{len(result.leaks):,} leaked into another split ({verb})"
    )
    record = {
        "index": str(out),
        "images": len(result.index),
        "errors": _listed(result.errors),
        "leaks": [{"path": valid(leak.path), "same_as": valid(leak.first_path)} for leak in result.leaks],
        "layout": result.layout,
    }
    show(_counts(result.index), summary, json=json, record=record)


def audit_set(
    source: Annotated[str, typer.Argument(help="An index, a folder in a known layout, or an archive.")],
    seed: Annotated[int, typer.Option(help="Of the images that baselines are fitted on.")] = 0,
    json: Json = None,
) -> None:
    """Say whether format, size or codec give the label away, and which images stand in two splits.

    What is found is kept, and `edgedet eval` shows its headline beside every figure on the same data set.
    """
    from edgedet.data.audit import audit, keep

    index = data_of(source)
    found = audit(index, seed=seed)
    keep(found)
    shown: list[Table | str] = [_classes(found), _shortcuts(found)]
    shown += [f"repeated in {split}: {count:,} images have the bytes of another" for split, count in found.repeats.items()]
    shown += [f"left out: {path}: {reason}" for path, reason in found.unreadable[:20]]
    shown += [f"leak: {first} has the bytes of {second}" for first, second in found.leaks[:5]]
    shown += [f"near: {first} shows the same as {second} ({bits} of 64 bits differ)" for first, second, bits in found.near[:5]]
    show(*shown, found.headline, json=json, record=found)


def control_set(
    source: Annotated[str, typer.Argument(help="An index, a folder in a known layout, or an archive.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write; it must not exist.")],
    size: Annotated[int, typer.Option(help="Side of the crops, a multiple of 8; smaller images are left out.")] = 224,
    quality: Annotated[int | None, typer.Option(help="JPEG quality of all; else drawn from those of the reals.")] = None,
    seed: Annotated[int, typer.Option(help="Of crops and qualities.")] = 0,
    json: Json = None,
) -> None:
    """Copy a data set with every image cropped to one size and written by one encoder: only the picture can tell them apart."""
    from edgedet.data.control import ControlConfig, control

    config = convert({"size": size, "quality": quality, "seed": seed}, ControlConfig, source="edgedet data control")
    made, left_out = control(config, data_of(source), out)
    for path, reason in left_out[:20]:
        warn(f"left out: {path}: {reason}")
    record = {
        "out": str(out),
        "images": len(made),
        "left_out": [{"path": valid(path), "reason": valid(reason)} for path, reason in left_out],
    }
    show(_counts(made), f"{out}: {len(made):,} images, {len(left_out):,} left out", json=json, record=record)


def _classes(found: Audit) -> Table:
    """The distribution of each trait, side by side."""
    traits = list(dict.fromkeys(name for each in found.classes.values() for name in each))
    rows = [(name.replace("_", " "), *(_distribution(each.get(name)) for each in found.classes.values())) for name in traits]
    return table("what the files are", ("", *found.classes), rows)


def _distribution(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_distribution(each)}" for name, each in value.items())
    return "none" if value is None else f"{value:,.3g}" if isinstance(value, float) else f"{value:,}"


def _shortcuts(found: Audit) -> Table:
    rows = [
        (name, f"{each['value']:.3f} [{each['low']:.3f}, {each['high']:.3f}]", "biased" if each["biased"] else "")
        for name, each in found.shortcuts.items()
    ]
    return table("shortcut baselines: AUC without looking at the picture", ("baseline", "AUC [95 %]", ""), rows)


def simulate_set(
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    size: Annotated[int, typer.Option(min=16, help="Side of the crops in pixels.")] = 32,
    scale: Annotated[float, typer.Option(min=0.001, max=1, help="How much of the set to make: 0.1 is a tenth.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the crops, the kernels and the qualities.")] = 0,
    json: Json = None,
) -> None:
    """Make the embedded data set: crops of shipped photographs, and the same through simulated generator decoders."""
    from edgedet.data.simulate import PAIRS, simulate

    pairs = {split: max(1, round(scale * count)) for split, count in PAIRS.items()}
    index = simulate(out, size=size, seed=seed, pairs=pairs)
    show(_counts(index), f"{out}: {len(index):,} images", json=json, record={"out": str(out), "images": len(index)})


def reconstruct_photos(
    photos: Annotated[Path, typer.Argument(help="A folder of photographs, an index or an archive; only reals are used.")],
    autoencoder: Annotated[
        list[str],
        typer.Option(
            "--autoencoder",
            metavar="[NAME=]PATH",
            help="A folder with config.json and safetensors, NAME_encoder.safetensors, or a folder of such; may be repeated.",
        ),
    ],
    out: Out,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="scale, quality, largest ...")] = None,
    crop: Annotated[int | None, typer.Option(help="Side of square crops; whole photographs when left out.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Each photograph through all autoencoders, not a drawn one.")] = False,
    old_grid: Annotated[str | None, typer.Option(help="Of a photograph's own JPEG: downscale it away, or align to it.")] = None,
    jpeg: Annotated[str | None, typer.Option(help="Quality of both sides: draw it, or take the photo's own tables.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="Another folder name, as in photos=real.")] = None,
    resume: Resume = False,
    json: Json = None,
) -> None:
    """Make aligned fakes: photographs through latent autoencoders, each pair of one size, codec and quality.

    Sides are cut to multiples of 8, which is what an autoencoder takes.
    """
    check_free(out)
    from edgedet.data.archive import scan_data
    from edgedet.models import autoencoder as autoencoders
    from edgedet.models.reconstruct import ReconstructConfig, run

    options = {"crop": crop, "every": "true" if every else None, "old_grid": old_grid, "jpeg": jpeg}
    given = [f"{key}={value}" for key, value in options.items() if value is not None]
    config = recipe.parse("", ReconstructConfig, source="edgedet data reconstruct", overrides=[*given, *(overrides or ())])
    found = autoencoders.sources(autoencoder)
    scanned = scan_data(photos, label_map=_label_map(label or []), unlabelled=REAL, seed=config.seed)
    made = run(config, scanned, found, out, resume=resume)
    _warn_of(made.left_out)
    summary = f"{out}: {len(made.entries):,} images, {len(made.left_out):,} photographs left out (left_out.csv)"
    record = {"out": str(out), "images": len(made.entries), "left_out": _listed(made.left_out)}
    counts = Counter((entry.split, LABELS[entry.label], entry.generator) for entry in made.entries)
    show(_table_of(counts), summary, json=json, record=record)


def _warn_of(left_out: Sequence[tuple[str, str]]) -> None:
    for path, reason in left_out[:20]:
        warn(f"left out: {path}: {reason}")
    if len(left_out) > 20:
        warn(f"left out: {len(left_out) - 20} more; --json lists all")


def _listed(left_out: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"path": valid(path), "reason": valid(reason)} for path, reason in left_out]


def _label_map(pairs: list[str]) -> dict[str, int]:
    meanings = {"real": 0, "fake": 1}
    found: dict[str, int] = {}
    for pair in pairs:
        name, equals, meaning = pair.partition("=")
        if not equals or meaning not in meanings:
            raise UsageError(f"--label {pair}: write FOLDER=real or FOLDER=fake")
        found[name] = meanings[meaning]
    return found


def _counts(index: Index) -> Table:
    counts: Counter[tuple[str, str, str]]
    counts = Counter((row.split or "-", LABELS[row.label], row.generator or "-") for row in index.rows)
    return _table_of(counts)


def _table_of(counts: Counter[tuple[str, str, str]]) -> Table:
    rows = [(*key, f"{count:,}") for key, count in sorted(counts.items())]
    return table("images", ("split", "label", "generator", "images"), rows, right=("images",))
