import numpy as np
import pytest

from edgedet import Detector, Preprocess
from edgedet.data import dataset
from edgedet.errors import DataError
from edgedet.evaluate.degrade import degrade
from edgedet.evaluate.logits import logits_of, pixels_of
from edgedet.preprocess import decode


@pytest.fixture
def detector(make_onnx_artifact):
    with Detector.load(make_onnx_artifact(), threads=1, batch_size=7) as loaded:
        yield loaded


def slowly(detector, index, condition, seed=0):
    """One image after the other: decode, degrade, geometry, run."""
    logits = []
    for position, row in enumerate(index.rows):
        image = degrade(condition, decode(index.read(position)), (seed, int(row.sha256[:12], 16)))
        logits.append(detector.logits(detector.preprocess.apply(image)[None])[0])
    return np.array(logits)


@pytest.mark.parametrize("condition", ["clean", "web", "webp-50", "resize-0.5-bilinear", "noise-0.1"])
def test_logits_are_those_of_one_image_after_the_other(detector, make_index, condition):
    index = make_index(6)
    logits = logits_of(detector, index, condition=condition, seed=3)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, slowly(detector, index, condition, seed=3), rtol=1e-5, atol=1e-5)


def test_native_images_of_mixed_sizes_are_evaluated(make_onnx_artifact, make_index):
    index = make_index(5, sizes=((16, 12), (9, 20)))
    with Detector.load(make_onnx_artifact(preprocess=Preprocess(geometry="native")), threads=1) as detector:
        for condition in ("clean", "hard"):
            found = logits_of(detector, index, condition=condition)
            np.testing.assert_allclose(found, slowly(detector, index, condition), rtol=1e-5, atol=1e-5)


def test_clean_pixels_come_from_the_pixel_cache(detector, make_index):
    index = make_index(4)
    before = logits_of(detector, index)
    for row in index.rows:
        (index.root / row.path).unlink()
    np.testing.assert_array_equal(logits_of(detector, index), before)  # nothing is decoded again


def test_a_set_above_the_limit_is_decoded_every_time(detector, make_index, monkeypatch):
    index = make_index(4)
    monkeypatch.setattr(dataset, "CACHE_LIMIT", 12 * 8 * 8 * 3 - 1)
    np.testing.assert_allclose(logits_of(detector, index), slowly(detector, index, "clean"), rtol=1e-5, atol=1e-5)
    (index.root / index.rows[4].path).write_bytes(b"gone")
    with pytest.raises(DataError, match=r"gan/0\.png.*scan the data set again"):
        logits_of(detector, index)


def test_noise_follows_the_image_not_its_place(detector, make_index):
    index = make_index(4)
    whole = list(pixels_of(index, detector.preprocess, condition="noise-0.2"))
    last = list(pixels_of(index.take([11]), detector.preprocess, condition="noise-0.2"))
    other = list(pixels_of(index.take([11]), detector.preprocess, condition="noise-0.2", seed=1))
    assert np.array_equal(whole[11], last[0])
    assert not np.array_equal(last[0], other[0])


def test_an_image_that_has_been_damaged_is_named(detector, make_index):
    index = make_index(3)
    (index.root / index.rows[4].path).write_bytes(b"gone")
    with pytest.raises(DataError, match=r"diffusion/1\.png|gan/1\.png"):
        logits_of(detector, index, condition="web")
