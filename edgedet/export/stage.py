"""The export stage: a checkpoint becomes the graph that a device runs, proven against its parent before it is written."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import onnx

from edgedet import artifact as artifacts
from edgedet import target as targets
from edgedet.artifact import GOLDEN, Artifact, Figures, Gate, Golden, Graph, Manifest
from edgedet.data.index import Index
from edgedet.data.parallel import usable_cores
from edgedet.errors import ArtifactError, DataError, ExportError
from edgedet.evaluate.assess import assess, carry_over
from edgedet.export import compile as compiler
from edgedet.export import parity
from edgedet.export.parity import Logits, Parity, ParityGate
from edgedet.export.precision import Lowered, linted, lower
from edgedet.preprocess import Pixels
from edgedet.quantize.ranges import Method
from edgedet.quantize.sample import Images, take_sample
from edgedet.quantize.search import QuantizeOptions
from edgedet.quantize.sensitivity import MixedGate
from edgedet.recipe import Config
from edgedet.runtime.base import LOGIT, Options
from edgedet.runtime.onnxruntime import OnnxRuntime
from edgedet.target import Precision, Target

MODEL = "model.onnx"
_FEW = 128
"""Images that biases are corrected on, which takes a pass for each layer."""


class ExportConfig(Config, frozen=True, kw_only=True):
    """What to make of a checkpoint.

    ranges, percentile, bias_correction, mixed: of INT8, see `edgedet.quantize.search.QuantizeOptions`.
    images: of the ranges split that INT8 ranges, and what FP16 would overflow, are found on.
    held_out: more of them, on which nothing is found, to decide by where something is to be tried.
    opset: of the graph; None is the target's.
    parity: limits on the golden inputs; None is the precision's, `edgedet.export.parity.GATES`.
    gates: instead of those that the parent hands down.
    """

    precision: Precision = "fp32"
    target: str = "host"
    ranges: Method | Literal["auto"] = "auto"
    percentile: Annotated[float, msgspec.Meta(gt=50, le=100)] = 99.99
    bias_correction: bool | Literal["auto"] = False
    mixed: MixedGate | None = None
    images: Annotated[int, msgspec.Meta(ge=1)] = 512
    held_out: Annotated[int, msgspec.Meta(ge=1)] = 256
    opset: int | None = None
    parity: ParityGate | None = None
    gates: tuple[Gate, ...] | None = None
    seed: int = 0


@dataclass(frozen=True)
class _Float:
    """The full-precision graph, and the parent's logits (N,) on its golden inputs, computed again here."""

    model: onnx.ModelProto
    parent_logits: Logits


@dataclass(frozen=True)
class Made:
    """A graph that is proven and then written.

    expected: logits (N,) that it must give on its parent's golden inputs, as far as `limits` say.
    stage, config, figures: for the manifest; files: copied into the artifact.
    """

    target: Target
    lowered: Lowered
    expected: Logits
    limits: ParityGate
    stage: str
    config: Config
    gates: tuple[Gate, ...]
    precision: Precision
    seed: int
    figures: Figures = field(default_factory=dict)
    files: tuple[Path, ...] = ()


def run(config: ExportConfig, parent: Artifact, data: Index | None, out: Path, *, assessed: bool = True) -> Artifact:
    """Write `parent` as a graph for ``config.target`` at `out`.

    With `data`, thresholds are fitted again on its validation split and the gates are measured; INT8 and FP16 need it, for
    ranges. Without it, or with `assessed` false, the calibration and the figures are the parent's, and a note says so.

    Raises:
        ExportError: the target does not take this precision, or the graph is not what was promised, breaks a rule of TensorRT's
            or does not compile.
        ParityError: its logits on the golden inputs are too far from the parent's.
        QuantizeError: nothing can be quantized.
        DataError: no data for INT8 or FP16, or the ranges split overlaps those that judge.
        ArtifactError: `out` exists, or `parent` is neither a checkpoint nor an FP32 graph.
    """
    artifacts.check_free(out)
    return write(prepare(config, parent, data), parent, data if assessed else None, out)


