import copy
import functools

import pytest
import torch
from torch import nn

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.compress import prune
from edgedet.compress.prune import PruneRecipe
from edgedet.errors import ModelError
from edgedet.export.onnx import export_onnx
from edgedet.models.macs import macs
from edgedet.models.pixels import PixelModel
from edgedet.models.reparam import Subsampling, mobileone_edge, repvgg_edge
from edgedet.models.structure import count_parameters
from edgedet.preprocess import Preprocess

NAMES = ("repvgg-edge", "mobileone-edge")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@functools.cache
def settled(name: str) -> PixelModel:
    """A network whose BatchNorms differ, as training makes them."""
    torch.manual_seed(0)
    model = PixelModel(models.create(DetectorSpec(name=name)), models.lookup(name).preprocess)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)
            norm.momentum = None
    with torch.no_grad():
        model.train()(torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8))
    return model.eval()


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize(
    ("name", "training", "deployed", "mmacs"),
    [("repvgg-edge", 890_849, 798_689, 175.2), ("mobileone-edge", 1_137_937, 280_433, 74.1)],
)
def test_sizes_in_training_and_on_the_device(name, training, deployed, mmacs):
    with torch.device("meta"):
        model = PixelModel(models.create(DetectorSpec(name=name)), models.lookup(name).preprocess)
    assert count_parameters(model) == training
    assert count_parameters(model.deployed()) == deployed
    assert macs(model) == macs(model.deployed())
    assert macs(model) / 1e6 == pytest.approx(mmacs, abs=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_the_deployed_network_has_one_convolution_a_block_and_the_same_logits(name):
    model = settled(name)
    branches = len(convolutions(model))
    deployed = model.deployed()
    assert not [module for module in deployed.modules() if isinstance(module, nn.BatchNorm2d)]
    blocks = 1 + sum(len(stage) for stage in deployed.net.stages)
    assert len(convolutions(deployed)) == blocks < branches
    assert len(convolutions(model)) == branches  # and the one in training is left as it is
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        logits = model(pixels)
        assert logits.std() > 1e-3
        torch.testing.assert_close(deployed(pixels), logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(deployed.deployed()(pixels), logits, atol=1e-4, rtol=1e-4)


def test_a_merged_repvgg_block_is_the_sum_of_three_kernels():
    block = settled("repvgg-edge").net.stages[2][1]
    merged = settled("repvgg-edge").deployed().net.stages[2][1].reparam_conv
    kernel = torch.zeros_like(merged.weight)
    bias = torch.zeros_like(merged.bias)
    for branch, weight in ((block.conv_kxk.bn, block.conv_kxk.conv.weight), (block.conv_1x1.bn, block.conv_1x1.conv.weight)):
        for channel in range(len(kernel)):
            gain = branch.weight[channel] / torch.sqrt(branch.running_var[channel] + branch.eps)
            middle = kernel[channel] if weight.shape[2] == 3 else kernel[channel, :, 1:2, 1:2]
            middle += (gain * weight[channel]).detach()
            bias[channel] += (branch.bias[channel] - gain * branch.running_mean[channel]).detach()
    for channel in range(len(kernel)):
        gain = block.identity.weight[channel] / torch.sqrt(block.identity.running_var[channel] + block.identity.eps)
        kernel[channel, channel, 1, 1] += gain.detach()
        bias[channel] += (block.identity.bias[channel] - gain * block.identity.running_mean[channel]).detach()
    torch.testing.assert_close(merged.weight, kernel, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(merged.bias, bias, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_exported_graph_is_the_merged_one(name):
    model = settled(name)
    nodes = [node.op_type for node in export_onnx(model.deployed(), model.preprocess, opset=18).graph.node]
    blocks = 1 + sum(len(stage) for stage in model.net.stages)
    assert (nodes.count("Conv"), nodes.count("Relu"), nodes.count("Add")) == (blocks, blocks, 0)
    assert len(nodes) < len(convolutions(model)) + 2 * blocks  # the branches alone, with an activation and an addition a block


@pytest.mark.parametrize("name", NAMES)
def test_all_branches_of_a_block_lose_the_same_channels_and_merge_as_before(name):
    model = PixelModel(copy.deepcopy(settled(name).net), Preprocess(geometry="crop_only", height=32, width=32)).eval()
    whole, recipe = macs(model), PruneRecipe(stage="prune", importance="random", round_to=8)
    prune.narrow(model, name, recipe, lambda candidate: macs(candidate) <= 0.6 * whole)
    assert 0.3 * whole < macs(model) <= 0.6 * whole
    assert all(layer.out_channels % 8 == 0 for layer in convolutions(model))
    deployed = model.deployed()
    assert len(convolutions(deployed)) == 1 + sum(len(stage) for stage in model.net.stages)
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(deployed(pixels), model(pixels), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stem": 12}, r"multiples of 8.*\[12\]"),
        ({"widths": [16, 20, 32, 64]}, r"multiples of 8.*\[20\]"),
        ({"depths": [1, 1]}, "four each, one a stage, got 4 and 2"),
    ],
)
def test_widths_and_depths_that_do_not_fit_are_refused(name, arguments, message):
    with pytest.raises(ModelError, match=message):
        models.create(DetectorSpec(name=name, arguments=arguments))


def test_a_mobileone_without_branches_is_refused():
    with pytest.raises(ModelError, match="`branches` must be at least 1, got 0"):
        models.create(DetectorSpec(name="mobileone-edge", arguments={"branches": 0}))


@pytest.mark.parametrize("build", [repvgg_edge, mobileone_edge])
def test_the_stems_pointwise_branch_subsamples_and_its_gradient_is_right(build):
    """In channels-last order, where the strided form of it made oneDNN write beyond its memory."""
    (branch,) = (layer for layer in build().stem.modules() if isinstance(layer, Subsampling))
    plain = torch.nn.Conv2d(3, branch.out_channels, 1, stride=2, bias=False)
    plain.load_state_dict(branch.state_dict())
    branch = branch.to(memory_format=torch.channels_last)
    for _ in range(20):
        x = torch.randn(4, 64, 64, 3).permute(0, 3, 1, 2)
        out = branch(x)
        with torch.inference_mode():
            torch.testing.assert_close(out, plain(x))
        gradient = torch.randn_like(out)
        branch.weight.grad = None
        out.backward(gradient)
        expected = torch.einsum("bohw,bihw->oi", gradient.double(), x[:, :, ::2, ::2].double())
        torch.testing.assert_close(branch.weight.grad[:, :, 0, 0].double(), expected, rtol=1e-4, atol=1e-3)
