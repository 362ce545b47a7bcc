import io

import numpy as np
import pytest
from PIL import Image

from edgedet.data.augment import Augment


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)


def apply(augment: Augment, images: np.ndarray, *, height=8, width=10, seed=0):
    return augment(images, height, width, np.random.default_rng(seed))


EVERYTHING = Augment(shift=3, brightness=0.2, contrast=0.2, jpeg=0.5, cutout=3)


def test_the_seed_decides_everything(images):
    first, flipped = apply(EVERYTHING, images)
    again, flipped_again = apply(EVERYTHING, images)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(flipped, flipped_again)
    assert not np.array_equal(first, apply(EVERYTHING, images, seed=1)[0])
    assert first.dtype == np.uint8


def test_flips_alone_give_the_image_or_its_mirror_image(images):
    augment = Augment(hflip=True)
    assert augment.only_flips
    out, flipped = apply(augment, images)
    assert 0 < flipped.sum() < 6
    for image, result, mirrored in zip(images, out, flipped, strict=True):
        np.testing.assert_array_equal(result, image[:, ::-1] if mirrored else image)


def test_nothing_asked_is_nothing_done(images):
    out, flipped = apply(Augment(hflip=False), images)
    np.testing.assert_array_equal(out, images)
    assert not flipped.any()


def mirrored(position: int, side: int) -> int:
    while not 0 <= position < side:
        position = -1 - position if position < 0 else 2 * side - 1 - position
    return position


@pytest.mark.parametrize("shift", [2, 7, 25])
def test_shifts_mirror_at_the_edges(images, shift):
    """Each result is the image read from some offset; 25 is farther than the image is wide."""
    out, _ = apply(Augment(hflip=False, shift=shift), images)
    for image, result in zip(images, out, strict=True):
        found = [
            (dy, dx)
            for dy in range(-shift, shift + 1)
            for dx in range(-shift, shift + 1)
            if np.array_equal(
                result, image[[mirrored(y + dy, 8) for y in range(8)]][:, [mirrored(x + dx, 10) for x in range(10)]]
            )
        ]
        assert found


def test_crops_come_from_within_the_margin(images):
    out, _ = apply(Augment(hflip=False, margin=3), images, height=5, width=7)
    assert out.shape == (6, 5, 7, 3)
    windows = [[image[y : y + 5, x : x + 7] for y in range(4) for x in range(4)] for image in images]
    for result, candidates in zip(out, windows, strict=True):
        assert any(np.array_equal(result, candidate) for candidate in candidates)


def test_recompression_is_pillows_and_only_of_the_chosen_share(images):
    out, _ = apply(Augment(hflip=False, jpeg=0.5, jpeg_quality=(60, 60)), images)
    outcomes = []
    for image, result in zip(images, out, strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=60)
        compressed = np.asarray(Image.open(file))
        assert np.array_equal(result, image) or np.array_equal(result, compressed)
        outcomes.append(np.array_equal(result, compressed))
    assert 0 < sum(outcomes) < 6


def test_brightness_moves_every_pixel_alike_and_stops_at_white():
    grey = np.full((50, 4, 4, 3), 230, np.uint8)
    out, _ = apply(Augment(hflip=False, brightness=0.2), grey, height=4, width=4)
    levels = out[:, 0, 0, 0]
    assert (out == levels[:, None, None, None]).all()
    assert levels.min() >= 230 - 51
    assert levels.max() == 255


def test_contrast_leaves_the_mean(images):
    dull = (images // 4 + 96).astype(np.uint8)
    out, _ = apply(Augment(hflip=False, contrast=0.5), dull)
    np.testing.assert_allclose(out.mean(axis=(1, 2, 3)), dull.mean(axis=(1, 2, 3)), atol=0.6)
    assert not np.array_equal(out, dull)


def test_cutout_is_one_grey_square(images):
    bright = np.full_like(images, 255)
    out, _ = apply(Augment(hflip=False, cutout=3), bright)
    for result in out:
        rows, columns = np.nonzero(result[..., 0] == 128)
        assert len(rows) == 9
        assert (rows.max() - rows.min(), columns.max() - columns.min()) == (2, 2)


@pytest.mark.parametrize("change", ["shift", "margin", "cutout"])
def test_only_flips_is_not_said_of_more(change):
    assert not Augment(**{change: 1}).only_flips


def test_qualities_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="lower first, got \\(90, 40\\)"):
        Augment(jpeg_quality=(90, 40))