def prepare(config: ExportConfig, parent: Artifact, data: Index | None) -> Made:
    """`parent` in the precision and the form of ``config.target``, within its rules.

    Raises:
        ExportError, QuantizeError, DataError, ArtifactError: as :func:`run`.
    """
    target = targets.resolve(config.target)
    _require_precision(config, target)
    source = _float_graph(config, target, parent, parent.golden.pixels)
    lowered = _lowered(config, target, parent, data, source.model)
    return Made(
        target=target,
        lowered=lowered,
        expected=source.parent_logits,
        limits=config.parity or parity.GATES[config.precision],
        stage="export",
        config=config,
        gates=parent.manifest.gates if config.gates is None else config.gates,
        precision=config.precision,
        seed=config.seed,
    )


def write(made: Made, parent: Artifact, data: Index | None, out: Path) -> Artifact:
    """Prove `made` and write it at `out`, assessed on the validation split of `data`, or with its parent's figures.

    Raises:
        ParityError: its logits on the golden inputs are too far from those expected.
        ExportError: it does not compile for the target, or not as promised.
        ArtifactError: `out` exists.
    """
    golden, lowered = parent.golden, made.lowered
    measured = prove(lowered.model, golden.pixels, made.expected, parent)
    measured.hold(made.limits, f"{parent.path} in {made.precision}")
    with artifacts.writing(out) as draft:
        onnx.save(lowered.model, draft.path / MODEL)
        Golden(golden.images, golden.pixels, made.expected, measured.logits).save(draft.path / GOLDEN)
        for path in made.files:
            shutil.copy(path, draft.path)
        draft.manifest = _manifest(made, parent, measured)
        draft.manifest = _with_evidence(draft.manifest, draft.path / MODEL, made.target, lowered)
        if data is not None:
            draft.manifest = assess(draft, data, parent=parent)
        else:
            draft.manifest = carry_over(draft, parent)
    return Artifact.load(out)


