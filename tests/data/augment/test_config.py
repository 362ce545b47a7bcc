import io

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgedet.data.augment import Augment
from edgedet.data.augment.draws import Draws
from edgedet.data.augment.geometry import place


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)


def apply(augment: Augment, images: np.ndarray, *, height=8, width=10, seed=0):
    return augment(images, height, width, np.random.default_rng(seed))


EVERYTHING = Augment(
    hflip=True, vflip=True, rotation=20.0, zoom=0.1, crop_area=(0.5, 1.0), shift=3, brightness=0.2, contrast=0.2,
    saturation=0.2, hue=0.1, greyscale=0.2, blur=0.3, resize=0.3, noise=0.3, webp=0.3, jpeg=0.5, mask=0.5, mask_patch=4,
    cutout=3,
)  # fmt: skip


def test_the_seed_decides_everything(images):
    first, flipped = apply(EVERYTHING, images)
    again, flipped_again = apply(EVERYTHING, images)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(flipped, flipped_again)
    assert not np.array_equal(first, apply(EVERYTHING, images, seed=1)[0])
    assert first.dtype == np.uint8


def test_flips_alone_give_the_image_or_its_mirror_image(images):
    augment = Augment(hflip=True)
    assert augment.moving == ()
    out, flipped = apply(augment, images)
    assert 0 < flipped.sum() < 6
    for image, result, mirrored in zip(images, out, flipped, strict=True):
        np.testing.assert_array_equal(result, image[:, ::-1] if mirrored else image)


def test_nothing_asked_is_nothing_done(images):
    out, flipped = apply(Augment(hflip=False), images)
    np.testing.assert_array_equal(out, images)
    assert not flipped.any()


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


def test_an_image_becomes_the_same_whatever_is_beside_it(images):
    first, _ = apply(EVERYTHING, images)
    others = images.copy()
    others[[0, 2, 3, 4, 5]] = 255 - others[[0, 2, 3, 4, 5]]
    np.testing.assert_array_equal(apply(EVERYTHING, others)[0][1], first[1])


def test_both_images_of_a_pair_become_the_same(images):
    """A photograph and its reconstruction: here they are equal, so what comes out of them must be."""
    twins = images.repeat(2, axis=0)
    out, flipped = EVERYTHING(twins, 8, 10, np.random.default_rng(0), paired=True)
    np.testing.assert_array_equal(out[::2], out[1::2])
    np.testing.assert_array_equal(flipped[::2], flipped[1::2])
    assert not np.array_equal(*EVERYTHING(twins, 8, 10, np.random.default_rng(0))[0][:2])


def test_of_the_two_views_one_is_what_a_call_gives_and_the_other_is_it_before_degradation(images):
    clean, degraded, flipped = EVERYTHING.views(images, 8, 10, np.random.default_rng(0))
    out, flipped_too = apply(EVERYTHING, images)
    np.testing.assert_array_equal(degraded, out)
    np.testing.assert_array_equal(flipped, flipped_too)
    changes = dict.fromkeys(("blur", "resize", "noise", "webp", "jpeg"), 0.0)
    geometry = msgspec.structs.replace(EVERYTHING, **changes, mask=0.0, cutout=0)
    plain, _ = apply(geometry, images)
    grey = (degraded == 128).all(axis=3) & (clean == 128).all(axis=3)
    np.testing.assert_array_equal(clean[~grey], plain[~grey])
    assert not np.array_equal(clean, degraded)
    assert grey.any(axis=(1, 2)).all(), "the same parts are hidden in both"


def test_without_degradations_both_views_are_one(images):
    augment = Augment(cutout=3)
    assert not augment.degrades
    clean, degraded, _ = augment.views(images, 8, 10, np.random.default_rng(0))
    np.testing.assert_array_equal(clean, degraded)


PLAIN = Augment()
SET = {key: getattr(EVERYTHING, key) for key in PLAIN.__struct_fields__}
STRENGTHS = {key: value for key, value in SET.items() if value != getattr(PLAIN, key)}


@pytest.mark.parametrize("key", [*STRENGTHS, "rot90", "margin"])
def test_a_key_moves_pixels_or_leaves_them_where_they_are(key):
    value = {"rot90": True, "margin": 4}.get(key, STRENGTHS.get(key))
    augment = Augment(hflip=False, **{key: value})
    stored = np.random.default_rng(0).integers(0, 256, (20, 12 + augment.margin, 12 + augment.margin, 3), dtype=np.uint8)
    placed, _ = place(stored, 12, 12, augment, Draws(np.random.default_rng(0), 20))
    moved = not np.array_equal(placed, stored)
    assert augment.moving == ((key,) if moved else ())
    assert augment.hiding == ((key,) if key in ("mask", "cutout") else ())


@pytest.mark.parametrize("hflip", [False, True])
def test_ranges_of_what_is_off_move_and_hide_nothing(hflip):
    augment = Augment(hflip=hflip, crop_ratio=(0.5, 2.0), jpeg_quality=(10, 20), blur_sigma=(1, 2), mask_share=0.1)
    assert augment.moving == augment.hiding == ()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("jpeg_quality", (90, 40), r"numbers from 1 to 100, lower first, got \(90, 40\)"),
        ("webp_quality", (0, 40), r"from 1 to 100.*got \(0, 40\)"),
        ("crop_area", (0.0, 1.0), "from 0.001 to 1"),
        ("crop_ratio", (2.0, 0.5), "lower first"),
        ("blur_sigma", (-1.0, 1.0), "from 0 to 100"),
        ("resize_factor", (0.5, 17.0), "from 0.01 to 16"),
        ("noise_sigma", (0.1, 1.1), "from 0 to 1"),
    ],
)
def test_a_range_that_is_none_is_refused_with_its_key(key, value, words):
    with pytest.raises(ValueError, match=f"`{key}` must be two.*{words}"):
        Augment(**{key: value})


@pytest.mark.parametrize(
    ("key", "value"), [("rotation", 181), ("zoom", 1), ("hue", 0.6), ("jpeg", 1.1), ("mask_patch", 0), ("shift", -1)]
)
def test_a_value_out_of_range_names_its_key(key, value):
    with pytest.raises(msgspec.ValidationError, match=key):
        msgspec.convert({key: value}, Augment)
