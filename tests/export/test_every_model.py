"""Every detector in INT8 for the RTX 3090 through the export stage: linted, held against parity, compiled for sm_86.

Weights are untrained. Networks that take any size are exported at a small one: what is quantized and how kernels are called
does not depend on it; benchmarks/zoo.py measures all of them at their own.
"""

from pathlib import Path

import msgspec
import onnx
import pytest

pytest.importorskip("torch")

import torch
from small_networks import small

from edgedet import models
from edgedet.artifact import Artifact, DetectorSpec
from edgedet.data.index import Index
from edgedet.errors import ExportError
from edgedet.export import compile as compiler
from edgedet.export.anchor import as_ranges, untrained
from edgedet.export.parity import ParityGate
from edgedet.export.stage import ExportConfig, run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not compiler.available(), reason="TensorRT-RTX is not installed")]

STRESS = ParityGate(mean_relative=0.5)
"""Random weights have no verdict to keep, and RAM-Net's gates make 0.29 of rounding; what is broken is far beyond this."""

SIDES = {
    "ladeda": 48,
    "ram-net": 128,
    "ram-net-sequential": 128,
    "ram-net-channel": 128,
    "ram-net-spatial": 128,
    "ram-net-noresidual": 128,
    "resnet50-bnn": 128,
    "timm/vit_small_patch16_224": 224,
    "timm/swin_tiny_patch4_window7_224": 224,
}
"""Others than 96: LaDeDa computes as much at 48 pixels as ResNet-50 at 96, and some transformers are made for one size. The
Bayesian layer starts with large weights, and RAM-Net's gates multiply errors: behind maps of 3x3, float32 rounds their logits
to the parity gate's 1e-4 of their scale."""

_VIT, _SWIN = {"depth": 2, "width": 128}, {"depths": [2, 1, 1, 1]}
ARGUMENTS = {
    "cvt13-mlp": {"depths": [1, 1, 1]},
    "swin-tiny": _SWIN,
    "swin-tiny-mlp": _SWIN,
    "vit-b16-cnn": _VIT,
    "vit-b16-mlp": _VIT,
    "vit-small": _VIT,
    "vit-small-384": _VIT,
}
"""Blocks that are alike once or twice, not twelve times; docs/LOG.md has the figures of the whole networks."""

NARROW = ("cifake-cnn", "cifake-cnn-srm", "ladeda-tiny")

EXPECTED = {
    "cifake-cnn": (1, 2),
    "cifake-cnn-srm": (1, 2),
    "cvit-compact": (1, 1),
    "cvit-conv": (17, 17),
    "cvt13-mlp": (12, 12),
    "edge224": (17, 17),
    "edge32": (6, 6),
    "edge32-teacher": (16, 16),
    "efficientnet-lite0": (49, 49),
    "effnetv2-b0-attention": (59, 91),
    "gram-net": (38, 38),
    "ladeda": (54, 54),
    "ladeda-tiny": (1, 4),
    "mobilenetv4-small": (46, 46),
    "mobileone-edge": (21, 21),
    "npr": (24, 24),
    "npr-channel": (24, 32),
    "npr-final": (24, 32),
    "npr-multiscale": (24, 24),
    "npr-spatial": (24, 26),
    "npr-student": (5, 5),
    "ram-net": (53, 83),
    "ram-net-channel": (53, 73),
    "ram-net-noresidual": (53, 83),
    "ram-net-sequential": (53, 83),
    "ram-net-spatial": (53, 63),
    "repvgg-edge": (9, 9),
    "resnet101": (104, 104),
    "resnet50": (53, 53),
    "safe": (24, 25),
    "resnet50-bnn": (53, 53),
    "resnet50-sa-bnn": (53, 54),
    "spai-tiny": (1, 1),
    "swin-tiny": (1, 1),
    "swin-tiny-mlp": (1, 1),
    "timm/efficientnet_lite0": (49, 49),
    "timm/legacy_xception": (74, 74),
    "timm/mobilenetv4_conv_small": (46, 46),
    "timm/resnet101": (104, 104),
    "timm/swin_tiny_patch4_window7_224": (1, 1),
    "timm/tf_efficientnetv2_b0": (59, 91),
    "timm/vit_small_patch16_224": (1, 1),
    "vit-b16-cnn": (3, 3),
    "vit-b16-mlp": (1, 1),
    "vit-small": (1, 1),
    "vit-small-384": (1, 1),
    "xception": (74, 74),
}
"""Convolutions that read Int8, of all; the others are gates, or narrower than the kernels' tiles."""

