import math

import numpy as np
import pytest
from fixed_draws import Highest, smooth
from PIL import Image

from edgedet.data.augment import Augment
from edgedet.data.augment.colour import recolour
from edgedet.data.augment.draws import Draws


def recoloured(images: np.ndarray, *, chosen=True, **settings) -> np.ndarray:
    return recolour(images.copy(), Augment(**settings), Highest(len(images), chosen=chosen))


def slowly(image, *, gain=1.0, offset=0.0, turn=0.0, saturation=1.0) -> np.ndarray:
    """Pixel by pixel in float64: contrast about the mean, brightness, then I and Q turned and scaled, Y kept."""
    values = [[float(v) for v in pixel] for row in image for pixel in row]
    middle = sum(map(sum, values)) / (3 * len(values))
    out = []
    for pixel in values:
        r, g, b = ((v - middle) * gain + middle + offset for v in pixel)
        y = 0.299 * r + 0.587 * g + 0.114 * b
        i, q = 0.596 * r - 0.274 * g - 0.322 * b, 0.211 * r - 0.523 * g + 0.312 * b
        i, q = (
            saturation * (math.cos(turn) * i - math.sin(turn) * q),
            saturation * (math.sin(turn) * i + math.cos(turn) * q),
        )
        out.append((y + 0.956 * i + 0.621 * q, y - 0.272 * i - 0.647 * q, y - 1.106 * i + 1.703 * q))
    return np.clip(np.reshape(out, image.shape), 0, 255)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"brightness": 0.2}, {"offset": 51.0}),
        ({"contrast": 0.3}, {"gain": 1.3}),
        ({"saturation": 0.5}, {"saturation": 1.5}),
        ({"hue": 0.1}, {"turn": 0.2 * math.pi}),
        ({"brightness": 0.1, "contrast": 0.2, "hue": 0.5, "saturation": 0.3},
         {"offset": 25.5, "gain": 1.2, "turn": math.pi, "saturation": 1.3}),
    ],
)  # fmt: skip
def test_all_of_it_is_what_a_slow_sum_gives(settings, expected):
    """Within one level, half of which is rounding; the textbook's matrices have three digits."""
    images = smooth()
    for image, result in zip(images, recoloured(images, **settings), strict=True):
        np.testing.assert_allclose(result, slowly(image, **expected), atol=1.5)


def test_greyscale_is_pillows():
    images = smooth()
    for image, result in zip(images, recoloured(images, greyscale=0.5), strict=True):
        grey = np.asarray(Image.fromarray(image).convert("L")).astype(int)
        np.testing.assert_allclose(result, np.repeat(grey[..., None], 3, axis=2), atol=1)


def test_a_share_loses_its_colours_and_the_rest_keeps_them():
    images = smooth(200, 4, 4)
    out = recolour(images.copy(), Augment(greyscale=0.3), Draws(np.random.default_rng(0), 200))
    grey = (np.ptp(out.astype(int), axis=3) <= 1).all(axis=(1, 2))
    assert grey.mean() == pytest.approx(0.3, abs=0.1)
    np.testing.assert_allclose(out[~grey].astype(int), images[~grey].astype(int), atol=1)


def test_a_grey_image_has_no_colours_to_turn():
    grey = np.repeat(smooth()[..., :1], 3, axis=3)
    np.testing.assert_allclose(recoloured(grey, hue=0.3, saturation=0.9).astype(int), grey.astype(int), atol=1)


def test_changes_go_both_ways():
    grey = np.full((60, 4, 4, 3), 120, np.uint8)
    levels = recolour(grey, Augment(brightness=0.1), Draws(np.random.default_rng(0), 60))[:, 0, 0, 0].astype(int)
    assert levels.min() < 110
    assert levels.max() > 130
    assert abs(levels - 120).max() <= 26
