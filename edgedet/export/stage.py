"""The export stage: a checkpoint becomes the graph that a device runs, proven against its parent before it is written."""

from __future__ import annotations

import io
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import onnx
from PIL import Image

from edgedet import artifact as artifacts
from edgedet import target as targets
from edgedet.artifact import GOLDEN, Ancestor, Artifact, Figures, Gate, Golden, Manifest
from edgedet.data.index import Index
from edgedet.data.parallel import usable_cores
from edgedet.errors import ArtifactError, DataError, ExportError
from edgedet.evaluate.assess import assess, carry_over
from edgedet.export import compile as compiler
from edgedet.export import maps as export_maps
from edgedet.export import parity
from edgedet.export.graphs import FILES, Graphs
from edgedet.export.maps import Maps
from edgedet.export.parity import Logits, Parity, ParityGate
from edgedet.export.precision import Lowered, linted, lower
from edgedet.preprocess import Pixels, Preprocess
from edgedet.quantize.ranges import Method
from edgedet.quantize.sample import Images, take_sample
from edgedet.quantize.search import QuantizeOptions
from edgedet.quantize.sensitivity import MixedGate
from edgedet.quantize.session import opened
from edgedet.recipe import Config
from edgedet.runtime.base import LOGIT, Options
from edgedet.target import Precision, Target

_FEW = 128
"""Images that biases are corrected on, which takes a pass for each layer."""


class ExportConfig(Config, frozen=True, kw_only=True):
    """What to make of a checkpoint.

    ranges, percentile, bias_correction, mixed: of INT8, see `edgedet.quantize.search.QuantizeOptions`.
    images: of the ranges split that INT8 ranges, and what FP16 would overflow, are found on.
    held_out: more of them, on which nothing is found, to decide by where something is to be tried.
    opset: of the graph; None is the target's.
    patches: two graphs of a network that reads patches, for images of any size, instead of one for the size that it was
        trained on; see `edgedet.models.patchwise`. A parent of two graphs is written as two.
    maps: whether the graph gives its heat-maps, and what else the network gives, behind the logit: `edgedet.models.maps`. A
        graph as parent keeps what it gives.
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
    patches: bool = False
    maps: bool = False
    parity: ParityGate | None = None
    gates: tuple[Gate, ...] | None = None
    seed: int = 0


@dataclass(frozen=True)
class _Float:
    """The full-precision graphs, and the parent's logits (N,) on its golden inputs, computed again here.

    preprocess: the graphs', which is not the parent's where two are made of one network.
    maps: what they give on the golden inputs besides the logit.
    """

    graphs: Graphs
    parent_logits: Logits
    preprocess: Preprocess
    figures: Figures = field(default_factory=dict)
    maps: Maps = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """A graph that is proven and then written.

    expected: logits (N,) that it must give on its parent's golden inputs, as far as `limits` say.
    stage, config, teachers, figures: for the manifest; files: copied into the artifact.
    maps: what the graph gives besides in full precision; how like its own are is for the manifest.
    aggregator: behind the graph when that is an encoder of patches; preprocess: when it is not the parent's.
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
    teachers: tuple[Ancestor, ...] = ()
    files: tuple[Path, ...] = ()
    maps: Maps = field(default_factory=dict)
    aggregator: onnx.ModelProto | None = None
    preprocess: Preprocess | None = None

    @property
    def graphs(self) -> Graphs:
        """What is written."""
        return Graphs(self.lowered.model, self.aggregator)