PRODUCTS = {
    "cvt13-mlp": (18, 18),
    "effnetv2-b0-attention": (1, 2),
    "swin-tiny": (23, 23),
    "swin-tiny-mlp": (23, 23),
    "timm/swin_tiny_patch4_window7_224": (51, 51),
    "timm/vit_small_patch16_224": (48, 48),
    "vit-b16-cnn": (8, 8),
    "vit-b16-mlp": (8, 8),
    "vit-small": (8, 8),
    "vit-small-384": (8, 8),
}
"""Kernels of matrix products that read Int8, and products that were quantized: the linear layers around attention's cores.
Queries and keys that read the same tokens may share a kernel."""

NOT_HERE = {"edgenet", "spai"}
"""The general form of the edge networks; and what `spai-tiny` stands for, which is compiled by hand: it takes minutes."""


@pytest.fixture(autouse=True)
def two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return as_ranges(tmp_path_factory.mktemp("photographs"))


def exported(name: str, data: Index, folder: Path) -> Artifact:
    """As `edgedet export --int8 --target rtx-3090` makes it."""
    published = models.lookup(name).preprocess
    spec, side = small(name, SIDES.get(name, 96))
    spec = DetectorSpec(name=name, arguments={**spec.arguments, **ARGUMENTS.get(name, {})})
    preprocess = msgspec.structs.replace(published, height=side, width=side)
    checkpoint = untrained(folder / "checkpoint", spec, preprocess, golden=4)
    config = ExportConfig(target="rtx-3090", precision="int8", ranges="minmax", images=8, parity=STRESS)
    return run(config, checkpoint, data, folder / "int8", assessed=False)


def quantized(model: onnx.ModelProto, *kinds: str) -> list[str]:
    """The nodes of these operators that read a DequantizeLinear."""
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return [node.name for node in model.graph.node if node.op_type in kinds and node.input[0] in dequantized]


def test_every_detector_of_the_table_is_here() -> None:
    assert set(models.DETECTORS) - NOT_HERE <= set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_quantized_convolution_reads_int8(name: str, data: Index, tmp_path: Path) -> None:
    child = exported(name, data, tmp_path)
    found, model = child.manifest.metrics["compiled"], onnx.load(child.graph)
    convolutions = quantized(model, "Conv")
    assert (found["int8_convolutions"], len(convolutions)) == (EXPECTED[name][0],) * 2
    assert sum(node.op_type == "Conv" for node in model.graph.node) == EXPECTED[name][1]
    assert found["kernels_in"]["Int8"] >= len(convolutions)
    if name in PRODUCTS:
        assert (found["int8_products"], len(quantized(model, "MatMul", "Gemm"))) == PRODUCTS[name]
    known = models.lookup(name).int8_notes
    assert [note for note in child.manifest.notes if " in INT8: " in note] == ([f"{name} in INT8: {known}"] if known else [])
    # Six channels between the CIFAKE network's convolutions are no multiple of eight, Tiny-LaDeDa's eight fill no tile; nothing
    # else breaks a rule.
    lint = [note for note in child.manifest.notes if note.startswith("lint")]
    assert [note.split(":")[0] for note in lint] == (["lint, padded-channels"] if name in NARROW else [])


def test_a_graph_of_which_only_the_weights_are_quantized_is_refused(data: Index, tmp_path: Path) -> None:
    child = exported("edge32", data, tmp_path)
    model = onnx.load(child.graph)
    convolutions = quantized(model, "Conv")
    makers = {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        if node.name in convolutions:
            node.input[0] = makers[makers[node.input[0]].input[0]].input[0]
    pairs = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(pairs) == len(convolutions)
    # The pixels are in float32 and reach the first convolution through no pair any more.
    first = next(node for node in model.graph.node if node.name == convolutions[0])
    model.graph.node.insert(
        list(model.graph.node).index(first),
        onnx.helper.make_node("Cast", [first.input[0]], ["pixels_half"], name="pixels_half", to=onnx.TensorProto.FLOAT16),
    )
    first.input[0] = "pixels_half"
    onnx.save(model, tmp_path / "weights.onnx")
    found = compiler.compile_ahead(tmp_path / "weights.onnx", size=(32, 32))
    assert sum(found.convolutions.values()) == 0
    with pytest.raises(ExportError, match="6 of 6 quantized convolutions do not read Int8"):
        found.require_int8(convolutions)
