"""Quantization-aware training as a stage: a checkpoint in, its INT8 graph with weights that learned to be rounded out.

The graph that is trained is the one that `edgedet export --int8` would write for the target: its Q/DQ pairs, its folded
BatchNorms, its half precision. It learns from its own full-precision parent, and what it learned is written back into the graph
(:class:`edgedet.compress.graph_module.GraphModule`), which is proven against the forward pass that was trained.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018,
section 3; scales are learned as by Esser et al., "Learned Step Size Quantization", ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import torch

from edgedet import artifact as artifacts
from edgedet.artifact import Artifact, Calibration, Figures, Gate
from edgedet.compress.distillation import Distillation, require_answers
from edgedet.compress.ensemble import besides, consult, require_ensemble
from edgedet.compress.graph_module import GraphModule
from edgedet.compress.listener import Listener
from edgedet.compress.teacher import Answers
from edgedet.data.dataset import ImageSet
from edgedet.data.index import Index
from edgedet.errors import ExportError, ParityError
from edgedet.evaluate.assess import inherited, require_assessable
from edgedet.export import stage as export
from edgedet.export.parity import ParityGate
from edgedet.export.precision import linted
from edgedet.export.stage import ExportConfig, Made
from edgedet.quantize.ranges import Method
from edgedet.quantize.session import opened
from edgedet.recipe import Config
from edgedet.training import stage
from edgedet.training.config import TrainingConfig
from edgedet.training.distributed import group

LARGEST_DIFFERENCE = 0.05
"""In logits: how far the written graph may be from the forward pass that was trained; on the mean, in half precision.