def run(config: ExportConfig, parent: Artifact, data: Index | None, out: Path, *, assessed: bool = True) -> Artifact:
    """Write `parent` as a graph for ``config.target`` at `out`.

    With `data`, thresholds are fitted again on its validation split and the gates are measured; INT8 and FP16 need it, for
    ranges. Without it, or with `assessed` false, the calibration and the figures are the parent's, and a note says so.

    Raises:
        ExportError: the target does not take this precision, or the graph is not what was promised, breaks a rule of TensorRT's
            or does not compile.
        ParityError: its logits on the golden inputs are too far from the parent's; Collapsed, where they rank nothing.
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
    lowered = _lowered(config, target, parent, data, source)
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
        figures=source.figures,
        maps=source.maps,
        aggregator=source.graphs.aggregator,
        preprocess=source.preprocess,
    )


def write(made: Made, parent: Artifact, data: Index | None, out: Path) -> Artifact:
    """Prove `made` and write it at `out`, assessed on the validation split of `data`, or with its parent's figures.

    Raises:
        ParityError: its logits on the golden inputs are too far from those expected.
        ExportError: it does not compile for the target, or not as promised.
        ArtifactError: `out` exists.
    """
    golden = parent.golden
    measured = prove(made.graphs, golden.pixels, made.expected, parent)
    what = f"{parent.path} in {made.precision}"
    if made.stage == "export":
        measured.hold_lowered(made.limits, what, made.precision)
    else:  # a graph that was trained is held against what was trained, not against its parent
        measured.hold(made.limits, what)
    if made.maps:
        likeness = export_maps.likeness(export_maps.further(made.lowered.model, golden.pixels), made.maps)
        made = replace(made, figures={**made.figures, "maps": likeness})
    images = golden.images if made.preprocess in (None, parent.manifest.preprocess) else _encoded(golden.pixels)
    with artifacts.writing(out) as draft:
        made.graphs.save(draft.path)
        Golden(images, golden.pixels, made.expected, measured.logits).save(draft.path / GOLDEN)
        for path in made.files:
            shutil.copy(path, draft.path)
        draft.manifest = _with_evidence(_manifest(made, parent, measured), draft.path, made)
        if data is not None:
            draft.manifest = assess(draft, data, parent=parent)
        else:
            draft.manifest = carry_over(draft, parent)
    return Artifact.load(out)


def prove(graphs: Graphs, pixels: Pixels, parent_logits: Logits, parent: Artifact) -> Parity:
    """Run `graphs` on the golden `pixels` under ONNX Runtime and compare with the parent's logits (N,)."""
    with tempfile.TemporaryDirectory() as folder:
        runtime = graphs.opened(Path(folder), Options(threads=usable_cores(), spin=False))
        try:
            return parity.measure(lambda batch: runtime.run(batch)[LOGIT], pixels, parent_logits, parent.manifest.calibration)
        finally:
            runtime.close()


def _encoded(pixels: Pixels) -> tuple[bytes, ...]:
    """As files that a preprocessing which takes images as they are gives back; of uint8 (N, H, W, 3)."""
    files = [io.BytesIO() for _ in pixels]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file, "PNG")
    return tuple(file.getvalue() for file in files)


def _with_evidence(manifest: Manifest, folder: Path, made: Made) -> Manifest:
    """For an NVIDIA GPU: each graph compiled ahead of time, every convolution that was quantized reading Int8."""
    target = made.target
    if not target.compiles_for:
        return manifest
    if not compiler.available():
        note = "not compiled ahead of time: TensorRT-RTX is not installed (pip install 'edgedet[compile]')"
        return msgspec.structs.replace(manifest, notes=(*manifest.notes, note))
    size = (manifest.preprocess.height, manifest.preprocess.width)
    paths = [folder / FILES[role] for role in made.graphs.by_role]
    compiled = [compiler.compile_ahead(path, capability=target.compiles_for, size=size) for path in paths]
    compiled[0].require_int8(made.lowered.convolutions)
    figures = dict(zip(("compiled", "compiled_aggregator"), (each.figures for each in compiled), strict=False))
    return msgspec.structs.replace(manifest, metrics={**manifest.metrics, **figures})


def _require_precision(config: ExportConfig, target: Target) -> None:
    if config.precision not in target.precisions:
        raise ExportError(
            f"{target.name} ({target.device}) takes {' or '.join(target.precisions)}, not {config.precision}: "
            "choose one of them, or another --target"
        )


def _float_graph(config: ExportConfig, target: Target, parent: Artifact, pixels: Pixels) -> _Float:
    """The parent in FP32: exported from its checkpoint, or its own graph. Its golden logits must come out again."""
    if parent.manifest.kind == "checkpoint":
        return _from_checkpoint(config, parent, pixels, config.opset or target.opset)
    parent.require("onnx")
    if config.patches and not parent.is_patchwise:
        raise ArtifactError(f"{parent.path}: is one graph for whole images: make two of its checkpoint")
    if config.maps and parent.manifest.graphs[0].outputs[1:] == []:
        raise ArtifactError(f"{parent.path}: is a graph that gives nothing but the logit: export its checkpoint with --maps")
    graph = parent.manifest.graphs[0]
    if graph.precision != "fp32":
        raise ArtifactError(f"{parent.path}: is in {graph.precision} already: export from the checkpoint or its FP32 graph")
    if graph.opset != (config.opset or target.opset):
        raise ArtifactError(
            f"{parent.path}: is a graph of opset {graph.opset}, {target.name} takes {config.opset or target.opset}: "
            "export from the checkpoint"
        )
    graphs = Graphs.load(parent)
    measured = prove(graphs, pixels, parent.golden.logits, parent)
    measured.hold(parity.GATES["fp32"], f"{parent.path}, against the golden logits that it was written with")
    maps = {} if parent.is_patchwise else export_maps.further(graphs.model, pixels)
    return _Float(graphs, measured.logits, parent.manifest.preprocess, maps=maps)


