"""One detector measured: exported, quantized, compiled and pruned, with untrained weights at its published input.

Every part is figures, or ``{"refused": why}``.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import onnx

from edgedet import models
from edgedet.artifact import Artifact, DetectorSpec, tool_versions
from edgedet.compress.prune import PruneRecipe, narrow
from edgedet.data.index import Index
from edgedet.errors import EdgedetError
from edgedet.export.anchor import as_ranges, untrained
from edgedet.export.parity import ParityGate
from edgedet.export.stage import ExportConfig, run
from edgedet.models.macs import macs
from edgedet.models.pixels import PixelModel
from edgedet.models.structure import count_parameters
from edgedet.preprocess import Preprocess
from edgedet.target import Precision

Part = dict[str, Any]

STRESS = ParityGate(mean_relative=0.5)
"""Random weights have no verdicts to keep; what rounding made of their logits is in the results."""
CPU, GPU = "cpu-x86", "rtx-3090"
TOOLS = ("torch", "timm", "torch-pruning", "onnx", "onnxscript", "onnxruntime", "tensorrt-rtx-cu13-bindings")
KEEP = 0.7
"""Of the multiply-accumulates, when pruned."""
_PRODUCTS = ("Conv", "Gemm", "MatMul")


def code_of(name: str) -> str:
    """A digest of the detector's code and of the tools' versions: a row stands as long as it is the same."""
    parts = [sorted(sources(name).items()), repr(models.lookup(name).preprocess), tool_versions(*TOOLS)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def sources(name: str) -> dict[str, str]:
    """The modules of the zoo that a detector is made by: its builder's, and all that they import, each with its text."""
    folder, found = Path(models.__file__).parent, {}
    waiting = [models.lookup(name).build.__module__.rpartition(".")[2]]
    while waiting:
        module = waiting.pop()
        path = folder / f"{module}.py"
        if module not in found and path.is_file():
            text = found[module] = path.read_text(encoding="utf-8")
            waiting += re.findall(r"^\s*from edgedet\.models\.(\w+) import", text, re.MULTILINE)
            listed = re.findall(r"^\s*from edgedet\.models import (.+)$", text, re.MULTILINE)
            waiting += [each.strip() for names in listed for each in names.split(",")]
    return found


def facts(name: str) -> Part:
    """What needs no weights."""
    model = models.weightless(DetectorSpec(name=name))
    return {"parameters": count_parameters(model.net), "mmacs": macs(model) / 1e6}


ONE_PATCH = {"spai": 224}
"""Measured at one patch: four, its published input, take hours of a processor, and their graph has the same layers."""


def subject(name: str) -> tuple[DetectorSpec, Preprocess]:
    """What is measured of a detector, and at which input: the published one, or one patch of it."""
    preprocess = models.lookup(name).preprocess
    if name not in ONE_PATCH:
        return DetectorSpec(name=name), preprocess
    side = ONE_PATCH[name]
    return DetectorSpec(name=name), msgspec.structs.replace(preprocess, height=side, width=side)


def measured(name: str) -> Iterator[tuple[str, Part]]:
    """The parts of a row, each as soon as it is there: ``cpu-x86 fp32``, ``rtx-3090 int8``, ``pruned``, ..."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = as_ranges(work)
        checkpoint = untrained(work / "checkpoint", *subject(name))
        yield from exported(checkpoint, data, work)
        yield "pruned", _told(lambda: _pruned(name, work))
        if (work / "pruned").is_dir():
            parts = exported(Artifact.load(work / "pruned"), data, work / "after", {CPU: (), GPU: ("int8",)})
            yield from ((f"pruned {what}", part) for what, part in parts)


LOWERED: dict[str, tuple[Precision, ...]] = {CPU: ("int8",), GPU: ("fp16", "int8")}


def exported(
    checkpoint: Artifact, data: Index, work: Path, lowered: dict[str, tuple[Precision, ...]] = LOWERED
) -> Iterator[tuple[str, Part]]:
    """The graphs of a checkpoint for each target: in FP32, and what is made of that."""
    work.mkdir(exist_ok=True)
    for target, precisions in lowered.items():
        whole = work / f"{target} fp32"
        yield f"{target} fp32", _told(lambda: _graph(ExportConfig(target=target, gates=()), checkpoint, None, whole))  # noqa: B023
        for precision in precisions if whole.is_dir() else ():
            config = ExportConfig(target=target, precision=precision, ranges="minmax", gates=(), parity=STRESS)
            out = work / f"{target} {precision}"
            yield f"{target} {precision}", _told(lambda: _graph(config, Artifact.load(whole), data, out))  # noqa: B023


def _told(make: Callable[[], Part]) -> Part:
    began = time.perf_counter()
    try:
        return {**make(), "took_seconds": round(time.perf_counter() - began, 1)}
    except EdgedetError as error:
        return {"refused": re.sub(r"\S*/(\S+)", r"\1", str(error))}


def _graph(config: ExportConfig, parent: Artifact, data: Index | None, out: Path) -> Part:
    made = run(config, parent, data, out, assessed=False)
    graph = onnx.load(made.graph)
    integer, layers = integer_layers(graph)
    parity = made.manifest.metrics["parity"]
    return {
        "parity": parity["max_relative"],
        "mean_parity": parity["mean_relative"],
        "file_bytes": made.model_bytes,
        "nodes": len(graph.graph.node),
        "casts": sum(node.op_type == "Cast" for node in graph.graph.node),
        "integer_layers": integer,
        "layers": layers,
        "notes": list(made.manifest.notes),
        "compiled": made.manifest.metrics.get("compiled"),
    }


def integer_layers(model: onnx.ModelProto) -> tuple[int, int]:
    """How many convolutions and matrix products read integers on both sides, and how many there are."""
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    layers = [node for node in model.graph.node if node.op_type in _PRODUCTS]
    return sum(set(node.input[:2]) <= dequantized for node in layers), len(layers)


@dataclass
class _Pruning:
    """What pruning says of itself."""

    before: float = 0.0
    after: float = 0.0
    reasons: dict[str, str] | None = None


def _pruned(name: str, work: Path) -> Part:
    said = _Pruning()

    def prune(model: PixelModel) -> None:
        said.before = macs(model.eval())
        recipe = PruneRecipe(stage="prune", keep=KEEP)
        said.reasons = narrow(model, name, recipe, lambda candidate: macs(candidate) <= KEEP * said.before)
        said.after = macs(model)

    made = untrained(work / "pruned", *subject(name), change=prune)
    return {
        "macs_left": said.after / said.before,
        "parameters": count_parameters(models.build(made).net),
        "left_alone": said.reasons,
        "widths_changed": len(made.manifest.structure),
    }
