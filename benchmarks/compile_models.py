"""Every model compiled for the RTX 3090, without one: ``python benchmarks/compile_models.py [MODEL...] [--draw]``.

Exports each detector of the table, and some of timm's, with untrained weights at its published input: FP16 and INT8 for
``rtx-3090``, by the stage that `edgedet export` runs, so each is linted, held against parity and compiled ahead of time for
compute capability 8.6. Writes benchmarks/results/compiled-sm86.json, keeping the rows of models that are not named, and draws
the table of docs/tensorrt.md from it; ``--draw`` only draws. Nothing here is a measurement of speed: no GPU runs anything.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from edgedet import models
from edgedet.artifact import Artifact, DetectorSpec
from edgedet.data.index import Index
from edgedet.errors import EdgedetError
from edgedet.export.anchor import as_ranges, untrained
from edgedet.export.parity import ParityGate
from edgedet.export.stage import ExportConfig, run
from edgedet.target import Precision

ROOT = Path(__file__).resolve().parent.parent
RESULTS, DOCUMENT = ROOT / "benchmarks" / "results" / "compiled-sm86.json", ROOT / "docs" / "tensorrt.md"
BEGIN, END = "<!-- compiled -->", "<!-- /compiled -->"
TARGET = "rtx-3090"
STRESS = ParityGate(mean_relative=0.5)
"""Random weights have no verdicts to keep; what the rounding made of their logits is in the results."""
TIMM = (
    "resnet101", "vit_small_patch16_224", "swin_tiny_patch4_window7_224", "tf_efficientnetv2_b0", "legacy_xception",
    "mobilenetv4_conv_small", "efficientnet_lite0",
)  # fmt: skip
MODELS = (*(name for name in models.DETECTORS if name != "edgenet"), *(f"timm/{name}" for name in TIMM))
"""`edgenet` is the family that the edge models are of; it has no widths of its own."""

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="the names of `edgedet models`, or timm/<name>; all when none is given")
    parser.add_argument("--draw", action="store_true", help="only draw the table from what is recorded")
    given = parser.parse_args()
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
    for name in () if given.draw else given.models or MODELS:
        rows = merged(rows, compiled(name))
        record = {"target": TARGET, "evidence": "compiled ahead of time, not run: no measurement", "rows": rows}
        RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draw(rows)


def merged(rows: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """`rows` with `new` in place of the same models', in the order of :data:`MODELS`."""
    names = {row["model"] for row in new}
    order = {name: position for position, name in enumerate(MODELS)}
    kept = [row for row in rows if row["model"] not in names]
    return sorted([*kept, *new], key=lambda row: order.get(row["model"], len(order)))


def compiled(name: str) -> list[Row]:
    """A row for each precision; one that is refused keeps its row, with the reason."""
    preprocess = models.lookup(name).preprocess
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = as_ranges(work)
        checkpoint = untrained(work / "checkpoint", DetectorSpec(name=name), preprocess)
        whole = run(ExportConfig(target=TARGET, gates=()), checkpoint, None, work / "fp32", assessed=False)
        rows = [_row(name, precision, whole, data, work) for precision in ("fp32", "fp16", "int8")]
    print(*map(json.dumps, rows), sep="\n", flush=True)
    return rows


def _row(name: str, precision: Precision, whole: Artifact, data: Index, work: Path) -> Row:
    preprocess = whole.manifest.preprocess
    row: Row = {"model": name, "precision": precision, "input": f"{preprocess.height}x{preprocess.width}"}
    try:
        config = ExportConfig(target=TARGET, precision=precision, ranges="minmax", gates=(), parity=STRESS)
        made = whole if precision == "fp32" else run(config, whole, data, work / precision, assessed=False)
    except EdgedetError as error:
        return {**row, "refused": str(error).replace(str(work), "")}
    nodes = onnx.load(made.graph).graph.node
    return {
        **row,
        **made.manifest.metrics["compiled"],
        "nodes": len(nodes),
        "casts": sum(node.op_type == "Cast" for node in nodes),
        "file_bytes": made.model_bytes,
        "parity": made.manifest.metrics["parity"]["max_relative"],
        "notes": list(made.manifest.notes),
    }


@dataclass(frozen=True)
class Column:
    """Of the table: its head, and what it shows of a row."""

    head: str
    show: Any


COLUMNS = (
    Column("model", lambda row: row["model"].removeprefix("timm/")),
    Column("input", lambda row: row["input"]),
    Column("precision", lambda row: row["precision"]),
    Column("convolutions in INT8", lambda row: f"{row['int8_convolutions']} of {row['convolutions']}"),
    Column("kernels in Int8 / Half / Float", lambda row: " / ".join(str(count) for count in row["kernels_in"].values())),
    Column("weights MB", lambda row: f"{row['weights_bytes'] / 1e6:.1f}"),
    Column("activations MB", lambda row: f"{row['activation_bytes'] / 1e6:.1f}"),
    Column("scratch MB", lambda row: f"{row['scratch_bytes'] / 1e6:.1f}"),
    Column("compiled in s", lambda row: f"{row['seconds']:.1f}"),
)


def draw(rows: Sequence[Row]) -> None:
    """Put the table between its marks in the document."""
    lines = [[column.head for column in COLUMNS], ["---"] * 3 + ["---:"] * (len(COLUMNS) - 3)]
    lines += [[column.show(row) for column in COLUMNS] for row in rows if "refused" not in row]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    refused = "".join(f"- {row['model']} in {row['precision']}: {row['refused']}\n" for row in rows if "refused" in row)
    versions = ", ".join(sorted({row["compiler"] for row in rows if "refused" not in row}))
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    drawn = f"{BEGIN}\n{table}\n{refused}- compiled by {versions} for compute capability 8.6; batch 1, up to 16\n{END}"
    DOCUMENT.write_text(f"{before}{drawn}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
