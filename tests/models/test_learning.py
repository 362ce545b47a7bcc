"""Every detector of the table learns: one step down the gradient of its own loss lowers that loss."""

import pytest
import torch
from small_networks import small

from edgedet import models
from edgedet.models.pixels import PixelModel
from edgedet.training.config import TrainingConfig
from edgedet.training.losses import Batch, Supervised

SMALL = 64
NOT_HERE = {"spai"}
"""What `spai-tiny` stands for: 60 GMAC an image."""

PROMISED = 0.05
"""The step is as long as would lower a linear loss by this share."""



@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def noise(side: int, size: int = 4) -> Batch:
    """The fakes are darker."""
    labels = torch.arange(size) % 2
    top = torch.where(labels == 1, 160, 256).view(-1, 1, 1, 1)
    pixels = (torch.rand(size, side, side, 3) * top).to(torch.uint8)
    return Batch(pixels, labels.float(), torch.arange(size), torch.zeros(size, dtype=torch.bool))


def loss_of(objective: Supervised, batch: Batch) -> torch.Tensor:
    """Under the same draws each time: of dropout, and of weights that are sampled."""
    torch.manual_seed(1)
    return objective(batch)


@pytest.mark.parametrize("name", [name for name in models.DETECTORS if name not in NOT_HERE])
def test_one_step_lowers_the_loss_and_every_parameter_takes_part(name):
    spec, side = small(name, SMALL)
    net = models.create(spec)
    objective = Supervised(PixelModel(net, models.lookup(name).preprocess), TrainingConfig()).train()
    batch = noise(side)
    objective.images = len(batch.labels)
    before = loss_of(objective, batch)
    before.backward()
    learning = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert not [name for name, parameter in learning.items() if parameter.grad is None]
    steepness = sum(float(parameter.grad.square().sum()) for parameter in learning.values())
    torch.optim.SGD(learning.values(), lr=PROMISED * before.item() / steepness).step()
    with torch.no_grad():
        after = loss_of(objective, batch)
    assert (1 - 2 * PROMISED) * before < after < before
