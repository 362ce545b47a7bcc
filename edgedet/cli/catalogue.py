"""What there is: ``edgedet models | recipes | targets``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from edgedet import recipe
from edgedet.cli.common import Json, show, table

if TYPE_CHECKING:
    from edgedet.target import Target


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("models")(list_models)
    app.command("recipes")(list_recipes)
    app.command("targets")(list_targets)


def list_models(json: Json = None) -> None:
    """List the detectors: source, parameters, MACs at their published input, front-end, what export and INT8 must know."""
    from edgedet import models
    from edgedet.artifact import DetectorSpec
    from edgedet.models import structure
    from edgedet.models.macs import macs

    records: list[dict[str, Any]] = []
    for name, line in models.DETECTORS.items():
        model = models.weightless(DetectorSpec(name=name))
        records.append(
            {
                "name": name,
                "source": line.source,
                "parameters": structure.count_parameters(model.net),
                "mmacs": macs(model) / 1e6,
                "input": f"{line.preprocess.height}x{line.preprocess.width}",
                "front_end": line.front_end,
                "export_notes": line.export_notes,
                "int8_notes": line.int8_notes,
            }
        )
    rows = [
        (each["name"], each["source"], f"{each['parameters']:,}", f"{each['mmacs']:,.1f}", each["input"], each["front_end"])
        for each in records
    ]
    rows.append(("timm/<name>", "any model of timm, one logit", "", "", "", ""))
    columns = ("detector", "source", "parameters", "MMACs", "input", "front-end")
    noted: dict[tuple[str, str], list[str]] = {}
    for each in records:
        noted.setdefault((each["export_notes"], each["int8_notes"]), []).append(each["name"])
    notes = [("\n".join(names), *said) for said, names in noted.items() if any(said)]
    shown = table("notes", ("detectors", "export", "INT8"), notes)
    show(table("detectors", columns, rows, right=columns[2:4]), shown, json=json, record=records)


def list_recipes(
    keys: Annotated[bool, typer.Option("--keys", help="List the keys of a recipe instead, as docs/recipes.md does.")] = False,
    json: Json = None,
) -> None:
    """List the recipes: what each is for, in its file's first words."""
    if keys:
        from edgedet.cli.keys import markdown, tables

        listed = tables()
        show(markdown(listed).rstrip(), json=json, record=listed)
        return
    records = [{"name": name, **_head(name)} for name in recipe.names("train")]
    rows = [(each["name"], each["stage"], each["about"]) for each in records]
    show(table("recipes", ("recipe", "stage", "about"), rows), json=json, record=records)


def _head(name: str) -> dict[str, str]:
    path = recipe.find("train", name)
    text = path.read_text(encoding="utf-8")
    about = " ".join(line.lstrip("# ") for line in text.split("\n\n")[0].splitlines() if line.startswith("#"))
    return {"stage": str(recipe.parse(text, dict, source=str(path)).get("stage", "")), "about": about}


def list_targets(json: Json = None) -> None:
    """List the devices to export for: what each takes, or why it is refused, and what is published of it."""
    from edgedet.target import load

    targets = [load(name) for name in recipe.names("export")]
    columns = ("target", "device", "memory GB", "precisions", "opset", "INT8", "power modes")
    devices = table("targets", columns, [_device(each) for each in targets], right=("memory GB", "opset"))
    columns = ("target", "system", "TensorRT", "Python", "CUDA", "typing", "builder flags for INT8")
    systems = table("systems: --target TARGET@RELEASE, as in jetson-orin-nano@7.2", columns, list(_systems(targets)))
    sources = list(dict.fromkeys(ceiling.source for each in targets for ceiling in each.ceilings))
    columns = ("target", "figure", "value", "at", "kind", "note", "source")
    ceilings = table("ceilings, measured by nobody here", columns, list(_ceilings(targets, sources)), right=("value",))
    notes = [f"[{number}] {source}" for number, source in enumerate(sources, 1)]
    show(devices, systems, ceilings, *notes, json=json, record=[_record(each) for each in targets])


def _device(target: Target) -> tuple[str, ...]:
    scheme = target.int8
    int8 = f"{scheme.activations} x int8, bias {scheme.bias}, residual {scheme.residual}" if scheme else ""
    taken = ", ".join(target.precisions) or f"refused: {target.refused}"
    memory = str(target.memory_gb or "")
    return (target.name, target.device, memory, taken, str(target.opset), int8, ", ".join(target.power_modes))


def _systems(targets: Sequence[Target]) -> Iterator[tuple[str, ...]]:
    for target in targets:
        for name, system in target.systems.items():
            flags = system.build
            shown = f"{name} (default)" if name == target.system else name
            typing = f"strong, opset {flags.opset}" if flags.strongly_typed else f"by flags, opset {flags.opset}"
            said = " ".join((*flags.network, *flags.builder.get("int8", ())))
            yield target.name, shown, system.tensorrt, system.python, system.cuda, typing, said


def _ceilings(targets: Sequence[Target], sources: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Rows whose last column is the place of the source in `sources`, from 1."""
    for target in targets:
        for each in target.ceilings:
            kind = f"{each.kind}: {each.formula}" if each.formula else each.kind
            source = f"[{sources.index(each.source) + 1}]"
            yield target.name, each.figure, f"{each.value:g} {each.unit}", each.at, kind, each.note, source


def _record(target: Target) -> dict[str, Any]:
    """A target as plain data, each system with the builder flags of its TensorRT."""
    record: dict[str, Any] = msgspec.to_builtins(target)
    for name, system in target.systems.items():
        record["systems"][name]["build"] = msgspec.to_builtins(system.build)
    return record
