import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.compress.distances import angle_distance, attention_distance, attention_map, logit_distance, relation_distance
from edgedet.compress.distillation import Distillation
from edgedet.compress.listener import Listener
from edgedet.compress.teacher import Answers
from edgedet.data.augment import Augment
from edgedet.errors import TrainingError
from edgedet.models.pixels import PixelModel
from edgedet.training.config import TrainingConfig
from edgedet.training.losses import Batch, label_loss


def listener(distillation: Distillation) -> tuple[Listener, Batch, Answers]:
    torch.manual_seed(0)
    spec = DetectorSpec(name="edge32", arguments={"width": 8})
    rng = np.random.default_rng(0)
    answers = Answers(rng.normal(size=(6, 2)).astype(np.float32), rng.normal(size=(6, 2, 5)).astype(np.float16), "key")
    model = PixelModel(models.create(spec), models.lookup("edge32").preprocess)
    batch = Batch(
        torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8),
        torch.tensor([0.0, 1.0, 1.0]),
        torch.tensor([4, 0, 2]),
        torch.tensor([True, False, True]),
    )
    return Listener(model, "edge32", answers, TrainingConfig(), distillation).eval(), batch, answers


def test_the_loss_weighs_labels_logits_and_embeddings():
    made, batch, answers = listener(Distillation(temperature=2.0, logit_weight=0.7, feature_weight=0.3))
    logits = made.model(batch.pixels)
    embedded = made.project(made.model.net.features(made.model.normalise(batch.pixels)).mean((2, 3)))
    expected = 0.3 * label_loss(logits, batch.labels, TrainingConfig())
    theirs = torch.from_numpy(answers.logits[[4, 0, 2], [1, 0, 1]])
    expected = expected + 0.7 * logit_distance(logits, theirs, 2.0)
    wanted = torch.from_numpy(answers.embeddings[[4, 0, 2], [1, 0, 1]].astype(np.float32))
    cosines = [torch.dot(a, b) / a.norm() / b.norm() for a, b in zip(embedded, wanted, strict=True)]
    expected = expected + 0.3 * (1 - sum(cosines) / 3)
    torch.testing.assert_close(made(batch), expected)


@torch.no_grad()
def test_an_image_without_a_label_is_learned_from_the_teacher_alone():
    """Image by image: the labels' part is a third of each labelled one's, the teacher's is of all."""
    made, batch, answers = listener(Distillation(temperature=2.0, logit_weight=0.7, feature_weight=0.5))
    given = replace(batch, labels=torch.tensor([0.0, math.nan, 1.0]))
    logits, theirs = made.model(batch.pixels), torch.from_numpy(answers.logits[[4, 0, 2], [1, 0, 1]])
    whole, none = made(batch), made(replace(batch, labels=torch.full((3,), math.nan)))
    labels = [0.3 * label_loss(logits[n : n + 1], batch.labels[n : n + 1], TrainingConfig()) / 3 for n in range(3)]
    torch.testing.assert_close(made(given), none + labels[0] + labels[2])
    torch.testing.assert_close(whole, none + sum(labels))
    deaf = Listener(made.model, "edge32", answers, TrainingConfig(), Distillation(logit_weight=0.0))
    assert (made.needs_labels, deaf.needs_labels) == (False, True)
    alone = Listener(made.model, "edge32", answers, TrainingConfig(), Distillation(logit_weight=1.0)).eval()
    torch.testing.assert_close(alone(given), logit_distance(logits, theirs, 2.0))


def test_images_without_labels_have_finite_gradients():
    made, batch, _ = listener(Distillation(logit_weight=0.5))
    for labels in ([0.0, math.nan, 1.0], [math.nan] * 3):
        made.zero_grad()
        made.train()(replace(batch, labels=torch.tensor(labels))).backward()
        assert all(torch.isfinite(parameter.grad).all() for parameter in made.parameters())


@torch.no_grad()
def test_attention_and_relations_are_added_by_their_weights():
    weights = {"attention_weight": 0.6, "relation_weight": 0.5, "angle_weight": 0.25}
    plain, batch, answers = listener(Distillation())
    maps = np.random.default_rng(1).random((6, 2, 2, 2)).astype(np.float16)
    answers = replace(answers, attention=maps)
    made = Listener(plain.model, "edge32", answers, TrainingConfig(), Distillation(**weights)).eval()
    features = made.model.net.features(made.model.normalise(batch.pixels))
    embedded = features.mean((2, 3))
    theirs = torch.from_numpy(answers.embeddings[[4, 0, 2], [1, 0, 1]].astype(np.float32))
    looked = torch.from_numpy(maps[[4, 0, 2], [1, 0, 1]].astype(np.float32))
    expected = plain(batch) + 0.6 * attention_distance(attention_map(features), looked)
    expected = expected + 0.5 * relation_distance(embedded, theirs) + 0.25 * angle_distance(embedded, theirs)
    torch.testing.assert_close(made(batch), expected)


