import threading
import time

import numpy as np
import pytest
from PIL import Image

from edgedet.data.dataset import CachedSet, DecodedSet, open_set, prefetch
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


def test_cached_and_decoded_pixels_are_the_same(index):
    cached, decoded = open_set(index, SMALL), open_set(index, SMALL, limit=0)
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
    images = open_set(index, SMALL, limit=0)
    images.gather(np.array([0, 1]))
    with pytest.raises(ImageError, match=r"2\.png: .*not an image"):
        images.gather(np.array([2]))


def test_prefetching_keeps_the_order():
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number == 0 else 0)
        return number * number

    assert list(prefetch(slow_first, range(10), workers=3, ahead=4)) == [number * number for number in range(10)]


def test_prefetching_makes_few_in_advance():
    made = []
    results = prefetch(lambda number: made.append(number) or number, range(100), ahead=3)
    next(results)
    time.sleep(0.05)
    assert len(made) <= 4
    results.close()


def test_errors_reach_the_one_who_takes_the_result():
    def fails(number: int) -> int:
        if number == 2:
            raise DataError("two")
        return number

    results = prefetch(fails, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(DataError, match="two"):
        next(results)


def test_threads_end_when_the_reader_stops():
    before = threading.active_count()
    results = prefetch(lambda number: number, range(100))
    next(results)
    results.close()
    assert threading.active_count() == before
