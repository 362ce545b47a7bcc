import math

import numpy as np
import pytest
from fixed_draws import Highest, smooth

from edgedet.data.augment import Augment
from edgedet.data.augment.draws import Draws
from edgedet.data.augment.geometry import place
from edgedet.errors import DataError


def mirrored(position: int, side: int) -> int:
    while not 0 <= position < side:
        position = -1 - position if position < 0 else 2 * side - 1 - position
    return position


def read(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """The colour at a point, in float64: bilinear between the middles of pixels, the image mirrored at its edges."""
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    total = np.zeros(3)
    for column in (left, left + 1):
        for row in (top, top + 1):
            weight = (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row))
            total += weight * image[mirrored(row, image.shape[0]), mirrored(column, image.shape[1])].astype(np.float64)
    return total


def slowly(image, height, width, *, left=0, top=0, wide=1.0, high=1.0, x=0.0, y=0.0, degrees=0.0, mirror=False, upend=False):
    """One output pixel after the other: from the middle of the window at (left, top), scaled, turned, and moved by (x, y)."""
    out = np.empty((height, width, 3))
    angle = math.radians(degrees)
    for row in range(height):
        for column in range(width):
            dx = (column + 0.5 - width / 2) * wide * (-1 if mirror else 1)
            dy = (row + 0.5 - height / 2) * high * (-1 if upend else 1)
            at_x = left + width / 2 + x + dx * math.cos(angle) - dy * math.sin(angle)
            at_y = top + height / 2 + y + dx * math.sin(angle) + dy * math.cos(angle)
            out[row, column] = read(image, at_x, at_y)
    return out


def placed(settings: Augment, images: np.ndarray, height=20, width=24, *, chosen=False) -> np.ndarray:
    return place(images, height, width, settings, Highest(len(images), chosen=chosen))[0]


NONE = {"hflip": False}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"rotation": 30.0}, {"degrees": 30}),
        ({"rotation": 180.0}, {"degrees": 180}),
        ({"zoom": 0.25}, {"wide": 1.25, "high": 1.25}),
        ({"rotation": 15.0, "zoom": 0.1, "shift": 3}, {"degrees": 15, "wide": 1.1, "high": 1.1, "left": 3, "top": 3}),
        ({"zoom": 0.5, "shift": 60}, {"wide": 1.5, "high": 1.5, "left": 60, "top": 60}),
    ],
)
def test_turns_and_zooms_are_those_of_a_slow_bilinear_reading(settings, expected):
    """Within two grey levels: Pillow adds up in float32 and cuts off what is behind the point."""
    images = smooth()
    found = placed(Augment(**NONE, **settings), images)
    for image, result in zip(images, found, strict=True):
        np.testing.assert_allclose(result, slowly(image, 20, 24, **expected), atol=2)


def test_a_part_of_the_area_is_enlarged_to_the_whole():
    """A quarter of the area, twice as wide as high, at the right and at the bottom: half of what it leaves."""
    images = smooth(height=24, width=24)
    settings = Augment(**NONE, crop_area=(0.25, 0.25), crop_ratio=(2, 2))
    wide, high = math.sqrt(0.5), math.sqrt(0.125)
    found = placed(settings, images, 24, 24)
    for image, result in zip(images, found, strict=True):
        slow = slowly(image, 24, 24, wide=wide, high=high, x=12 * (1 - wide), y=12 * (1 - high))
        np.testing.assert_allclose(result, slow, atol=2)


def test_a_crop_never_leaves_the_image():
    """With black around it nothing black is seen, but for the half pixel by which interpolation reads beyond the edge."""
    images = np.zeros((40, 36, 36, 3), np.uint8)
    images[:, 5:-5, 5:-5] = 255
    settings = Augment(**NONE, margin=12, crop_area=(0.05, 1.0), crop_ratio=(0.2, 5.0))
    draws = Draws(np.random.default_rng(0), 40)
    draws.integers = lambda low, high: np.full(40, (low + high) // 2)  # the window in the middle of the margin
    out, _ = place(images, 24, 24, settings, draws)
    assert out.min() == 255


def test_mirrors_hold_also_where_pixels_are_computed():
    images = smooth()
    straight = placed(Augment(**NONE, zoom=0.2), images)
    both = placed(Augment(hflip=True, vflip=True, zoom=0.2), images, chosen=True)
    np.testing.assert_allclose(both.astype(int), straight[:, ::-1, ::-1].astype(int), atol=1)
    turned = placed(Augment(hflip=True, rotation=20.0), images, chosen=True)
    for image, result in zip(images, turned, strict=True):
        np.testing.assert_allclose(result, slowly(image, 20, 24, degrees=20, mirror=True), atol=2)


def test_what_a_turn_shows_beyond_the_window_comes_from_the_margin():
    """The stored image is 8 pixels larger: nothing of the mirrored rest is seen, which would be darker."""
    images = np.full((2, 32, 32, 3), 200, np.uint8)
    images[:, 1:-1, 1:-1] = 100
    assert (placed(Augment(**NONE, rotation=45.0, margin=8), images, 20, 20) <= 200).all()
    draws = Highest(2)
    draws.integers = lambda low, high: np.full(2, (low + high) // 2)
    out, _ = place(images, 20, 20, Augment(**NONE, rotation=45.0, margin=12), draws)
    assert (out == 100).all()


def test_upended_images_are_read_from_the_bottom():
    images = smooth()
    out, flipped = place(images, 20, 24, Augment(hflip=False, vflip=True), Highest(3))
    np.testing.assert_array_equal(out, images[:, ::-1])
    assert not flipped.any(), "which is told of left and right alone"


def test_quarter_turns_are_exact_and_all_of_them_come():
    images = smooth(40, 16, 16)
    out, _ = place(images, 16, 16, Augment(hflip=False, rot90=True), Draws(np.random.default_rng(0), 40))
    found = set()
    for image, result in zip(images, out, strict=True):
        found.add(next(times for times in range(4) if np.array_equal(result, np.rot90(image, times))))
    assert found == {0, 1, 2, 3}


def test_quarter_turns_of_what_is_not_square_are_refused():
    with pytest.raises(DataError, match="rot90 needs a square input, got 20x24"):
        placed(Augment(rot90=True), smooth())


@pytest.mark.parametrize("shift", [2, 7, 25])
def test_shifts_mirror_at_the_edges(shift):
    """25 is farther than the image is wide."""
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)
    draws = Draws(np.random.default_rng(3), 6)
    out, _ = place(images, 8, 10, Augment(hflip=False, shift=shift), draws)
    again = np.random.default_rng(3)
    tops, lefts = (again.integers(-shift, shift + 1, 6) for _ in range(2))
    for image, result, top, left in zip(images, out, tops, lefts, strict=True):
        rows, columns = [mirrored(top + n, 8) for n in range(8)], [mirrored(left + n, 10) for n in range(10)]
        np.testing.assert_array_equal(result, image[rows][:, columns])


def test_the_stored_images_are_left_alone():
    images = smooth()
    before = images.copy()
    place(images, 20, 24, Augment(), Highest(3))[0][:] = 0
    np.testing.assert_array_equal(images, before)
