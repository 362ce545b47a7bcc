from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tiny_training import write_images

from edgedet import models
from edgedet.compress import teacher as answers_of
from edgedet.compress.teacher import ask
from edgedet.data.index import Index
from edgedet.data.store import cache_root
from edgedet.errors import ModelError


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


def test_attention_is_of_the_last_feature_map_and_kept_small(teacher, train, tmp_path):
    plain, answers = ask(teacher, train, amp=False), ask(teacher, train, amp=False, attention=True)
    assert plain.attention is None
    assert plain.key != answers.key
    np.testing.assert_allclose(answers.logits, plain.logits, atol=1e-5)
    model = models.build(teacher)
    pixels = np.stack([teacher.manifest.preprocess(train.read(position)) for position in range(len(train))])
    with torch.inference_mode():
        for view, seen in enumerate((pixels, pixels[:, :, ::-1].copy())):
            squares = model.net.features(model.normalise(torch.from_numpy(seen))).square().mean(1)
            squares = squares / squares.square().sum((1, 2), keepdim=True).sqrt()
            np.testing.assert_allclose(answers.attention[:, view], squares.numpy(), atol=1e-3)
    assert answers.attention.dtype == np.float16
    again = ask(teacher, Index(tmp_path / "nothing here", train.rows), amp=False, attention=True)
    np.testing.assert_array_equal(again.attention, answers.attention)


def test_a_network_without_a_feature_map_has_no_attention():
    assert answers_of.features_of("resnet50") == "layer4"
    with pytest.raises(ModelError, match="vit-small has no feature map that is averaged, so no attention: set distillation"):
        answers_of.features_of("vit-small")


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
