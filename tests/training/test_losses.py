import math

import pytest
import torch
import torch.nn.functional as F

from edgedet.models.pixels import PixelModel
from edgedet.preprocess import Preprocess
from edgedet.training.config import TrainingConfig
from edgedet.training.losses import Batch, Supervised, focal, label_loss, smooth


@pytest.fixture
def logits():
    return torch.linspace(-6, 6, 20)


@pytest.fixture
def labels():
    return (torch.arange(20) % 3 == 0).float()


def test_smoothing_by_a_tenth_is_what_pytorch_calls_a_fifth(logits, labels):
    ours = label_loss(logits, labels, TrainingConfig(label_smoothing=0.1))
    both = torch.stack([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(ours, F.cross_entropy(both, labels.long(), label_smoothing=0.2))


def test_smoothed_targets_are_a_tenth_and_nine_tenths():
    torch.testing.assert_close(smooth(torch.tensor([0.0, 1.0]), 0.1), torch.tensor([0.1, 0.9]))


def test_focal_without_focus_is_cross_entropy(logits, labels):
    expected = F.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(focal(logits, labels, gamma=0, alpha=1), expected)


@pytest.mark.parametrize("per_class", [False, True])
def test_focal_is_the_published_formula(logits, labels, per_class):
    gamma, alpha, total = 1.5, 0.3, 0.0
    for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        p_t = p if y else 1 - p
        weight = alpha if y or not per_class else 1 - alpha
        total += -weight * (1 - p_t) ** gamma * math.log(p_t)
    found = focal(logits.double(), labels.double(), gamma=gamma, alpha=alpha, per_class=per_class)
    assert float(found) == pytest.approx(total / 20, rel=1e-6)


def test_the_config_chooses_the_loss(logits, labels):
    config = TrainingConfig(loss="focal", focal_gamma=2, focal_alpha=0.25, alpha_mode="per_class")
    expected = focal(logits, labels, gamma=2, alpha=0.25, per_class=True)
    torch.testing.assert_close(label_loss(logits, labels, config), expected)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_gradients_are_finite_where_the_model_is_certain(gamma):
    z = torch.tensor([200.0, -200.0, 20.0, -1000.0], requires_grad=True)
    focal(z, torch.tensor([1.0, 0.0, 1.0, 1.0]), gamma=gamma, alpha=1).backward()
    assert torch.isfinite(z.grad).all()


class Costly(torch.nn.Module):
    """A network whose one weight costs its square, divided by the number of images."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        return self.weight * x.mean((1, 2, 3))[:, None]

    def penalty(self, images):
        return self.weight**2 / images


def test_what_a_network_adds_to_the_loss_is_added_once_a_batch():
    pixels, labels = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8), torch.tensor([0.0, 1.0, 1.0, 0.0])
    batch = Batch(pixels, labels, torch.arange(4), torch.zeros(4, dtype=torch.bool))
    made = Supervised(PixelModel(Costly(), Preprocess(height=8, width=8)), TrainingConfig())
    made.images = 18
    torch.testing.assert_close(made(batch), label_loss(made.model(pixels), labels, made.config) + 0.5)


def test_a_model_without_a_penalty_has_the_loss_alone():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 1), torch.nn.Flatten(0))
    batch = Batch(torch.randn(2, 8, 8, 3), torch.tensor([0.0, 1.0]), torch.arange(2), torch.zeros(2, dtype=torch.bool))
    made = Supervised(model, TrainingConfig())
    assert torch.equal(made(batch), label_loss(model(batch.pixels), batch.labels, made.config))
