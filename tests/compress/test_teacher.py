from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_training import write_images

from edgedet import models
from edgedet.artifact import DetectorSpec
from edgedet.compress import teacher as answers_of
from edgedet.compress.teacher import Answers, Distillation, Listener, ask, logit_distance, require_answers
from edgedet.data.augment import Augment
from edgedet.data.index import Index
from edgedet.data.store import cache_root
from edgedet.errors import TrainingError
from edgedet.models.pixels import PixelModel
from edgedet.training.config import TrainingConfig
from edgedet.training.losses import Batch, label_loss


def kept() -> list[Path]:
    return sorted((cache_root() / "answers").glob("*.npz"))


@pytest.fixture
def train(data) -> Index:
    return data.split("train")


def test_answers_are_the_teachers_for_an_image_and_its_mirror_image(teacher, train):
    answers = ask(teacher, train, amp=False)
    model = models.build(teacher)
    pixels = np.stack([teacher.manifest.preprocess(train.read(position)) for position in range(len(train))])
    with torch.inference_mode():
        for view, seen in enumerate((pixels, pixels[:, :, ::-1].copy())):
            np.testing.assert_allclose(answers.logits[:, view], model(torch.from_numpy(seen)).numpy(), atol=1e-5)
            embeddings = model.net.features(model.normalise(torch.from_numpy(seen))).mean((2, 3)).numpy()
            np.testing.assert_allclose(answers.embeddings[:, view], embeddings, atol=2e-3, rtol=2e-3)


def test_asking_again_reads_no_image(teacher, train, tmp_path):
    first = ask(teacher, train, amp=False)
    elsewhere = Index(tmp_path / "nothing here", train.rows)
    again = ask(teacher, elsewhere, amp=False)
    np.testing.assert_array_equal(again.logits, first.logits)
    assert again.key == first.key


def test_other_images_another_order_or_precision_are_asked_anew(teacher, train, tmp_path):
    first = ask(teacher, train, amp=False)
    turned = ask(teacher, train.take(reversed(range(len(train)))), amp=False)
    np.testing.assert_allclose(turned.logits, first.logits[::-1], atol=1e-5)
    other = ask(teacher, write_images(tmp_path / "other", train=8), amp=False)
    assert other.logits.shape == (8, 2)
    assert len({first.key, turned.key, other.key, ask(teacher, train, amp=True).key}) == 4


def test_a_changed_image_without_a_recorded_digest_is_noticed(teacher, tmp_path):
    data = write_images(tmp_path / "data", train=4)
    bare = Index(data.root, tuple(msgspec.structs.replace(row, sha256="") for row in data.rows))
    before = ask(teacher, bare, amp=False)
    first, second = (data.root / row.path for row in data.rows[:2])
    first.write_bytes(second.read_bytes())
    after = ask(teacher, bare, amp=False)
    assert after.key != before.key
    np.testing.assert_allclose(after.logits[0], before.logits[1], atol=1e-5)


def test_answers_that_a_crash_has_cut_short_are_asked_anew(teacher, train):
    first = ask(teacher, train, amp=False)
    path = next(path for path in kept() if path.stem == first.key)
    path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(ask(teacher, train, amp=False).logits, first.logits)
    assert answers_of._load(path, len(train), first.key) is not None


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_logit_distance_is_the_divergence_up_to_the_teachers_entropy(temperature):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(40, requires_grad=True), 3 * torch.randn(40)

    def both(z):
        return torch.stack([torch.zeros_like(z), z / temperature], dim=1)

    divergence = F.kl_div(
        F.log_softmax(both(student), 1), F.log_softmax(both(teacher), 1), log_target=True, reduction="batchmean"
    )
    p = torch.sigmoid(teacher / temperature)
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean()
    torch.testing.assert_close(logit_distance(student, teacher, temperature), (divergence + entropy) * temperature**2)


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


def test_a_student_pays_what_its_network_adds_to_the_loss():
    made, batch, _ = listener(Distillation())
    before = made(batch)
    made.images = 40
    made.model.net.penalty = lambda images: torch.tensor(10.0 / images)
    torch.testing.assert_close(made(batch), before + 0.25)


def test_every_parameter_that_is_trained_has_a_gradient():
    for weight in (0.0, 0.5):
        made, batch, _ = listener(Distillation(feature_weight=weight))
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


def test_pixels_stay_where_the_teacher_saw_them():
    whole, patches = Distillation(), Distillation(patch_weight=0.5)
    require_answers(TrainingConfig(augment=Augment(hflip=True, blur=0.1, brightness=0.2, jpeg=0.5, mask=0.5, cutout=3)), whole)
    with pytest.raises(TrainingError, match="mirrored left to right: leave rotation, shift out of"):
        require_answers(TrainingConfig(augment=Augment(shift=2, rotation=5, jpeg=0.5)), whole)
    require_answers(TrainingConfig(augment=Augment(jpeg=0.5)), patches)
    with pytest.raises(TrainingError, match=r"a patch that is hidden says nothing.*: leave mask, cutout out of"):
        require_answers(TrainingConfig(augment=Augment(mask=0.5, cutout=3)), patches)
