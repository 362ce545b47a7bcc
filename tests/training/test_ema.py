import torch
from torch import nn

from edgedet.training.ema import Ema


def test_the_average_follows_slowly_at_first_fast():
    model = nn.BatchNorm1d(1)
    ema = Ema(model, decay=0.5)
    expected = 1.0
    for step in range(1, 12):
        with torch.no_grad():
            model.weight.fill_(float(step))
            model.running_mean.fill_(-float(step))
            model.num_batches_tracked.fill_(step)
        ema.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    torch.testing.assert_close(ema.model.weight.detach(), torch.tensor([expected]))
    assert ema.model.running_mean.item() < -9
    assert ema.model.num_batches_tracked.item() == 11


def test_the_average_is_never_trained_and_never_in_training_mode():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    ema = Ema(model.train(), decay=0.9)
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert not ema.model.training
    assert model[0].weight.requires_grad
