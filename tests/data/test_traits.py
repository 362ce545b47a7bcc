import io

import numpy as np
import pytest
from PIL import Image

from edgedet.data.traits import fingerprint, grid_strength, traits_of
from edgedet.errors import ImageError


def photograph(seed: int = 0, side: int = 64) -> Image.Image:
    """Smooth content with some texture."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse).astype(float) + rng.normal(0, 6, (side, side, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_a_jpeg_says_its_quality_and_its_chroma(sampling):
    data = encoded(photograph(), quality=83, subsampling=sampling)
    found = traits_of(data)
    assert (found.format, found.quality, found.sampling) == ("JPEG", 83, sampling)
    assert (found.width, found.height, found.size) == (64, 64, len(data))
    assert found.bytes_per_pixel == len(data) / 4096


def test_a_png_has_neither():
    found = traits_of(encoded(photograph(), "PNG"))
    assert (found.format, found.quality, found.sampling) == ("PNG", None, "")
    assert (found.exif, found.icc) == (False, False)


def test_metadata_is_seen():
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    found = traits_of(encoded(photograph(), exif=exif, icc_profile=b"profile"))
    assert (found.exif, found.icc) == (True, True)


def test_a_damaged_file_is_an_error():
    with pytest.raises(ImageError):
        traits_of(encoded(photograph())[:200])


def test_the_grid_of_the_codec_shows_at_its_place():
    """Place 7 is the step across a block's border; it stands out the more, the lower the quality."""
    strengths = [grid_strength(np.asarray(photograph().convert("L")))]
    for quality in (60, 20):
        strengths.append(list(traits_of(encoded(photograph(), quality=quality)).grid))
    last = [each[6] for each in strengths]
    assert last[0] < last[1] < last[2]
    assert np.argmax(strengths[2][:7]) == 6


def test_the_steps_of_every_place_against_a_loop():
    grey = np.asarray(photograph(side=40).convert("L"))
    steps = [[] for _ in range(8)]
    for column in range(39):
        for row in range(40):
            steps[column % 8].append(abs(int(grey[row, column + 1]) - int(grey[row, column])))
    mean = np.mean([step for place in steps for step in place])
    expected = [(np.mean(place) - mean) / mean for place in steps[1:]]
    np.testing.assert_allclose(grid_strength(grey)[:7], expected, atol=1e-5)


def test_a_flat_image_has_no_steps_and_no_fingerprint():
    flat = np.full((32, 32), 90, np.uint8)
    assert grid_strength(flat) == [0.0] * 14
    assert fingerprint(flat) == 0


def test_a_fingerprint_survives_the_codec_and_scaling_but_no_other_picture_has_it():
    first = traits_of(encoded(photograph(1), "PNG")).fingerprint
    again = traits_of(encoded(photograph(1).resize((48, 48), Image.Resampling.BICUBIC), quality=70)).fingerprint
    other = traits_of(encoded(photograph(2), "PNG")).fingerprint
    assert (first ^ again).bit_count() <= 3
    assert (first ^ other).bit_count() > 12
