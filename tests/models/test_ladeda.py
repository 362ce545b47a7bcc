import functools

import pytest
import torch
from torch import nn

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.models.ladeda import PatchBottleneck
from edgedet.models.macs import macs
from edgedet.models.patches import PatchGrid
from edgedet.models.pixels import PixelModel
from edgedet.models.structure import count_parameters

NAMES = ("ladeda", "ladeda-tiny")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@functools.cache
def fresh(name: str) -> nn.Module:
    return models.create(DetectorSpec(name=name)).eval()


@pytest.mark.parametrize(("name", "count"), [("ladeda", 13_641_793), ("ladeda-tiny", 1_297)])
def test_parameters_are_those_of_the_paper(name, count):
    assert count_parameters(fresh(name)) == count


def test_multiply_adds_at_224_pixels():
    with torch.device("meta"):
        nets = [PixelModel(models.create(DetectorSpec(name=name)), models.lookup(name).preprocess) for name in NAMES]
        large, tiny = map(macs, nets)
    assert (large, tiny) == (15_912_290_304, 39_715_592)
    assert round(large / tiny) == 401  # the paper says 375


@pytest.mark.parametrize(("name", "field", "stride"), [("ladeda", 9, 8), ("ladeda-tiny", 5, 2)])
@pytest.mark.parametrize("side", [32, 46])
def test_each_logit_of_the_map_sees_its_own_patch_and_no_other_pixel(name, field, stride, side):
    net = fresh(name)
    assert net.patch_grid == PatchGrid(field, stride)
    pixels = torch.randint(0, 256, (1, 3, side, side)).float().requires_grad_()
    patches = net.outputs(net.front_end(pixels) / 50)["patches"][0]
    assert patches.shape == (net.patch_grid.count(side),) * 2
    for row, column in ((0, 0), (1, 2), (patches.shape[0] - 1, patches.shape[1] - 1)):
        (seen,) = torch.autograd.grad(patches[row, column], pixels, retain_graph=True)
        rows, columns = seen[0].abs().sum(0).nonzero().unbind(1)
        assert (rows.min(), rows.max()) == (stride * row, stride * row + field - 1)
        assert (columns.min(), columns.max()) == (stride * column, stride * column + field - 1)


@pytest.mark.parametrize("name", NAMES)
def test_the_logit_is_the_mean_of_the_patches(name):
    model = PixelModel(fresh(name), models.lookup(name).preprocess)
    pixels = torch.randint(0, 256, (2, 46, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        found = model.outputs(pixels)
        assert list(found) == ["logit", "patches"]
        torch.testing.assert_close(found["logit"], found["patches"].mean((1, 2)))
        torch.testing.assert_close(found["logit"], model(pixels), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_patch_cut_out_gets_the_logit_that_it_has_in_the_image(name):
    net = fresh(name)
    grid, x = net.patch_grid, torch.randn(1, 3, 26, 34)
    with torch.inference_mode():
        patches = net.outputs(x)["patches"]
        for row in range(patches.shape[1]):
            top, left = row * grid.stride, 2 * grid.stride
            alone = net(x[:, :, top : top + grid.field, left : left + grid.field])
            torch.testing.assert_close(alone[0, 0], patches[0, row, 2], atol=1e-4, rtol=1e-4)


def test_the_shortcut_adds_the_middle_of_what_the_convolution_reads():
    block = PatchBottleneck(16, 4, kernel=3, stride=2).eval()
    for norm in block.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    x = torch.randn(1, 16, 9, 8)
    with torch.inference_mode():
        out = block(x)
        assert out.shape == (1, 16, 4, 3)
        for row in range(4):
            for column in range(3):
                window = x[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
                expected = torch.relu(block.branch(window) + block.shortcut(window[:, :, 1:2, 1:2]))
                torch.testing.assert_close(out[:, :, row, column], expected[:, :, 0, 0])
