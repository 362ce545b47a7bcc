import math

import pytest
import torch
import torch.nn.functional as F

from edgedet.training.config import TrainingConfig
from edgedet.training.losses import focal, label_loss, smooth


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
