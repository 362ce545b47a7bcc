import copy
import functools
import math

import pytest
import torch
from torch import nn

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.export.onnx import export_onnx
from edgedet.models.pixels import PixelModel
from edgedet.models.safe import DiagonalBand
from edgedet.models.structure import count_parameters
from edgedet.quantize.front import PREFIX

SYNTHESIS = [0.0, 0.0, 1 / math.sqrt(2), 1 / math.sqrt(2), 0.0, 0.0]
"""The low-pass that bior1.3 puts images together with; with every other sign turned, the high-pass that takes them apart."""
HIGH = [tap * (-1) ** k for k, tap in enumerate(SYNTHESIS)]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@functools.cache
def fresh() -> PixelModel:
    torch.manual_seed(0)
    net = models.create(DetectorSpec(name="safe"))
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.running_mean, std=0.1)
    return PixelModel(net, models.lookup("safe").preprocess).eval()


def details(values: list[float]) -> list[float]:
    """One level of the transform's high-pass along a line, mirrored at its ends, every other result kept."""
    count = len(values)

    def at(position: int) -> float:
        position %= 2 * count
        return values[position if position < count else 2 * count - 1 - position]

    return [sum(tap * at(2 * k + 1 - j) for j, tap in enumerate(HIGH)) for k in range((count + 5) // 2)]


@pytest.mark.parametrize(("height", "width"), [(8, 12), (6, 6)])
def test_the_band_is_the_transforms_without_what_it_makes_beyond_the_border(height, width):
    x = torch.randint(0, 256, (1, 3, height, width)).float()
    found = DiagonalBand(enlarge=False)(x)
    for channel in range(3):
        across = [details(row) for row in x[0, channel].tolist()]
        both = torch.tensor([details(list(column)) for column in zip(*across, strict=True)]).T
        torch.testing.assert_close(found[0, channel], both[1:-1, 1:-1])


def test_each_value_of_the_band_stands_where_its_block_was():
    x = torch.randint(0, 256, (2, 3, 6, 4)).float()
    found = DiagonalBand()(x)
    for row in range(6):
        for column in range(4):
            (a, b), (c, d) = x[:, :, row - row % 2 :, column - column % 2 :][:, :, :2, :2].permute(2, 3, 0, 1)
            assert torch.equal(found[:, :, row, column], (a - b - c + d) / 2)


def test_odd_sides_are_refused():
    with pytest.raises(ValueError, match="even sides, got 6x5: crop"):
        DiagonalBand()(torch.zeros(1, 3, 6, 5))


def test_it_is_nprs_network():
    assert count_parameters(fresh()) == 1_437_761


def test_a_flat_image_and_a_ramp_leave_nothing():
    ramp = torch.arange(32, dtype=torch.uint8).view(1, 1, 32, 1).expand(1, 32, 32, 3)
    assert not fresh().normalise(ramp).any()
    assert not fresh().normalise(ramp.transpose(1, 2) + 7).any()


@pytest.mark.parametrize("side", [32, 46])
def test_the_deployed_stem_reads_the_band_as_it_is(side):
    model, pixels = fresh(), torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8)
    deployed = model.deployed()
    assert deployed.normalise(pixels).shape == (2, 3, side // 2, side // 2)
    with torch.inference_mode():
        stem = model.net.conv1(model.normalise(pixels))
        torch.testing.assert_close(deployed.net.conv1(deployed.normalise(pixels)), stem, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(deployed(pixels), model(pixels), atol=1e-4, rtol=1e-4)
        assert torch.equal(deployed.deployed()(pixels), deployed(pixels))
    assert fresh().net.conv1.stride == (2, 2)


def test_a_narrower_stem_is_deployed_too():
    net = copy.deepcopy(fresh().net)
    with torch.no_grad():
        net.conv1.weight = nn.Parameter(net.conv1.weight[:48])
    assert net.deploy().conv1.weight.shape == (48, 3, 3, 3)


def test_the_exported_front_end_is_one_convolution_that_stays_in_float():
    model = fresh()
    graph = export_onnx(model.deployed(), model.preprocess, opset=18).graph
    front = [node.op_type for node in graph.node if node.name.startswith(PREFIX)]
    assert front == ["Conv"]
    assert not [node for node in graph.node if node.op_type == "Resize"]
