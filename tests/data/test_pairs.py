"""What both sides of a pair share: where a photograph is cut, and how the two are saved."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from edgedet.data.index import Row
from edgedet.data.pairs import Codec, Cut, PairConfig, choice, cut, fake_path, is_whole, real_path, without_colour_like
from edgedet.data.pairs import write_manifest as write
from edgedet.data.scan import scan
from edgedet.errors import ImageError, RecipeError
from edgedet.preprocess import decode, header
from edgedet.recipe import convert


def content(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


CONTENT = content(0)


def encoded(pixels, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def scene(height: int, width: int, seed: int = 0):
    """Smooth colours with edges, so that JPEG leaves its grid."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def blockiness(pixels) -> float:
    """How much larger the steps across the borders of 8x8 blocks are than the others; 1 without a grid."""
    steps = np.abs(np.diff(pixels.astype(float).mean(2), axis=1)).mean(0)
    on_grid = steps[7::8].mean()
    return float(on_grid / np.delete(steps, np.s_[7::8]).mean())


def cut_many(data: bytes, config: PairConfig, count: int = 20) -> list[Cut]:
    return [cut(data, content(number), config) for number in range(count)]


def test_a_whole_photograph_loses_what_is_no_multiple_of_eight():
    config = PairConfig(old_grid="align")
    assert cut(encoded(scene(61, 90)), CONTENT, config).pixels.shape == (56, 88, 3)
    assert cut(encoded(scene(61, 90)), CONTENT, PairConfig(scale=(0.5, 0.5))).pixels.shape == (24, 40, 3)


def test_a_large_photograph_is_cut_to_the_largest_side():
    assert cut(encoded(scene(61, 190)), CONTENT, PairConfig(old_grid="align", largest=64)).pixels.shape == (56, 64, 3)


@pytest.mark.parametrize("old_grid", ["downscale", "align"])
def test_a_crop_has_the_side_that_is_asked_for_and_its_place_is_drawn(old_grid):
    found = cut_many(encoded(scene(120, 200)), PairConfig(crop=64, old_grid=old_grid))
    assert {each.pixels.shape for each in found} == {(64, 64, 3)}
    assert len({each.pixels.tobytes() for each in found}) > 10
    assert {each.codec.quality for each in found} <= set(range(75, 97))
    assert len({each.codec.quality for each in found}) > 8


def test_what_is_drawn_depends_on_content_and_seed_alone():
    data, config = encoded(scene(120, 200)), PairConfig(crop=64)
    first, again = cut(data, CONTENT, config), cut(data, CONTENT, config)
    assert first.pixels.tobytes() == again.pixels.tobytes()
    assert first.codec == again.codec
    assert cut(data, CONTENT, PairConfig(crop=64, seed=1)).pixels.tobytes() != first.pixels.tobytes()


def test_generators_are_drawn_evenly():
    counts = np.bincount([choice(content(number), 0, 4) for number in range(2000)])
    assert len(counts) == 4
    assert counts.min() > 400


@pytest.mark.parametrize(("height", "width", "crop"), [(64, 200, 64), (7, 200, None)])
def test_a_photograph_that_is_too_small_says_so(height, width, crop):
    with pytest.raises(ImageError, match=f"{width}x{height}.* is smaller than the {crop or 8} px"):
        cut(encoded(scene(height + 12, width)[:height]), CONTENT, PairConfig(crop=crop))


def test_a_shrunk_crop_is_the_shrunk_photograph_at_that_place():
    """The whole photograph at half its size, and the cut of it."""
    photo = scene(128, 128)
    whole = np.asarray(Image.fromarray(photo).resize((64, 64), Image.Resampling.BICUBIC)).astype(int)
    found = cut(encoded(photo), CONTENT, PairConfig(scale=(0.5, 0.5))).pixels
    assert np.abs(found - whole).max() == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_aligned_cut_begins_on_the_grid_of_the_file_however_it_is_turned(orientation):
    """Every block of the file's grid has one colour: so has every block of the cut."""
    blocks = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    stored = blocks.repeat(16, axis=0).repeat(16, axis=1)[:107, :139]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, exif=exif)
    for config in (PairConfig(old_grid="align", crop=48), PairConfig(old_grid="align")):
        for found in cut_many(data, config, 5):
            rows, columns = (side // 16 * 16 for side in found.pixels.shape[:2])
            whole = found.pixels[:rows, :columns].reshape(rows // 16, 16, columns // 16, 16, 3)
            assert (whole == whole[:, :1, :, :1]).all()


def test_shrinking_leaves_nothing_of_the_old_grid():
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3)))
    data = encoded(smooth, "JPEG", quality=30)
    assert blockiness(np.asarray(decode(data))) > 1.5
    grids = [blockiness(found.pixels) for found in cut_many(data, PairConfig(crop=160), 10)]
    assert max(grids) < 1.1


