import functools

import pytest
import timm
import torch

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.errors import ModelError
from edgedet.models import ram
from edgedet.models.ram import ResidualAttention
from edgedet.models.structure import count_parameters

SHUT, OPEN = -1e4, 1e4  # biases at which a sigmoid is 0 and 1 in float32


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def by_hand(block: ResidualAttention, x: torch.Tensor) -> torch.Tensor:
    """The formulas of the study, value by value."""
    expected = torch.empty_like(x)
    channel = block.channel(x) if block.channel else torch.ones(len(x), x.shape[1], 1, 1)
    read = x * channel if block.variant == "sequential" else x
    spatial = block.spatial(read) if block.spatial else torch.ones(len(x), 1, *x.shape[2:])
    kept = 0 if block.variant == "noresidual" else 1
    for image, c, row, column in torch.cartesian_prod(*(torch.arange(side) for side in x.shape)).tolist():
        gate = channel[image, c, 0, 0] * spatial[image, 0, row, column]
        expected[image, c, row, column] = x[image, c, row, column] * (kept + gate)
    return expected


@pytest.mark.parametrize("variant", ["parallel", "sequential", "channel", "spatial", "noresidual"])
def test_each_variant_multiplies_the_gates_that_it_has(variant):
    block = ResidualAttention(32, variant=variant)
    x = torch.randn(2, 32, 4, 4)
    torch.testing.assert_close(block(x), by_hand(block, x))


def test_one_after_the_other_is_not_side_by_side():
    parallel, sequential = ResidualAttention(32), ResidualAttention(32, variant="sequential")
    sequential.load_state_dict(parallel.state_dict())
    x = torch.randn(1, 32, 4, 4)
    assert not torch.allclose(parallel(x), sequential(x))


@functools.cache
def plain() -> torch.nn.Module:
    torch.manual_seed(0)
    net = timm.create_model("resnet50", num_classes=2).eval()
    # timm starts the last norm of each block at zero, which would hide the block.
    for block in net.modules():
        if isinstance(block, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(block.weight, 0.5, 1.5)
    return net


def gated(variant: str, bias: float) -> torch.nn.Module:
    """A RAM-Net with the weights of `plain` and gates that give the sigmoid of `bias`, whatever they read."""
    net = ram.ram_net(variant=variant, gate_bias=bias).eval()
    state = net.state_dict()
    for name, value in plain().state_dict().items():
        state[name if name in state else name.replace("bn3.", "bn3.norm.")] = value
    net.load_state_dict(state)
    for gate in ram.gates_of(net):
        for layer in (gate.channel.expand, gate.spatial.conv):
            torch.nn.init.zeros_(layer.weight)
    return net


@pytest.mark.parametrize(("variant", "bias"), [("parallel", SHUT), ("sequential", SHUT), ("noresidual", OPEN)])
def test_with_gates_that_do_nothing_it_is_resnet50_to_the_bit(variant, bias):
    net = gated(variant, bias)
    x, image = torch.randn(1, 256, 8, 8), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(net.layer2[0](x), plain().layer2[0](x))
        assert torch.equal(net(image), plain()(image))


def test_modules_stand_in_every_block_of_two_stages_or_at_their_ends():
    assert len(ram.gates_of(ram.ram_net())) == 4 + 6
    net = ram.ram_net(placement="stage_end")
    inside = [name for name, module in net.named_modules() if isinstance(module, ResidualAttention)]
    assert inside == ["layer2.3.bn3.attention", "layer3.5.bn3.attention"]
    # 512 and 1024 channels: two layers of each gate, 7 x 7 x 2 weights and a bias.
    assert count_parameters(net) == 23_512_130 + 33_312 + 132_160 + 2 * 99


def test_gates_start_where_they_are_told_to():
    for gate in ram.gates_of(ram.ram_net(gate_bias=-2.0)):
        assert (gate.channel.expand.bias == -2).all()
        assert (gate.spatial.conv.bias == -2).all()
    assert not (ram.gates_of(ram.ram_net())[0].spatial.conv.bias == -2).any()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ram-net", {"variant": "serial"}, "expected one of parallel, sequential, .*, got 'serial'"),
        ("ram-net", {"placement": "end"}, "expected one of every_block, stage_end, got 'end'"),
        ("ram-net-channel", {"variant": "spatial"}, "ram-net-channel takes no argument 'variant'"),
    ],
)
def test_what_there_is_none_of_is_refused(name, arguments, message):
    with pytest.raises(ModelError, match=message):
        models.create(DetectorSpec(name=name, arguments=arguments))
