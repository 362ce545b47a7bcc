import pytest
import torch
from torch import nn

from edgedet.errors import TrainingError
from edgedet.training.config import Phase, TrainingConfig
from edgedet.training.freezing import check, freeze, frozen, thaw, train_mode, trained
from edgedet.training.losses import Supervised


class Net(nn.Module):
    """A trunk whose names begin alike, a norm without parameters, a token, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.layer10 = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False), nn.Dropout(0.5))
        self.token = nn.Parameter(torch.zeros(4))
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.layer10(self.layer1(x)).mean((2, 3)) + self.token)


ALL = {"layer1.0.weight", "layer1.0.bias", "layer1.1.weight", "layer1.1.bias", "layer10.0.weight", "layer10.0.bias", "token",
       "head.weight", "head.bias"}  # fmt: skip


def test_a_part_is_a_module_or_a_parameter_by_its_whole_name():
    found = frozen(Net(), ["layer1", "token"], Phase())
    assert found.parameters == {"layer1.0.weight", "layer1.0.bias", "layer1.1.weight", "layer1.1.bias", "token"}
    assert found.norms == {"layer1.1"}


def test_a_phase_trains_what_it_names_and_nothing_else():
    found = frozen(Net(), [], Phase(train=("layer10.0", "head")))
    assert ALL - found.parameters == {"layer10.0.weight", "layer10.0.bias", "head.weight", "head.bias"}
    assert found.norms == {"layer1.1", "layer10.1"}


def test_frozen_norms_are_all_norms_with_their_scales_and_shifts():
    found = frozen(Net(), [], Phase(freeze_norms=True))
    assert found.parameters == {"layer1.1.weight", "layer1.1.bias"}
    assert found.norms == {"layer1.1", "layer10.1"}


def test_nothing_is_frozen_by_default():
    assert not frozen(Net(), [], Phase()).parameters
    assert not frozen(Net(), [], Phase()).norms


def test_what_was_frozen_before_stays_so_and_what_is_frozen_here_thaws():
    net = Net()
    net.token.requires_grad_(False)
    learning = trained(net)
    freeze(net, learning, TrainingConfig(freeze=("layer1",)), Phase())
    assert trained(net) == ALL - {"token", *(f"layer1.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias"))}
    freeze(net, learning, TrainingConfig(), Phase(train=("token", "head")))
    assert trained(net) == {"head.weight", "head.bias"}
    thaw(net, learning)
    assert trained(net) == ALL - {"token"}


def test_frozen_norms_keep_their_statistics_in_training_mode():
    net = Net()
    kept = freeze(net, trained(net), TrainingConfig(freeze=("layer1",)), Phase())
    train_mode(Supervised(net, TrainingConfig()), kept)
    modes = {name: module.training for name, module in net.named_modules() if name}
    assert [name for name, mode in modes.items() if not mode] == ["layer1.1"]
    before = {name: tensor.clone() for name, tensor in net.named_buffers()}
    net(torch.randn(8, 3, 4, 4))
    changed = {name for name, tensor in net.named_buffers() if not torch.equal(tensor, before[name])}
    assert changed == {"layer10.1.running_mean", "layer10.1.running_var", "layer10.1.num_batches_tracked"}


@pytest.mark.parametrize(
    ("freeze_names", "train_names", "words"),
    [
        (["layr1"], (), r"training.freeze names 'layr1'.*did you mean 'layer1'\?"),
        (["layer1.0.weigth"], (), r"did you mean 'layer1.0.weight'\?"),
        (["layer"], (), r"training.freeze names 'layer', which is no part"),
        ([], ("hed",), r"training.phases.train names 'hed'.*did you mean 'head'\?"),
        (["xyz"], (), r"allowed: head, layer1, layer10, token"),
        (["layer10.2"], (), r"'layer10.2', which is no part of the network with parameters"),
        (["layer1"], ("layer1.0",), r"`layer1.0` of training.phases.train is frozen by training.freeze"),
    ],
)
def test_a_name_that_is_no_part_is_refused_with_the_nearest(freeze_names, train_names, words):
    with pytest.raises(TrainingError, match=words):
        frozen(Net(), freeze_names, Phase(train=train_names))


def test_later_phases_are_refused_before_the_first_begins():
    net = Net()
    check(net, TrainingConfig(phases=(Phase(), Phase(train=("head",)))))
    with pytest.raises(TrainingError, match="names 'hed'"):
        check(net, TrainingConfig(phases=(Phase(), Phase(train=("hed",)))))
    with pytest.raises(TrainingError, match="every parameter is frozen in phase 2"):
        check(net, TrainingConfig(phases=(Phase(), Phase(train=("layer1.1",), freeze_norms=True))))
    with pytest.raises(TrainingError, match="every parameter is frozen in training"):
        check(net, TrainingConfig(freeze=("layer1", "layer10", "token", "head")))