def test_aligned_and_saved_with_its_own_tables_a_photograph_hardly_changes():
    data = encoded(scene(96, 128), "JPEG", quality=83, subsampling="4:4:4")
    found = cut(data, CONTENT, PairConfig(old_grid="align", jpeg="photo"))
    again = found.codec.encode(found.pixels)
    assert header(again).tables == header(data).tables
    assert header(again).subsampling == "4:4:4"
    assert found.codec.quality == 83
    assert np.abs(np.asarray(decode(again)).astype(int) - found.pixels).mean() < 0.5
    standard = Codec(83, "4:4:4").encode(found.pixels)
    assert header(standard).tables == header(data).tables


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_its_own_tables_are_turned_as_it_is(orientation):
    exif, table = Image.Exif(), [1 + 3 * (place % 8) for place in range(64)]
    exif[0x0112] = orientation
    data = encoded(scene(96, 128), "JPEG", qtables=[table, table], subsampling="4:4:4", exif=exif)
    found = cut(data, CONTENT, PairConfig(old_grid="align", jpeg="photo"))
    again = np.asarray(decode(found.codec.encode(found.pixels))).astype(int)
    assert np.abs(again - found.pixels).mean() < 0.3  # 1.1 where they are not


def test_a_photograph_without_tables_has_its_quality_drawn():
    found = cut(encoded(scene(96, 128)), CONTENT, PairConfig(jpeg="photo", quality=(80, 80)))
    assert (found.codec.quality, found.codec.subsampling, found.codec.tables) == (80, "4:2:0", None)


def test_nothing_but_the_pixels_is_saved():
    exif = Image.Exif()
    exif[0x010F] = "camera maker"
    data = encoded(scene(96, 128), "JPEG", exif=exif, icc_profile=b"profile")
    found = cut(data, CONTENT, PairConfig())
    with Image.open(io.BytesIO(found.codec.encode(found.pixels))) as image:
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert not image.getexif()


def test_a_grey_photograph_gets_a_grey_fake():
    grey = np.repeat(scene(16, 24)[..., :1], 3, axis=2)
    fake = np.clip(grey.astype(int) + np.array([2, 0, -2]), 0, 255).astype(np.uint8)
    assert not np.ptp(without_colour_like(grey, fake), axis=2).any()
    assert without_colour_like(scene(16, 24), fake) is fake


def test_an_image_that_was_cut_short_is_not_whole(tmp_path):
    data = Codec(90, "4:2:0").encode(scene(24, 24))
    (tmp_path / "whole.jpg").write_bytes(data)
    (tmp_path / "short.jpg").write_bytes(data[:-1])
    (tmp_path / "empty.jpg").touch()
    found = {name: is_whole(tmp_path / f"{name}.jpg") for name in ("whole", "short", "empty", "absent")}
    assert found == {"whole": True, "short": False, "empty": False, "absent": False}


def test_the_table_is_one_that_a_scan_reads(tmp_path):
    photos = [Row(path=f"p{n}.jpg", label=0, split=split, sha256=content(n)) for n, split in enumerate(("train", "test"))]
    for number, photo in enumerate(photos):
        for path in (real_path(photo), fake_path(photo, "one"), fake_path(photo, "two")):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(Codec(80 + number, "4:2:0").encode(scene(24, 24, seed=len(path) + number)))
    entries = write(tmp_path, [(photo, ("one", "two")) for photo in photos])
    assert {(each.source, each.jpeg_quality) for each in entries} == {("p0.jpg", 80), ("p1.jpg", 81)}
    index = scan(tmp_path, shares={}).index
    assert [(row.path, row.label, row.generator, row.split, row.pair) for row in index.rows] == [
        (each.path, each.label, each.generator, each.split, each.pair) for each in entries
    ]
    assert {row.generator for row in index.rows} == {"camera", "one", "two"}
    assert len({row.pair for row in index.rows}) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [("crop", 100), ("crop", 0), ("scale", [0.9, 0.6]), ("scale", [0.6, 1.0]), ("quality", [96, 75]), ("old_grid", "keep")],
)
def test_a_setting_that_makes_no_sense_is_refused(key, value):
    with pytest.raises(RecipeError, match=key):
        convert({key: value}, PairConfig, source="here")
