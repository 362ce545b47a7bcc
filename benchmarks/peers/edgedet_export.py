"""edgedet itself, by the entries that a user calls: the export stage, with ranges and bias correction chosen on held-out
images, and in the mode ``qat`` the stage that trains the graph, which needs the training split as well.

It takes the checkpoint and the data set and draws the very sample of images that the others are given.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from contract import ONNX_RUNTIME, Make, Pixels, Request, Run, main
from onnx_session import layers, session

from edgedet.artifact import Artifact
from edgedet.compress import qat
from edgedet.data.index import Index
from edgedet.export.parity import ParityGate
from edgedet.export.stage import ExportConfig, run
from edgedet.quantize.sensitivity import MixedGate
from edgedet.recipe import load

RECIPE = "int8-finetune"


def exported(graph: Path, pixels: Pixels, out: Path, *, request: Request) -> None:
    del graph, pixels  # the stage exports the checkpoint and decodes the images again
    checkpoint, data = Artifact.load(request.more["checkpoint"]), Index.load(request.more["data"])
    made = (_trained if request.mode == "qat" else _quantized)(request, checkpoint, data, out.with_suffix(""))
    onnx.save(onnx.load(made.graph), out)


def _quantized(request: Request, checkpoint: Artifact, data: Index, folder: Path) -> Artifact:
    config = ExportConfig(
        precision="int8",
        target=request.more["target"],
        ranges="auto",
        bias_correction="auto",
        mixed=MixedGate() if request.mode == "mixed" else None,
        parity=ParityGate(),  # the table is to show what it costs, whatever it costs
        gates=(),
    )
    return run(config, checkpoint, data, folder, assessed=False)


def _trained(request: Request, checkpoint: Artifact, data: Index, folder: Path) -> Artifact:
    return qat.run(load("train", RECIPE, qat.QatRecipe), checkpoint, data, folder, target=request.more["target"])


class EdgedetExport:
    packages = ("edgedet", "onnx", "onnxruntime", "torch")
    runtime = ONNX_RUNTIME
    suffix = ".onnx"

    def candidates(self, request: Request) -> Mapping[str, Make]:
        return {request.more["target"]: functools.partial(exported, request=request)}

    def load(self, model: Path, threads: int) -> Run:
        return session(model, threads)

    def facts(self, model: Path) -> dict[str, Any]:
        manifest = Artifact.load(model.with_suffix("")).manifest
        metrics = manifest.metrics
        found = metrics["qat"]["start"] if manifest.stage == "qat" else metrics.get("quantization", {})
        tried = found.get("ranges", ())
        chosen = {"chosen": tried[0]["ranges"]} if tried else {}
        return {"layers": layers(model), "notes": list(manifest.notes), **chosen}


if __name__ == "__main__":
    main(EdgedetExport())
