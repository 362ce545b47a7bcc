import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from edgedet.data.augment import Augment
from edgedet.errors import TrainingError
from edgedet.models.pixels import PixelModel
from edgedet.preprocess import Preprocess
from edgedet.training.config import TrainingConfig
from edgedet.training.losses import (
    Batch,
    Objective,
    Supervised,
    focal,
    label_loss,
    prediction_distance,
    smooth,
    supervised,
    watched,
)


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


def test_the_uniform_reading_is_pytorchs(logits, labels):
    ours = label_loss(logits, labels, TrainingConfig(label_smoothing=0.6, smoothing_reading="uniform"))
    both = torch.stack([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(ours, F.cross_entropy(both, labels.long(), label_smoothing=0.6))


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


class Embedder(torch.nn.Module):
    """A trunk without a norm, whose embedding is what the layer `head` takes."""

    def __init__(self):
        super().__init__()
        self.trunk = torch.nn.Linear(12, 5)
        self.head = torch.nn.Linear(5, 1)

    def forward(self, x):
        return self.head(torch.tanh(self.trunk(x.flatten(1))))


@pytest.fixture
def two_views():
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (4, 2, 2, 3), dtype=torch.uint8)
    degraded = (pixels.float() * 0.8 + 20).to(torch.uint8)
    return Batch(pixels, torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.arange(4), torch.zeros(4, dtype=torch.bool), degraded)


def consistent(weight: float) -> Objective:
    torch.manual_seed(1)
    model = PixelModel(Embedder(), Preprocess(height=2, width=2))
    return supervised(model, "head", TrainingConfig(consistency_weight=weight, augment=Augment(jpeg=0.5)))


@torch.no_grad()
def test_a_clean_and_a_degraded_view_are_both_learned_and_held_together(two_views):
    """Image by image in float64: cross entropy of both, one minus the cosine, and the divergence in both directions."""
    made = consistent(0.3)
    net = made.model.net
    total = 0.0
    for clean, degraded, label in zip(two_views.pixels, two_views.degraded, two_views.labels.tolist(), strict=True):
        embeddings, probabilities = [], []
        for view in (clean, degraded):
            x = made.model.normalise(view[None]).double().flatten()
            embedded = torch.tanh(net.trunk.weight.double() @ x + net.trunk.bias.double())
            z = float(net.head.weight[0].double() @ embedded + net.head.bias.double())
            p = 1 / (1 + math.exp(-z))
            total -= math.log(p if label else 1 - p) / 8
            embeddings.append(embedded)
            probabilities.append(p)
        one, other = embeddings
        total += 0.3 * (1 - float(one @ other / one.norm() / other.norm())) / 4
        for p, q in (probabilities, probabilities[::-1]):
            total += 0.3 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))) / 2 / 4
    assert float(made(two_views)) == pytest.approx(total, rel=1e-5)


def test_equal_views_cost_nothing_but_their_labels(two_views):
    same = replace(two_views, degraded=two_views.pixels)
    labels = label_loss(consistent(0.5).model(same.pixels), same.labels, TrainingConfig())
    torch.testing.assert_close(consistent(0.5)(same), labels)


def test_the_distance_between_predictions_is_symmetric_and_its_gradient_is_right():
    one, other = torch.randn(6, dtype=torch.double, requires_grad=True), torch.randn(6, dtype=torch.double, requires_grad=True)
    assert torch.equal(prediction_distance(one, other), prediction_distance(other, one))
    assert torch.autograd.gradcheck(prediction_distance, (one, other))


def test_every_parameter_learns_from_both_views(two_views):
    made = consistent(1.0)
    made(two_views).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in made.parameters())


def test_a_layer_is_watched_from_both_sides_and_only_inside_the_block():
    net = Embedder()
    with watched(net.head) as taken, watched(net.trunk, outputs=True) as given:
        net(torch.ones(2, 3, 2, 2))
    net(torch.ones(2, 3, 2, 2))
    assert len(taken) == len(given) == 1
    torch.testing.assert_close(taken[0], torch.tanh(given[0]))


def test_without_a_weight_labels_alone_count():
    assert type(consistent(0.0)) is Supervised


def test_a_batch_without_a_degraded_view_is_refused(two_views):
    with pytest.raises(TrainingError, match="no degraded view"):
        consistent(0.3)(replace(two_views, degraded=None))


def test_a_batch_moves_with_its_degraded_view(two_views):
    moved = two_views.to(torch.device("meta"))
    assert {moved.pixels.device.type, moved.degraded.device.type} == {"meta"}
    assert replace(two_views, degraded=None).to(torch.device("meta")).degraded is None
