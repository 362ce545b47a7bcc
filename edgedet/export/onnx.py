"""A network to ONNX, through torch's exporter of captured programs (needs torch).

The graph takes uint8 pixels (batch, height, width, 3), normalises inside and gives ``logit`` (batch,) first. A network that
reads patches can be two: an encoder, uint8 patches to ``features`` (patches, features), and an aggregator that takes those of
one image, (1, patches, features), and gives its ``logit`` (1,). What the exporter promises is checked on the file: the opset,
the inputs and outputs, the layout change after the cast, folded BatchNorms.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import onnx
import torch
from onnx import TensorProto
from torch import nn

import edgedet
from edgedet.errors import ExportError
from edgedet.models.patchwise import AggregatorToLogit, EncoderOnPixels, patchwise
from edgedet.models.pixels import PixelModel
from edgedet.patches import FEATURES
from edgedet.preprocess import Preprocess
from edgedet.quantize.front import PREFIX

INPUT, OUTPUT = "pixels", "logit"
_EXAMPLE_BATCH = 2  # torch's exporter makes a constant of a dimension that is 1


@dataclass(frozen=True)
class Form:
    """What a graph must take, one tensor, and give.

    takes, kind, rank: its name, ONNX type and number of axes; free: its axis of any length.
    outputs: the first one has `first_rank` axes.
    """

    takes: str = INPUT
    kind: int = TensorProto.UINT8
    rank: int = 4
    free: int = 0
    outputs: tuple[str, ...] = (OUTPUT,)
    first_rank: int = 1


WHOLE = Form()
ENCODER = Form(outputs=(FEATURES,), first_rank=2)
AGGREGATOR = Form(takes=FEATURES, kind=TensorProto.FLOAT, rank=3, free=1)


def export_onnx(
    module: nn.Module,
    preprocess: Preprocess,
    path: Path | None = None,
    *,
    opset: int,
    parent: str = "",
    labels: Sequence[str] = ("real", "fake"),
    outputs: Sequence[str] = (OUTPUT,),
) -> onnx.ModelProto:
    """The graph of `module` (uint8 (B, H, W, 3) -> (B,), or a tuple that starts with it), written to `path` when given.

    parent: the digest of the artifact that `module` was built from; goes into the file's metadata.
    outputs: the names of the outputs; the logit first.

    Raises:
        ExportError: the network cannot be captured, or the graph is not what was asked for.
    """
    example = torch.zeros(_EXAMPLE_BATCH, preprocess.height, preprocess.width, 3, dtype=torch.uint8)
    free: dict[int, Any] = {0: torch.export.Dim("batch")}
    if preprocess.geometry == "native":
        free |= {1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
    said = metadata(preprocess, parent, labels)
    model = _exported(module, example, free, opset, replace(WHOLE, outputs=tuple(outputs)), said)
    if path is not None:
        onnx.save(model, path)
    return model


def export_patchwise(
    model: PixelModel, preprocess: Preprocess, *, opset: int, parent: str = "", labels: Sequence[str] = ("real", "fake")
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The encoder and the aggregator of a network that reads patches; `preprocess` is that of the two together.

    Raises:
        ExportError: a part cannot be captured, or its graph is not what was asked for.
        ModelError: the network reads whole images.
    """
    said = metadata(preprocess, parent, labels)
    net = patchwise(model)
    pixels = torch.zeros(_EXAMPLE_BATCH, net.side, net.side, 3, dtype=torch.uint8)
    encoder = EncoderOnPixels(net, preprocess).eval()
    with torch.inference_mode():
        features = encoder(pixels)[None]
    some = {0: torch.export.Dim("patches")}
    return (
        _exported(encoder, pixels, some, opset, ENCODER, said),
        _exported(AggregatorToLogit(model), features.clone(), {1: some[0]}, opset, AGGREGATOR, said),
    )


def _exported(
    module: nn.Module, example: torch.Tensor, free: dict[int, Any], opset: int, form: Form, said: Mapping[str, str]
) -> onnx.ModelProto:
    model = _capture(_in_export_form(module.eval()), example, free, opset, form)
    _mark_front_end(model)
    _strip(model)
    for key, value in said.items():
        model.metadata_props.add(key=key, value=value)
    check(model, opset=opset, form=form)
    return model


