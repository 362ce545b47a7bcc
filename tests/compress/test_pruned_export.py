"""A pruned detector goes on to every target as an unpruned one does: exported, quantized, linted, compiled for sm_86."""

import msgspec
import onnx
import pytest
import torch

from edgedet import models
from edgedet.artifact import Artifact, DetectorSpec
from edgedet.compress import prune
from edgedet.compress.prune import PruneRecipe
from edgedet.data.index import Index
from edgedet.export import compile as compiler
from edgedet.export.anchor import as_ranges, untrained
from edgedet.export.parity import ParityGate
from edgedet.export.stage import ExportConfig, run
from edgedet.models.macs import macs

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not compiler.available(), reason="TensorRT-RTX is not installed")]

SMALL = [
    ("timm/vit_tiny_patch16_224", 64, {"img_size": 64, "depth": 3}),
    ("timm/swin_tiny_patch4_window7_224", 56, {"img_size": 56, "depths": [2, 2], "num_heads": [3, 6]}),
    ("timm/mobilenetv4_conv_small", 64, {}),
]
RECIPE = PruneRecipe(stage="prune", keep=0.7, dims=("channels", "mlp", "heads", "embedding"), round_to=16)


@pytest.fixture(autouse=True)
def two_threads():
    torch.set_num_threads(2)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Index:
    return as_ranges(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module", params=SMALL, ids=lambda row: row[0])
def pruned(request, tmp_path_factory) -> Artifact:
    name, side, arguments = request.param
    preprocess = msgspec.structs.replace(models.lookup(name).preprocess, height=side, width=side)

    def narrow(model):
        whole = macs(model)
        prune.narrow(model.eval(), name, RECIPE, lambda candidate: macs(candidate) <= RECIPE.keep * whole)

    spec = DetectorSpec(name=name, arguments=arguments)
    return untrained(tmp_path_factory.mktemp("pruned") / "pruned", spec, preprocess, golden=4, change=narrow)


@pytest.mark.parametrize("target", ["cpu-x86", "rtx-3090"])
def test_it_is_exported_quantized_and_compiled(pruned, data, target, tmp_path):
    assert pruned.manifest.structure
    run(ExportConfig(target=target), pruned, None, tmp_path / "fp32", assessed=False)
    config = ExportConfig(
        target=target, precision="int8", ranges="minmax", images=8, parity=ParityGate(mean_relative=0.5), gates=()
    )
    child = run(config, pruned, data, tmp_path / "int8", assessed=False)
    quantized = {node.op_type for node in onnx.load(child.graph).graph.node}
    assert "DequantizeLinear" in quantized
    assert not [note for note in child.manifest.notes if note.startswith("lint")]
    if target == "rtx-3090":
        assert child.manifest.metrics["compiled"]["kernels_in"]["Int8"] > 0
