"""An ONNX artifact as a model repository of NVIDIA's Triton Inference Server, for those who outgrow ``edgedet serve``.

::

    OUT/<name>/config.pbtxt      inputs, outputs, batching, warm-up; the calibration as parameters
    OUT/<name>/manifest.json     the artifact's own
    OUT/<name>/1/model.onnx

Triton runs the graph as it is: pixels after the manifest's geometry in, uint8 (H, W, 3), and a logit out. Decoding, geometry
and calibration are the client's; what it needs for them is in the parameters. The fields are those of Triton's
``model_config.proto``.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedet import target as targets
from edgedet.artifact import Artifact
from edgedet.artifact.draft import check_free
from edgedet.artifact.manifest import MANIFEST
from edgedet.data.store import partial
from edgedet.errors import ArtifactError, EdgedetError, ExportError
from edgedet.ort import open_session

MAX_BATCH = 64
WAIT_US = 2_000
"""How long the first of a batch waits for others; as `edgedet serve` does."""

_TYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32"}


@dataclass(frozen=True)
class Tensor:
    """An input or output as ONNX Runtime names it; shape: with the batch first, None where it is free."""

    name: str
    kind: str
    shape: tuple[int | None, ...]


def write(artifact: Artifact, out: Path) -> Path:
    """Write the repository at `out`, whole or not at all, and return the model's folder in it.

    Raises:
        ArtifactError: `out` exists, the artifact is no ONNX graph, or cannot be written.
        ExportError: it has two graphs, or a tensor of a type that the repository does not declare.
    """
    artifact.require("onnx")
    if len(artifact.manifest.graphs) > 1:
        raise ExportError(f"{artifact.path}: has an encoder and an aggregator; a Triton model is one: use `edgedet serve`")
    check_free(out)
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", artifact.path.resolve().name)
    text = config(artifact, name)
    temporary = partial(out)
    try:
        version = temporary / name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(artifact.graph, version / "model.onnx")
        shutil.copyfile(artifact.path / MANIFEST, temporary / name / MANIFEST)
        (temporary / name / "config.pbtxt").write_text(text, encoding="utf-8")
        temporary.replace(out)
    except OSError as error:
        raise ArtifactError(f"{out}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out / name


def config(artifact: Artifact, name: str) -> str:
    """``config.pbtxt`` of `artifact` as a model called `name`.

    Raises:
        ExportError: a tensor has a type that is not declared here. ArtifactError: ONNX Runtime does not accept the graph.
    """
    inputs, outputs = _tensors(artifact)
    batched = all(tensor.shape[:1] == (None,) for tensor in (*inputs, *outputs))
    lines = [
        f"name: {_text(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {MAX_BATCH if batched else 0}",
        *_block("input", [_declared(tensor, batched=batched) for tensor in inputs]),
        *_block("output", [_declared(tensor, batched=batched) for tensor in outputs]),
        *([f"dynamic_batching {{ max_queue_delay_microseconds: {WAIT_US} }}"] if batched else []),
        *_placement(artifact),
        *_warm_up(artifact, inputs[0], batched=batched),
        *_block("parameters", [f"{{ key: {_text(k)} value {{ string_value: {_text(v)} }} }}" for k, v in _said(artifact)]),
    ]
    return "\n".join(lines) + "\n"


def _tensors(artifact: Artifact) -> tuple[list[Tensor], list[Tensor]]:
    try:
        session = open_session(artifact.graph, threads=1)
    except Exception as error:  # ONNX Runtime's own errors have no common base below Exception.
        raise ArtifactError(f"{artifact.graph}: ONNX Runtime does not accept it: {' '.join(str(error).split())}") from error
    return _described(session.get_inputs(), artifact), _described(session.get_outputs(), artifact)


def _described(nodes: Sequence[Any], artifact: Artifact) -> list[Tensor]:
    for node in nodes:
        if node.type not in _TYPES:
            raise ExportError(f"{artifact.path}: {node.name} is a {node.type}, expected {' or '.join(_TYPES)}")
    fixed = [tuple(side if isinstance(side, int) else None for side in node.shape) for node in nodes]
    return [Tensor(node.name, _TYPES[node.type], shape) for node, shape in zip(nodes, fixed, strict=True)]


def _declared(tensor: Tensor, *, batched: bool) -> str:
    """A tensor without its batch, which Triton adds. One number an image is declared as [1] and reshaped: no list is empty."""
    sides = tensor.shape[1:] if batched else tensor.shape
    head = f"name: {_text(tensor.name)} data_type: {tensor.kind}"
    if not sides:
        return f"{{ {head} dims: [ 1 ] reshape {{ shape: [ ] }} }}"
    return f"{{ {head} dims: [ {', '.join(str(-1 if side is None else side) for side in sides)} ] }}"


def _placement(artifact: Artifact) -> list[str]:
    """A graph for a GPU is run through TensorRT, as its Q/DQ is placed for it; any other on the CPU."""
    graph = artifact.manifest.graphs[0]
    try:
        runtime = targets.resolve(graph.target).runtime if graph.target else "onnxruntime"
    except EdgedetError as error:
        raise ExportError(f"{artifact.path}: was exported for {graph.target!r}, which is no target here: {error}") from error
    if runtime != "tensorrt":
        return ["instance_group { count: 1 kind: KIND_CPU }"]
    half = ' parameters { key: "precision_mode" value: "FP16" }' if graph.precision == "fp16" else ""
    accelerator = f'gpu_execution_accelerator {{ name: "tensorrt"{half} }}'
    return ["instance_group { count: 1 kind: KIND_GPU }", f"optimization {{ execution_accelerators {{ {accelerator} }} }}"]


def _warm_up(artifact: Artifact, pixels: Tensor, *, batched: bool) -> list[str]:
    """One blank image before the model is called ready."""
    preprocess = artifact.manifest.preprocess
    sides = [preprocess.height, preprocess.width, 3] if batched else [side or 1 for side in pixels.shape]
    value = f"data_type: {pixels.kind} dims: [ {', '.join(map(str, sides))} ] zero_data: true"
    inputs = f"inputs {{ key: {_text(pixels.name)} value {{ {value} }} }}"
    return [f'model_warmup {{ name: "blank" batch_size: {1 if batched else 0} {inputs} }}']


def _said(artifact: Artifact) -> list[tuple[str, str]]:
    """What a client needs to make a verdict of a logit."""
    manifest, calibration = artifact.manifest, artifact.manifest.calibration
    return [
        ("edgedet_artifact", artifact.digest),
        ("edgedet_geometry", f"{manifest.preprocess.geometry} {manifest.preprocess.height}x{manifest.preprocess.width}"),
        ("edgedet_temperature", repr(calibration.temperature)),
        ("edgedet_bias", repr(calibration.bias)),
        ("edgedet_threshold", repr(calibration.threshold)),
    ]


def _text(value: str) -> str:
    """A string of protobuf's text format; JSON's escapes are among its own as long as nothing else than ASCII is left."""
    return json.dumps(value)


def _block(field: str, values: Sequence[str]) -> list[str]:
    return [f"{field} {value}" for value in values]