def test_what_a_student_cannot_be_held_against_is_refused():
    plain, batch, answers = listener(Distillation())
    with pytest.raises(TrainingError, match="needs the teacher's attention: ask for it"):
        Listener(plain.model, "edge32", answers, TrainingConfig(), Distillation(attention_weight=1.0))
    with pytest.raises(TrainingError, match=r"no embedding to match: set distillation.relation_weight to 0"):
        Listener(plain.model, None, answers, TrainingConfig(), Distillation(relation_weight=1.0))
    made = Listener(plain.model, "edge32", answers, TrainingConfig(), Distillation(angle_weight=1.0))
    two = Batch(batch.pixels[:2], batch.labels[:2], batch.positions[:2], batch.flipped[:2])
    with pytest.raises(TrainingError, match="between three images and more, and a forward pass has 2: raise"):
        made(two)


def test_a_student_pays_what_its_network_adds_to_the_loss():
    made, batch, _ = listener(Distillation())
    before = made(batch)
    made.images = 40
    made.model.net.penalty = lambda images: torch.tensor(10.0 / images)
    torch.testing.assert_close(made(batch), before + 0.25)


def test_every_parameter_that_is_trained_has_a_gradient():
    for weights in ({}, {"feature_weight": 0.5}, {"relation_weight": 0.5}, {"angle_weight": 0.5}):
        made, batch, _ = listener(Distillation(**weights))
        made.train()(batch).backward()
        assert [name for name, parameter in made.named_parameters() if parameter.grad is None] == []


def test_a_resumed_student_must_listen_to_the_same_teacher_in_the_same_way():
    identities = {listener(Distillation(temperature=t))[0].identity for t in (1.0, 2.0)}
    assert len(identities) == 2
    assert all("key" in identity for identity in identities)


JPEG = Augment(jpeg=0.5)


def two_views(batch: Batch) -> Batch:
    return replace(batch, degraded=(batch.pixels.float() * 0.8 + 20).to(torch.uint8))


@torch.no_grad()
def test_both_views_are_taught_what_was_said_of_the_image_itself_and_held_together():
    """Half of the loss of each view, and image by image in float64 the cosine and the divergence of the two."""
    weights = Distillation(temperature=3.0, logit_weight=0.7, feature_weight=0.4)
    apart, given, answers = listener(weights)
    batch = two_views(given)
    config = TrainingConfig(consistency_weight=0.6, augment=JPEG)
    made = Listener(apart.model, "edge32", answers, config, weights).eval()
    made.project.load_state_dict(apart.project.state_dict())
    expected = (apart(given) + apart(replace(given, pixels=batch.degraded))) / 2
    net, views = made.model.net, []
    for pixels in (batch.pixels, batch.degraded):
        embedded = net.features(made.model.normalise(pixels)).mean((2, 3)).double()
        views.append((embedded, torch.sigmoid(made.model(pixels).double())))
    for one, other, p, q in zip(views[0][0], views[1][0], views[0][1], views[1][1], strict=True):
        expected = expected + 0.6 * (1 - one @ other / one.norm() / other.norm()) / 3
        for a, b in ((p, q), (q, p)):
            expected = expected + 0.6 * (a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log()) / 2 / 3
    torch.testing.assert_close(made(batch).double(), expected.double(), rtol=1e-5, atol=1e-6)


def test_two_views_that_are_one_cost_what_one_costs():
    apart, batch, answers = listener(Distillation())
    made = Listener(apart.model, "edge32", answers, TrainingConfig(consistency_weight=1.0, augment=JPEG), Distillation()).eval()
    torch.testing.assert_close(made(replace(batch, degraded=batch.pixels)), apart(batch))


@torch.no_grad()
def test_a_model_without_an_embedding_is_held_by_its_predictions():
    apart, given, answers = listener(Distillation())
    batch = two_views(given)
    made = Listener(apart.model, None, answers, TrainingConfig(consistency_weight=0.5, augment=JPEG), Distillation()).eval()
    p, q = (torch.sigmoid(made.model(pixels)) for pixels in (batch.pixels, batch.degraded))
    divergence = sum((a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log()).mean() / 2 for a, b in ((p, q), (q, p)))
    expected = (apart(given) + apart(replace(given, pixels=batch.degraded))) / 2 + 0.5 * divergence
    torch.testing.assert_close(made(batch), expected)


def test_with_both_views_every_parameter_has_a_gradient():
    _, batch, answers = listener(Distillation())
    for weight in (0.0, 0.5):
        model = listener(Distillation())[0].model
        config = TrainingConfig(consistency_weight=1.0, augment=JPEG)
        made = Listener(model, "edge32", answers, config, Distillation(feature_weight=weight))
        made.train()(two_views(batch)).backward()
        assert [name for name, parameter in made.named_parameters() if parameter.grad is None] == []
