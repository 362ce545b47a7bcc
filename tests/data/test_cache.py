"""The pixel cache holds what preprocessing gives, once, and says what is wrong when it cannot."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgedet.data.cache import PixelCache, same_pixels
from edgedet.data.index import Index, Row
from edgedet.errors import DataError
from edgedet.preprocess import Preprocess

SQUARE = Preprocess(geometry="resize_squash", height=8, width=12)


def photos(root: Path, count: int, size: tuple[int, int] = (20, 16)) -> Index:
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number:03}.png")
    return Index(root, tuple(Row(path=f"{number:03}.png", label=number % 2) for number in range(count)))


@pytest.mark.parametrize("size", [(20, 16), (90, 80)], ids=["one thread", "all cores"])
def test_the_cache_is_preprocessing_in_row_order(tmp_path: Path, size: tuple[int, int]) -> None:
    index = photos(tmp_path, 150, size).take(reversed(range(150)))
    cache = PixelCache.open(index, SQUARE, root=tmp_path / "cache")
    assert cache.pixels.shape == (150, 8, 12, 3)
    assert len(cache) == 150
    for position in range(150):
        assert np.array_equal(cache.pixels[position], SQUARE(tmp_path / index.rows[position].path))


def test_the_second_opening_decodes_nothing(tmp_path: Path) -> None:
    index = photos(tmp_path, 5)
    first = PixelCache.open(index, SQUARE, root=tmp_path / "cache")
    before = first.path.stat().st_mtime_ns
    again = PixelCache.open(index, SQUARE, root=tmp_path / "cache")
    assert again.path.stat().st_mtime_ns == before
    assert np.array_equal(first.pixels, again.pixels)


def test_normalisation_shares_the_cache_and_geometry_does_not(tmp_path: Path) -> None:
    index = photos(tmp_path, 3)
    other_mean = Preprocess(geometry="resize_squash", height=8, width=12, mean=(0.4, 0.4, 0.4))
    nearest = Preprocess(geometry="resize_squash", height=8, width=12, interpolation="nearest")
    path = PixelCache.open(index, SQUARE, root=tmp_path / "cache").path
    assert PixelCache.open(index, other_mean, root=tmp_path / "cache").path == path
    assert PixelCache.open(index, nearest, root=tmp_path / "cache").path != path


def test_a_cache_cut_short_is_made_again(tmp_path: Path) -> None:
    index = photos(tmp_path, 3)
    cache = PixelCache.open(index, SQUARE, root=tmp_path / "cache")
    expected = np.array(cache.pixels)
    cache.path.write_bytes(cache.path.read_bytes()[:300])
    assert np.array_equal(PixelCache.open(index, SQUARE, root=tmp_path / "cache").pixels, expected)


def test_native_needs_one_size(tmp_path: Path) -> None:
    index = photos(tmp_path, 3)
    Image.new("RGB", (21, 16)).save(tmp_path / "001.png")
    with pytest.raises(DataError, match=r"001\.png: 21x16, but the first image is 20x16.*native"):
        PixelCache.open(index, Preprocess(geometry="native"), root=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    index = photos(tmp_path, 3)
    (tmp_path / "002.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"002\.png.*not an image"):
        PixelCache.open(index, SQUARE, root=tmp_path / "cache")


def test_an_image_changed_since_the_scan_is_refused(tmp_path: Path) -> None:
    photos(tmp_path, 1)
    index = Index(tmp_path, (Row(path="000.png", label=0, sha256="0" * 64),))
    with pytest.raises(DataError, match="has changed since"):
        PixelCache.open(index, SQUARE, root=tmp_path / "cache")


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    index = photos(tmp_path, 40)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DataError, match=r"cannot be written: .*EDGEDET_CACHE"):
            PixelCache.open(index, SQUARE, root=tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_an_empty_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        PixelCache.open(Index(tmp_path, ()), SQUARE, root=tmp_path / "cache")


def test_what_is_done_inside_the_network_leaves_the_pixels_the_same() -> None:
    inside = Preprocess(geometry="resize_squash", height=8, width=12, mean=(0, 0, 0), std=(1, 1, 1))
    assert same_pixels(SQUARE, inside)
    assert not same_pixels(SQUARE, Preprocess(geometry="resize_squash", height=8, width=12, interpolation="bicubic"))
    assert not same_pixels(SQUARE, Preprocess(geometry="crop_only", height=8, width=12))