Integers add up the same everywhere, but of sums in float32 the last bit depends on their order, and where it turns a rounding
to half precision, two runs of one graph go apart: in a deep network by a tenth of a logit, seldom by more.
"""

_BATCH = 64
_COMPARED = 1000
"""Validation images on which both are compared; fewer where the split is smaller."""

_NO_LIMIT = ParityGate()
Logits = npt.NDArray[np.float32]


class QatRecipe(Config, frozen=True, kw_only=True):
    """``stage = "qat"``: how training starts from INT8 after training, and how it goes on.

    ranges: how the ranges that training starts from are found; ``auto`` tries all four on held-out images.
    images: of the ranges split that they are found on.
    held_out: more of them, to choose by.
    learn_scales: the scales of activations are trained too.
    training: mixed precision is off, because float32 holds the sums of integers exactly; BatchNorms are folded. Augmentation as
        for ``distill``; of two views the predictions are held together.
    distillation: from the parent; there are no embeddings to match.
    gates: what the artifact and all its descendants must hold, besides the parent's.
    """

    stage: Literal["qat"]
    ranges: Method | Literal["auto"] = "auto"
    images: Annotated[int, msgspec.Meta(ge=1)] = 512
    held_out: Annotated[int, msgspec.Meta(ge=1)] = 256
    learn_scales: bool = True
    training: TrainingConfig = TrainingConfig(epochs=3, lr=5e-5, amp=False)
    distillation: Distillation = Distillation(temperature=8.0, logit_weight=1.0)
    gates: tuple[Gate, ...] = ()

    def __post_init__(self) -> None:
        if self.training.amp:
            raise ValueError("`training.amp` must be false: bfloat16 would round what the device adds up exactly")
        if inner := self.distillation.inner:
            raise ValueError(f"`distillation.{inner[0]}` must be 0: a graph has no embeddings to match")
        if self.distillation.patch_weight:
            raise ValueError("`distillation.patch_weight` must be 0: a graph has no logits of patches to match")


def run(
    config: QatRecipe,
    parent: Artifact,
    data: Index,
    out: Path,
    *,
    target: str = "host",
    teachers: Sequence[Artifact] = (),
    resume: bool = False,
) -> Artifact:
    """Train the INT8 graph of the checkpoint `parent` for `target`, and write it.

    teachers: whose answers it listens to, the mean of several; the parent's when there are none.

    Raises:
        ArtifactError: `out` exists, or the parent is no checkpoint.
        ExportError: the target has no INT8, or the graph does not compile for it.
        ParityError: the written graph does not give what was trained.
        QuantizeError: an operator of the graph is not known in training; names it.
        TrainingError: the augmentation moves pixels that the teachers were asked about, a teacher is given twice, or an
            unfinished run lies beside `out` and `resume` is not set.
        Interrupted: stopped by a signal; `resume` goes on.
    """
    artifacts.check_free(out)
    stage.check_unfinished(out, resume=resume)
    parent.require("checkpoint")
    guides = tuple(teachers) or (parent,)
    require_ensemble(guides, config.distillation)
    require_answers(config.training, config.distillation)
    require_assessable(inherited(parent, config.gates), data)
    torch.manual_seed(config.training.seed)
    preprocess = parent.manifest.preprocess
    with group() as processes:
        start = _start(config, target)
        made = processes.leader_first(lambda: export.prepare(start, parent, data))
        model = GraphModule(
            made.lowered.model,
            made.lowered.floats,
            weight_bits=made.lowered.weight_bits,
            learn_scales=config.learn_scales,
        )
        answers: Answers = processes.leader_first(
            lambda: consult(guides, data.split("train"), config.distillation, amp=False)
        )
        sets = stage.open_sets(data, preprocess, config.training, processes)
        objective = Listener(model, None, answers, config.training, config.distillation)
        subject = f"{parent.digest} {start!r} learn_scales={config.learn_scales}"
        result = stage.train(objective, config.training, sets, out, processes, resume=resume, title="qat", subject=subject)
        if processes.leads:
            extra = {"best_epoch": result.best_epoch}
            trained = _trained(config, made, model.eval(), parent, sets.val, extra)
            written = replace(trained, files=stage.history(out), teachers=besides(parent, guides))
            export.write(written, parent, data, out)
            stage.clear(out)
        processes.barrier()
    return Artifact.load(out)


def _start(config: QatRecipe, target: str) -> ExportConfig:
    """INT8 after training, from which training goes on: biases are learned, so none is corrected first."""
    return ExportConfig(
        precision="int8",
        target=target,
        ranges=config.ranges,
        images=config.images,
        held_out=config.held_out,
        parity=_NO_LIMIT,
        seed=config.training.seed,
    )


def _trained(
    config: QatRecipe, made: Made, model: GraphModule, parent: Artifact, val: ImageSet, extra: Mapping[str, object]
) -> Made:
    """`made` with what `model` has learned, and the figures that hold the graph against what was trained.

    Raises:
        ParityError: they differ by more than :data:`LARGEST_DIFFERENCE`.
        ExportError: the trained graph is not valid, or breaks a rule of the target's.
    """
    graph = model.write(made.lowered.model)
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the graph with trained weights is not valid ONNX: {error}") from error
    linted(graph, made.target)  # its warnings are among the notes of the start
    figures = compare(graph, model, val, parent.manifest.calibration)
    with torch.inference_mode():
        expected: Logits = model(torch.from_numpy(parent.golden.pixels)).float().numpy()
    said = (
        f"trained with fake quantization; on {figures['n']} images the graph differs from the forward pass that was trained by "
        f"{figures['max_difference']:.2g} logits at most and in {figures['flips']} verdicts"
    )
    before = (f"before training: {note}" for note in made.lowered.notes)
    return replace(
        made,
        lowered=replace(made.lowered, model=graph, notes=(said, *before), figures=None),
        expected=expected,
        limits=ParityGate(mean_relative=LARGEST_DIFFERENCE) if model.in_half else ParityGate(max_relative=LARGEST_DIFFERENCE),
        stage="qat",
        config=config,
        gates=inherited(parent, config.gates),
        figures={"qat": {**figures, "start": made.lowered.figures}, **extra},
    )


def compare(graph: onnx.ModelProto, model: GraphModule, val: ImageSet, calibration: Calibration) -> Figures:
    """The differences in logits between `graph` on ONNX Runtime and `model`, and the verdicts that differ, on part of `val`.

    Raises:
        ParityError: they differ by more than :data:`LARGEST_DIFFERENCE`.
    """
    run, parts = opened(graph), []
    positions = np.linspace(0, len(val) - 1, min(_COMPARED, len(val))).astype(np.int64)
    for start in range(0, len(positions), _BATCH):
        pixels = val.gather(positions[start : start + _BATCH])
        with torch.inference_mode():
            parts.append((model(torch.from_numpy(pixels)).float().numpy(), run(pixels)[0]))
    ours, theirs = (np.concatenate(each) for each in zip(*parts, strict=True))
    differences = np.abs(ours.astype(np.float64) - theirs)
    which, held = ("mean", differences.mean()) if model.in_half else ("largest", differences.max())
    if not held <= LARGEST_DIFFERENCE:
        raise ParityError(
            f"the written graph differs from the trained forward pass: the {which} difference is {held:.3g} logits on "
            f"{len(positions)} images, {LARGEST_DIFFERENCE} is allowed: an operator is computed otherwise in training "
            "(edgedet/compress/operators.py)"
        )
    flips = int((calibration.verdict(ours) != calibration.verdict(theirs)).sum())
    figures = {"max_difference": float(differences.max()), "mean_difference": float(differences.mean())}
    return {**figures, "flips": flips, "n": len(positions)}
