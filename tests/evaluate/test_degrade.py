import io

import numpy as np
import pytest
from PIL import Image

from edgedet.errors import DataError
from edgedet.evaluate.degrade import ROBUSTNESS, degrade


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with a little grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), mode="RGB").resize((width, height))
    grain = rng.normal(scale=6, size=(height, width, 3))
    return Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8), mode="RGB")


def encoded(image: Image.Image, form: str, **options) -> np.ndarray:
    file = io.BytesIO()
    image.save(file, form, **options)
    return np.asarray(Image.open(file).convert("RGB"))


def same(image: Image.Image, pixels: np.ndarray) -> bool:
    return np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("quality", [40, 60, 95])
def test_jpeg_and_webp_are_pillows_at_that_quality(quality):
    image = photo(40, 30)
    assert same(degrade(f"jpeg-{quality}", image), encoded(image, "JPEG", quality=quality, subsampling=2))
    assert same(degrade(f"webp-{quality}", image), encoded(image, "WEBP", quality=quality))


def test_clean_is_the_image_itself():
    image = photo(20, 10)
    assert degrade("clean", image) is image


@pytest.mark.parametrize(("name", "size"), [("resize-0.5-bilinear", (10, 6)), ("resize-1.5-lanczos", (30, 18))])
def test_resize_multiplies_both_sides(name, size):
    image = photo(20, 12)
    changed = degrade(name, image)
    assert changed.size == size
    assert same(changed, np.asarray(image.resize(size, {"b": 2, "l": 1}[name.split("-")[2][0]])))


def test_tiers_at_32_pixels_are_jpeg_alone():
    image = photo(32, 32)
    assert same(degrade("web", image), encoded(image, "JPEG", quality=60, subsampling=2))
    assert same(degrade("hard", image), encoded(image, "JPEG", quality=40, subsampling=2))


def test_tiers_of_a_photograph_are_made_smaller_first():
    image = photo(1000, 500)
    web = image.resize((768, 384), Image.Resampling.LANCZOS)
    hard = image.resize((512, 256), Image.Resampling.LANCZOS)
    assert same(degrade("web", image), encoded(web, "JPEG", quality=60, subsampling=2))
    assert same(degrade("hard", image), encoded(hard, "JPEG", quality=40, subsampling=2))


def test_a_tier_is_a_social_chain_and_double_compression_is_twice():
    image = photo(900, 300)
    assert same(degrade("social-768-60", image), np.asarray(degrade("web", image)))
    once = degrade("jpeg-60", photo(40, 40))
    assert same(degrade("double-60-90", photo(40, 40)), encoded(once, "JPEG", quality=90, subsampling=2))


def test_crops_keep_the_middle_and_bars_surround_it():
    image = photo(40, 20)
    pixels = np.asarray(image)
    assert same(degrade("crop-0.5", image), pixels[5:15, 10:30])
    boxed = np.asarray(degrade("letterbox", image))
    assert boxed.shape == (22, 40, 3)
    assert np.array_equal(boxed[1:21], pixels)
    assert not boxed[0].any()
    assert degrade("letterbox", photo(16, 9)).size == (16, 9)
    assert degrade("letterbox", photo(90, 90)).size == (160, 90)


def test_a_round_trip_comes_back_to_its_size_with_less_detail():
    image = photo(64, 48)
    back = degrade("roundtrip-16", image)
    assert back.size == image.size
    assert np.asarray(back, float).std() < np.asarray(image, float).std()
    assert same(degrade("roundtrip-100", image), np.asarray(image))


def test_colour_light_and_direction():
    image = photo(12, 8)
    pixels = np.asarray(image).astype(float)
    grey = np.asarray(degrade("grey", image))
    assert (grey[..., 0] == grey[..., 1]).all()
    assert same(degrade("flip", image), np.asarray(image)[:, ::-1])
    np.testing.assert_allclose(np.asarray(degrade("brightness-0.8", image)), 0.8 * pixels, atol=1)
    assert np.asarray(degrade("contrast-0.5", image), float).std() < 0.6 * pixels.std()
    assert degrade("screenshot", photo(100, 50)).size == (90, 45)


def test_every_step_of_the_sweep_is_a_degradation_of_its_own():
    assert len(set(ROBUSTNESS)) == len(ROBUSTNESS) > 50
    image = photo(300, 200)
    for name in ROBUSTNESS:
        assert degrade(name, image).mode == "RGB"


def test_noise_has_its_level_and_its_seed():
    grey = Image.new("RGB", (100, 100), (128, 128, 128))
    first, again, other = (np.asarray(degrade("noise-0.05", grey, seed)) for seed in (1, 1, (1, 2)))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (first / 255.0).std() == pytest.approx(0.05, rel=0.05)


def test_blur_keeps_the_mean_and_lowers_the_contrast():
    before, after = (np.asarray(image, dtype=float) for image in (photo(64, 64), degrade("blur-2", photo(64, 64))))
    assert after.mean() == pytest.approx(before.mean(), abs=1)
    assert np.abs(np.diff(after, axis=1)).mean() < 0.6 * np.abs(np.diff(before, axis=1)).mean()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jpg-60", "did you mean 'jpeg'?; there are: clean, web, hard, jpeg-Q"),
        ("societal", "no degradation is called 'societal'"),
        ("social-0-60", "long side in pixels, got '0'"),
        ("social-768", "quality from 1 to 100, got ''"),
        ("double-75", "quality from 1 to 100, got ''"),
        ("crop-0", "level from 0.01 to 1, got '0'"),
        ("jpeg-0", "quality from 1 to 100, got '0'"),
        ("jpeg-", "quality from 1 to 100, got ''"),
        ("webp-101", "quality from 1 to 100"),
        ("resize-half-bilinear", "level from 0.01 to 16, got 'half'"),
        ("resize-0.5-cubic", "one of nearest, bilinear, bicubic, lanczos, got 'cubic'"),
        ("noise-nan", "level from 0 to 1, got 'nan'"),
    ],
)
def test_an_unknown_name_or_level_is_refused_with_what_there_is(name, message):
    with pytest.raises(DataError) as caught:
        degrade(name, photo(8, 8))
    assert message in str(caught.value)