def prove(model: onnx.ModelProto, pixels: Pixels, parent_logits: Logits, parent: Artifact) -> Parity:
    """Run `model` on the golden `pixels` under ONNX Runtime and compare with the parent's logits (N,)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL
        onnx.save(model, path)
        runtime = OnnxRuntime(path, Options(threads=usable_cores(), spin=False))
        try:
            return parity.measure(lambda batch: runtime.run(batch)[LOGIT], pixels, parent_logits, parent.manifest.calibration)
        finally:
            runtime.close()


def _with_evidence(manifest: Manifest, path: Path, target: Target, lowered: Lowered) -> Manifest:
    """For an NVIDIA GPU: the graph compiled ahead of time, every convolution that was quantized reading Int8."""
    if not target.compiles_for:
        return manifest
    if not compiler.available():
        note = "not compiled ahead of time: TensorRT-RTX is not installed (pip install 'edgedet[compile]')"
        return msgspec.structs.replace(manifest, notes=(*manifest.notes, note))
    size = (manifest.preprocess.height, manifest.preprocess.width)
    compiled = compiler.compile_ahead(path, capability=target.compiles_for, size=size)
    compiled.require_int8(lowered.convolutions)
    return msgspec.structs.replace(manifest, metrics={**manifest.metrics, "compiled": compiled.figures})


def _require_precision(config: ExportConfig, target: Target) -> None:
    if config.precision not in target.precisions:
        raise ExportError(
            f"{target.name} ({target.device}) takes {' or '.join(target.precisions)}, not {config.precision}: "
            "choose one of them, or another --target"
        )


def _float_graph(config: ExportConfig, target: Target, parent: Artifact, pixels: Pixels) -> _Float:
    """The parent in FP32: exported from its checkpoint, or its own graph. Its golden logits must come out again."""
    if parent.manifest.kind == "checkpoint":
        return _from_checkpoint(parent, pixels, config.opset or target.opset)
    parent.require("onnx")
    graph = parent.manifest.graphs[0]
    if graph.precision != "fp32":
        raise ArtifactError(f"{parent.path}: is in {graph.precision} already: export from the checkpoint or its FP32 graph")
    if graph.opset != (config.opset or target.opset):
        raise ArtifactError(
            f"{parent.path}: is a graph of opset {graph.opset}, {target.name} takes {config.opset or target.opset}: "
            "export from the checkpoint"
        )
    model = onnx.load(parent.graph)
    measured = prove(model, pixels, parent.golden.logits, parent)
    measured.hold(parity.GATES["fp32"], f"{parent.path}, against the golden logits that it was written with")
    return _Float(model, measured.logits)


def _from_checkpoint(parent: Artifact, pixels: Pixels, opset: int) -> _Float:
    import torch

    from edgedet import models
    from edgedet.export.onnx import export_onnx

    manifest, module = parent.manifest, models.build(parent)
    with torch.inference_mode():
        logits: Logits = module(torch.from_numpy(pixels)).float().numpy()
    again = parity.compare({len(pixels): logits}, parent.golden.logits, manifest.calibration)
    again.hold(parity.GATES["fp32"], f"{parent.path}, against the golden logits that it was written with")
    model = export_onnx(module.deployed(), manifest.preprocess, opset=opset, parent=parent.digest, labels=manifest.labels)
    prove(model, pixels, logits, parent).hold(parity.GATES["fp32"], f"{parent.path} exported in fp32")
    return _Float(model, logits)


def _lowered(config: ExportConfig, target: Target, parent: Artifact, data: Index | None, model: onnx.ModelProto) -> Lowered:
    """`model` in the precision asked for, with the target's opset and within its rules."""
    options = QuantizeOptions(
        ranges=config.ranges, percentile=config.percentile, bias_correction=config.bias_correction, mixed=config.mixed
    )
    images = None if config.precision == "fp32" else _images(config, parent, data, options)
    lowered = lower(model, config.precision, target, images, options)
    return replace(lowered, notes=(*lowered.notes, *linted(lowered.model, target)))


def _images(config: ExportConfig, parent: Artifact, data: Index | None, options: QuantizeOptions) -> Images:
    if data is None:
        what = "INT8 ranges are found" if config.precision == "int8" else "what FP16 would overflow is found"
        raise DataError(f"{what} on real images: give --data, a data set with a ranges split")
    held_out = config.held_out if config.precision == "int8" and options.judges else 0
    sample = take_sample(data, config.images, few=_FEW, held_out=held_out, seed=config.seed)
    return sample.images(parent.manifest.preprocess, parent.manifest.calibration.verdict)


def _manifest(made: Made, parent: Artifact, measured: Parity) -> Manifest:
    before, lowered = parent.manifest, made.lowered
    quantization = {} if lowered.figures is None else {"quantization": lowered.figures}
    return Manifest(
        kind="onnx",
        stage=made.stage,
        detector=before.detector,
        structure=before.structure,
        preprocess=before.preprocess,
        labels=before.labels,
        calibration=before.calibration,
        gates=made.gates,
        metrics={"parity": measured.figures, **quantization, **made.figures},
        notes=lowered.notes,
        seed=made.seed,
        config=msgspec.to_builtins(made.config),
        lineage=parent.lineage_for_child(),
        graphs=(_graph(made),),
        tools=artifacts.tool_versions("onnx", "onnxscript", "torch"),
    )


def _graph(made: Made) -> Graph:
    model = made.lowered.model
    value = model.graph.input[0]
    shape: list[int | str] = [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
    return Graph(
        file=MODEL,
        inputs={value.name: shape},
        outputs=[output.name for output in model.graph.output],
        opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        precision=made.precision,
        target=made.target.name,
    )
