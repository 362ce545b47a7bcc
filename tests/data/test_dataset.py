import numpy as np
import pytest
from PIL import Image

from edgedet.data import dataset
from edgedet.data.dataset import CachedSet, DecodedSet, at_once, in_batches, open_set
from edgedet.data.index import Index, Row
from edgedet.errors import DataError, ImageError
from edgedet.preprocess import Preprocess


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def index(tmp_path) -> Index:
    rng = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    return Index(tmp_path, tuple(Row(path=f"{number}.png", label=number % 2) for number in range(5)))


SMALL = Preprocess(height=6, width=4)


def test_cached_and_decoded_pixels_are_the_same(index, monkeypatch):
    cached = open_set(index, SMALL)
    monkeypatch.setattr(dataset, "CACHE_LIMIT", 5 * 6 * 4 * 3 - 1)
    decoded = open_set(index, SMALL)
    assert (type(cached), type(decoded)) == (CachedSet, DecodedSet)
    positions = np.array([3, 0, 3])
    np.testing.assert_array_equal(cached.gather(positions), decoded.gather(positions))
    assert cached.gather(positions).shape == (3, 6, 4, 3)
    assert len(cached) == len(decoded) == 5


def test_images_of_many_sizes_cannot_be_batched(index):
    with pytest.raises(DataError, match="train with a crop or a resize"):
        open_set(index, Preprocess(geometry="native"))


def test_a_damaged_image_is_named_when_it_is_reached(index):
    (index.root / "2.png").write_bytes(b"not an image")
    images = DecodedSet(index, SMALL)
    images.gather(np.array([0, 1]))
    with pytest.raises(ImageError, match=r"2\.png: .*not an image"):
        images.gather(np.array([2]))


@pytest.mark.parametrize(("size", "rank", "world", "expected"), [
    (2, 0, 1, [[0, 1], [2, 3], [4]]),
    (2, 1, 2, [[2, 3]]),
    (9, 0, 1, [[0, 1, 2, 3, 4]]),
    (9, 1, 2, []),
])  # fmt: skip
def test_batches_are_in_order_and_shared_out_over_processes(index, size, rank, world, expected):
    images = open_set(index, SMALL)
    found = list(in_batches(images, size, rank=rank, world=world))
    assert [positions.tolist() for positions, _ in found] == expected
    for positions, pixels in found:
        np.testing.assert_array_equal(pixels, images.gather(positions))


def test_of_large_images_fewer_are_taken_at_once(index, monkeypatch):
    images = open_set(index, SMALL)
    monkeypatch.setattr(dataset, "MOST_PIXELS", 2 * 6 * 4 + 1)
    assert [at_once(images, size) for size in (1, 2, 9)] == [1, 2, 2]
    assert [list(positions) for positions, _ in in_batches(images, 9)] == [[0, 1], [2, 3], [4]]
    monkeypatch.setattr(dataset, "MOST_PIXELS", 1)
    assert at_once(images, 9) == 1
    assert at_once(DecodedSet(index.take([]), SMALL), 9) == 9