def _from_checkpoint(config: ExportConfig, parent: Artifact, pixels: Pixels, opset: int) -> _Float:
    import torch

    from edgedet import models
    from edgedet.export import patchwise
    from edgedet.export.onnx import export_onnx

    manifest, module = parent.manifest, models.build(parent)
    if manifest.preprocess.patch is not None and not config.patches:
        raise ExportError(f"{parent.path}: takes images of any size, one graph takes those of one: add patches=true")
    with torch.inference_mode():
        logits: Logits = module(torch.from_numpy(pixels)).float().numpy()
    again = parity.compare({len(pixels): logits}, parent.golden.logits, manifest.calibration)
    again.hold(parity.GATES["fp32"], f"{parent.path}, against the golden logits that it was written with")
    if config.patches and config.maps:
        raise ExportError(f"{parent.path}: two graphs give the logit alone: leave out patches=true or --maps")
    if config.maps:
        model, maps = export_maps.export(module.deployed(), parent, pixels, opset)
        source = _Float(Graphs(model), logits, manifest.preprocess, maps=maps)
    elif config.patches:
        graphs, preprocess, parts = patchwise.export(module.deployed(), parent, pixels, opset)
        source = _Float(graphs, logits, preprocess, {"parts": parts})
    else:
        preprocess, labels = manifest.preprocess, manifest.labels
        model = export_onnx(module.deployed(), preprocess, opset=opset, parent=parent.digest, labels=labels)
        source = _Float(Graphs(model), logits, preprocess)
    prove(source.graphs, pixels, logits, parent).hold(parity.GATES["fp32"], f"{parent.path} exported in fp32")
    return source


def _lowered(config: ExportConfig, target: Target, parent: Artifact, data: Index | None, source: _Float) -> Lowered:
    """The graph of `source` that takes pixels, in the precision asked for, with the target's opset and within its rules."""
    options = QuantizeOptions(
        ranges=config.ranges, percentile=config.percentile, bias_correction=config.bias_correction, mixed=config.mixed
    )
    images = None if config.precision == "fp32" else _images(config, parent, data, options, source)
    lowered = lower(source.graphs.model, config.precision, target, images, options)
    made = Graphs(lowered.model, source.graphs.aggregator)
    lint = (note for model in made.by_role.values() for note in linted(model, target))
    behind = ("the aggregator is in fp32: it sees an image once",) if images is not None and made.aggregator else ()
    return replace(lowered, notes=(*lowered.notes, *behind, *_known(config, parent), *lint))


def _known(config: ExportConfig, parent: Artifact) -> tuple[str, ...]:
    """What the table of detectors says of this one in INT8."""
    if config.precision != "int8" or parent.manifest.kind != "checkpoint":
        return ()
    from edgedet import models

    name = parent.manifest.detector.name
    said = models.lookup(name).int8_notes
    return (f"{name} in INT8: {said}",) if said else ()


def _images(
    config: ExportConfig, parent: Artifact, data: Index | None, options: QuantizeOptions, source: _Float
) -> Images:
    if data is None:
        what = "INT8 ranges are found" if config.precision == "int8" else "what FP16 would overflow is found"
        raise DataError(f"{what} on real images: give --data, a data set with a ranges split")
    held_out = config.held_out if config.precision == "int8" and options.judges else 0
    sample = take_sample(data, config.images, few=_FEW, held_out=held_out, seed=config.seed)
    images = sample.images(source.preprocess, parent.manifest.calibration.verdict)
    if source.graphs.aggregator is None or source.graphs.patch is None:
        return images
    aggregate = opened(source.graphs.aggregator)
    return images.in_patches(source.graphs.patch, lambda features: aggregate(features[None])[0])


def _manifest(made: Made, parent: Artifact, measured: Parity) -> Manifest:
    before, lowered = parent.manifest, made.lowered
    quantization = {} if lowered.figures is None else {"quantization": lowered.figures}
    return Manifest(
        kind="onnx",
        stage=made.stage,
        detector=before.detector,
        structure=before.structure,
        preprocess=made.preprocess or before.preprocess,
        labels=before.labels,
        calibration=before.calibration,
        gates=made.gates,
        metrics={"parity": measured.figures, **quantization, **made.figures},
        notes=lowered.notes,
        seed=made.seed,
        config=msgspec.to_builtins(made.config),
        lineage=parent.lineage_for_child(),
        teachers=made.teachers,
        graphs=made.graphs.described(made.precision, made.target),
        tools=artifacts.tool_versions("onnx", "onnxscript", "torch"),
    )
