"""What there is: ``edgedet models | recipes | targets``."""

from __future__ import annotations

from typing import Any

import typer

from edgedet import recipe
from edgedet.cli.common import Json, show, table


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("models")(list_models)
    app.command("recipes")(list_recipes)
    app.command("targets")(list_targets)


def list_models(json: Json = None) -> None:
    """List the detectors: parameters, MACs at their published input, source."""
    from edgedet import models
    from edgedet.artifact import DetectorSpec
    from edgedet.compress.prune import macs
    from edgedet.models import structure
    from edgedet.models.pixels import PixelModel

    records: list[dict[str, Any]] = []
    for name, line in models.DETECTORS.items():
        net = models.create(DetectorSpec(name=name)).eval()
        records.append(
            {
                "name": name,
                "parameters": structure.count_parameters(net),
                "mmacs": macs(PixelModel(net, line.preprocess)) / 1e6,
                "input": f"{line.preprocess.height}x{line.preprocess.width}",
                "source": line.source,
            }
        )
    rows = [
        (each["name"], f"{each['parameters']:,}", f"{each['mmacs']:,.1f}", each["input"], each["source"]) for each in records
    ]
    rows.append(("timm/<name>", "", "", "", "any model of timm, one logit"))
    columns = ("detector", "parameters", "MMACs", "input", "source")
    show(table("detectors", columns, rows, right=columns[1:3]), json=json, record=records)


def list_recipes(json: Json = None) -> None:
    """List the recipes: what each is for, in its file's first words."""
    records = [{"name": name, **_head(name)} for name in recipe.names("train")]
    rows = [(each["name"], each["stage"], each["about"]) for each in records]
    show(table("recipes", ("recipe", "stage", "about"), rows), json=json, record=records)


def _head(name: str) -> dict[str, str]:
    path = recipe.find("train", name)
    text = path.read_text(encoding="utf-8")
    about = " ".join(line.lstrip("# ") for line in text.split("\n\n")[0].splitlines() if line.startswith("#"))
    return {"stage": str(recipe.parse(text, dict, source=str(path)).get("stage", "")), "about": about}


def list_targets(json: Json = None) -> None:
    """List the devices to export for: what each takes, or why it is refused."""
    from edgedet.target import load

    targets = [load(name) for name in recipe.names("export")]
    rows = [
        (each.name, each.device, ", ".join(each.precisions) or f"refused: {each.refused}", str(each.opset)) for each in targets
    ]
    show(table("targets", ("target", "device", "precisions", "opset"), rows), json=json, record=targets)
