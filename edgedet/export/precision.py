"""A full-precision graph in the precision and the form that a target takes.

=========  ===========================  ======================================================
precision  TensorRT up to 10.11         TensorRT from 10.12 on, TensorRT-RTX
=========  ===========================  ======================================================
INT8       Q/DQ, FP32 around, opset 18  Q/DQ with half-precision scales, FP16 around, opset 20
FP16       FP16 in the graph, opset 18  FP16 in the graph, opset 20
=========  ===========================  ======================================================

The older ones make FP16 of the FP32 around the INT8 by a builder flag; the newer ones have no such flag, and run every node in
the precision that the graph gives it (:mod:`edgedet.quantize.half`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import onnx

from edgedet.artifact import Figures
from edgedet.errors import ExportError
from edgedet.export.lint import Finding, lint
from edgedet.quantize.graph import Array
from edgedet.quantize.half import find_magnitudes, to_half
from edgedet.quantize.model import quantize
from edgedet.quantize.sample import Images
from edgedet.quantize.search import QuantizeOptions
from edgedet.target import Precision, Target

_SHOWN = 3


@dataclass(frozen=True)
class Lowered:
    """The graph, what is to be said about it, and what was decided on the way.

    convolutions: the names of the nodes that are meant to run on INT8 kernels.
    floats, weight_bits: of INT8, what training it takes, see `edgedet.quantize.model.Quantized`.
    """

    model: onnx.ModelProto
    notes: tuple[str, ...] = ()
    convolutions: tuple[str, ...] = ()
    figures: Figures | None = None
    floats: Mapping[str, Array] = field(default_factory=dict)
    weight_bits: int = 8


def lower(
    model: onnx.ModelProto, precision: Precision, target: Target, images: Images | None, options: QuantizeOptions
) -> Lowered:
    """`model`, in FP32, in `precision` for `target`.

    images: of the ranges split; they may be missing for fp32 only.

    Raises:
        QuantizeError: nothing can be quantized, or a tensor is not finite on the images.
    """
    if precision == "fp32":
        return Lowered(model)
    assert images is not None
    done = Lowered(model)
    if precision == "int8":
        found = quantize(model, target, images, options)
        done = Lowered(found.model, found.notes, found.convolutions, found.figures, found.floats, found.weight_bits)
    if precision == "fp16" or target.strongly_typed:
        # A part of the images is enough: the limit is a 128th of where half ends.
        half = to_half(done.model, find_magnitudes(model, images.few or images.ranges))
        done = replace(done, model=half.model, notes=(*done.notes, *half.notes))
    return done


def linted(model: onnx.ModelProto, target: Target) -> tuple[str, ...]:
    """A note for each rule that `model` breaks at the cost of speed; nothing for a target that does not run TensorRT.

    Raises:
        ExportError: TensorRT would refuse the graph; names the first nodes, the reasons and what mends them.
    """
    if target.runtime != "tensorrt":
        return ()
    findings = lint(model, target)
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        said = "; ".join(f"{each.node}: {each.why} ({each.mend})" for each in errors[:_SHOWN])
        raise ExportError(f"TensorRT would refuse the graph for {target.name}, {len(errors)} findings: {said}")
    by_rule: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_rule[finding.rule].append(finding)
    return tuple(map(_note, by_rule.values()))


def _note(findings: list[Finding]) -> str:
    first, others = findings[0], len(findings) - 1
    return f"lint, {first.rule}: {first.node}{f' and {others} more' if others else ''}: {first.why}; {first.mend}"