def metadata(preprocess: Preprocess, parent: str, labels: Sequence[str]) -> Mapping[str, str]:
    """What the file says about itself, so that it is of use without its artifact."""
    return {
        "edgedet.version": edgedet.__version__,
        "edgedet.parent": parent,
        "edgedet.preprocess": msgspec.json.encode(preprocess).decode(),
        "edgedet.labels": ",".join(labels),
    }


def check(model: onnx.ModelProto, *, opset: int, form: Form = WHOLE) -> None:
    """Hold the promises of this module on a graph.

    Raises:
        ExportError: names what is not as it should be.
    """
    found = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if found.get("ai.onnx") != opset:
        raise ExportError(f"asked for opset {opset}, the exporter wrote {found.get('ai.onnx')}: choose another opset")
    value = model.graph.input[0]
    shape = value.type.tensor_type.shape.dim
    if len(model.graph.input) != 1 or (value.type.tensor_type.elem_type, len(shape)) != (form.kind, form.rank):
        kind = TensorProto.DataType.Name(form.kind).lower()
        raise ExportError(f"expected one input of {kind} with {form.rank} axes: wrap the network in a PixelModel")
    if not shape[form.free].dim_param:
        raise ExportError(f"the batch came out fixed at {shape[form.free].dim_value}: the network's forward depends on it")
    names = [output.name for output in model.graph.output]
    rank = len(model.graph.output[0].type.tensor_type.shape.dim)
    if names != list(form.outputs) or rank != form.first_rank:
        expected = f"{', '.join(form.outputs)}, the first with {form.first_rank} axes"
        raise ExportError(f"expected outputs {expected}, got {', '.join(names)}, the first with {rank}")
    _check_nodes(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error


def _check_nodes(model: onnx.ModelProto) -> None:
    producers = {name: node for node in model.graph.node for name in node.output}
    readers = Counter(name for node in model.graph.node for name in set(node.input))
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            before = producers.get(node.input[0])
            # One that others read without the norm keeps it apart, as Gram-Net's stem.
            if before is not None and before.op_type == "Conv" and readers[node.input[0]] == 1:
                raise ExportError(f"{node.name}: a BatchNorm behind a convolution was not folded into it")
        if node.op_type == "Transpose" and node.input[0] == model.graph.input[0].name:
            raise ExportError(f"{node.name}: transposes uint8 pixels, which TensorRT refuses: cast before the transpose")


class _GlobalMean(nn.Module):
    """(B, C, H, W) -> (B, C, 1, 1)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3), keepdim=True)


def _in_export_form(module: nn.Module) -> nn.Module:
    """A copy of `module` whose global average pools are means, and whose attention, where timm has both forms, is PyTorch's.

    torch decomposes ``AdaptiveAvgPool2d(1)`` into a mean and a strided view, which comes out as a dozen index operators. Of
    attention that is written out (as timm's Swin has it), TensorRT's compiler moves the split into queries, keys and values
    into the weights of their one product, which then runs in half precision and not in INT8.
    """
    plain = copy.deepcopy(module)
    for parent in list(plain.modules()):
        if isinstance(getattr(parent, "fused_attn", None), bool):
            setattr(parent, "fused_attn", True)  # noqa: B010  # no attribute of every module
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1)):
                setattr(parent, name, _GlobalMean())
    return plain


def _capture(module: nn.Module, example: torch.Tensor, free: dict[int, Any], opset: int, form: Form) -> onnx.ModelProto:
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                input_names=[form.takes],
                output_names=list(form.outputs),
                dynamic_shapes=(free,),
                opset_version=opset,
                external_data=False,
            )
    except Exception as error:  # torch raises many kinds, with pages of text: the first line says what
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"torch cannot capture this network: {type(error).__name__}: {reason[0]}") from error
    assert program is not None
    return program.model_proto


def _mark_front_end(model: onnx.ModelProto) -> None:
    """Say in their names which nodes stem from a module called ``front_end``, in place: no precision below FP32 takes them."""
    for node in model.graph.node:
        scopes = "".join(entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes")
        if re.search(r"\bfront_end\b", scopes):
            node.name = f"{PREFIX}{node.name}"


def _strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes, which hold the stack traces and file paths of this machine, in place."""
    graph = model.graph
    model.producer_name, model.producer_version, model.doc_string = "edgedet", edgedet.__version__, ""
    graph.name, graph.doc_string = "edgedet", ""
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its steps and warns about its own internals; what matters is checked on the graph."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)
