import io

import numpy as np
import pytest
from fixed_draws import Highest, smooth
from PIL import Image, ImageFilter

from edgedet.data.augment import Augment
from edgedet.data.augment.degradations import degrade
from edgedet.data.augment.draws import Draws

IMAGES = smooth(4, 32, 40) // 2 + np.random.default_rng(0).integers(0, 60, (4, 32, 40, 3), dtype=np.uint8)


def degraded(images=IMAGES, *, chosen=True, **settings) -> np.ndarray:
    return degrade(images, Augment(**settings), Highest(len(images), chosen=chosen))


def encoded(image: np.ndarray, form: str, **options) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, **options)
    return np.asarray(Image.open(file).convert("RGB"))


def resized(image: np.ndarray) -> np.ndarray:
    """Half the size and back, both by the last of the four interpolations."""
    small = Image.fromarray(image).resize((20, 16), Image.Resampling.LANCZOS)
    return np.asarray(small.resize((40, 32), Image.Resampling.LANCZOS))


BY_HAND = {
    "jpeg": ({"jpeg": 1.0, "jpeg_quality": (30, 60)}, lambda image: encoded(image, "JPEG", quality=60)),
    "webp": ({"webp": 1.0, "webp_quality": (30, 50)}, lambda image: encoded(image, "WEBP", quality=50, method=0)),
    "blur": (
        {"blur": 1.0, "blur_sigma": (0.5, 1.5)},
        lambda image: np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.5))),
    ),
    "resize": ({"resize": 1.0, "resize_factor": (0.2, 0.5)}, resized),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_a_degradation_is_pillows(kind):
    settings, by_hand = BY_HAND[kind]
    for image, result in zip(IMAGES, degraded(**settings), strict=True):
        np.testing.assert_array_equal(result, by_hand(image))


def test_noise_has_its_deviation_and_every_image_its_own():
    grey = np.full((3, 64, 64, 3), 128, np.uint8)
    out = degrade(grey, Augment(noise=1.0, noise_sigma=(0.04, 0.04)), Draws(np.random.default_rng(0), 3)).astype(float)
    np.testing.assert_allclose(out.std(axis=(1, 2, 3)), 0.04 * 255, rtol=0.05)
    np.testing.assert_allclose(out.mean(axis=(1, 2, 3)), 128, atol=0.5)
    assert abs(np.corrcoef(out[0].ravel(), out[1].ravel())[0, 1]) < 0.05


def test_the_order_is_that_of_a_platform_recompression_last():
    found = degraded(jpeg=1.0, jpeg_quality=(60, 60), resize=1.0, resize_factor=(0.5, 0.5), blur=1.0, blur_sigma=(1.5, 1.5))
    for image, result in zip(IMAGES, found, strict=True):
        blurred, back, compressed = (BY_HAND[kind][1] for kind in ("blur", "resize", "jpeg"))
        np.testing.assert_array_equal(result, compressed(back(blurred(image))))


@pytest.mark.parametrize("kind", ["blur", "resize", "noise", "webp", "jpeg"])
def test_a_share_is_hit_and_the_rest_is_left_alone(kind):
    images = np.repeat(IMAGES[:1, :8, :8], 60, axis=0)
    settings = Augment(**{kind: 0.3}, blur_sigma=(1.0, 2.0), resize_factor=(0.4, 0.6))
    out = degrade(images, settings, Draws(np.random.default_rng(0), 60))
    assert (out != images).any(axis=(1, 2, 3)).mean() == pytest.approx(0.3, abs=0.15)


def test_resizing_draws_the_way_there_and_the_way_back():
    images = np.repeat(IMAGES[:1], 200, axis=0)
    out = degrade(images, Augment(resize=1.0, resize_factor=(0.5, 0.5)), Draws(np.random.default_rng(0), 200))
    assert len({image.tobytes() for image in out}) == 16


def test_sizes_are_drawn_from_the_whole_range():
    images = np.repeat(IMAGES[:1], 30, axis=0)
    out = degrade(images, Augment(resize=1.0, resize_factor=(0.3, 1.4)), Draws(np.random.default_rng(0), 30))
    assert out.shape == images.shape
    assert len({image.tobytes() for image in out}) > 20


EVERYTHING = Augment(blur=0.5, resize=0.5, noise=0.5, webp=0.5, jpeg=0.5)


def test_an_image_is_degraded_the_same_whatever_is_beside_it():
    first = degrade(IMAGES, EVERYTHING, Draws(np.random.default_rng(1), 4))
    others = IMAGES.copy()
    others[[0, 2, 3]] = 255 - others[[0, 2, 3]]
    np.testing.assert_array_equal(degrade(others, EVERYTHING, Draws(np.random.default_rng(1), 4))[1], first[1])


def test_what_came_in_is_left_alone():
    before = IMAGES.copy()
    degraded(noise=1.0)
    np.testing.assert_array_equal(IMAGES, before)
