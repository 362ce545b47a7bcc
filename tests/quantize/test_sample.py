import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgedet.artifact import Calibration
from edgedet.data.index import Index, Row
from edgedet.errors import DataError
from edgedet.preprocess import Preprocess
from edgedet.quantize.sample import Images, content_key, pixel_batches, ranges_images, take_sample


def index(*rows: Row) -> Index:
    return Index(Path("photographs"), rows)


def rows(count: int, generator: str, split: str = "ranges", label: int = 1) -> list[Row]:
    return [
        Row(path=f"{generator}/{n}.png", label=label, generator=generator, split=split, sha256=f"{generator}-{split}-{n}")
        for n in range(count)
    ]


def test_every_generator_gives_its_share() -> None:
    data = index(*rows(100, "common"), *rows(3, "rare"), *rows(100, "camera", label=0), *rows(5, "common", "val"))
    chosen = ranges_images(data, 30)
    assert Counter(row.generator for row in chosen.rows) == {"rare": 3, "camera": 14, "common": 13}
    assert {row.split for row in chosen.rows} == {"ranges"}


def test_the_sample_is_the_same_each_time_and_follows_the_seed() -> None:
    data = index(*rows(50, "one"), *rows(50, "two"))
    assert ranges_images(data, 10).rows == ranges_images(data, 10).rows
    assert ranges_images(data, 10).rows != ranges_images(data, 10, seed=1).rows


@pytest.mark.parametrize("split", ["val", "test"])
def test_images_that_judge_the_result_are_refused(split: str) -> None:
    row = rows(1, "one")[0]
    copy = Row(path="copy.png", label=1, generator="one", split=split, sha256=row.sha256)
    with pytest.raises(DataError, match=rf"same content as copy.png \(split {split}\)"):
        ranges_images(index(*rows(5, "one"), copy), 3)


def test_without_hashes_an_overlap_cannot_be_excluded() -> None:
    with pytest.raises(DataError, match="no sha256 in the index: scan the data set again"):
        ranges_images(index(Row(path="a.png", label=0, split="ranges")), 1)


def test_without_a_ranges_split_there_is_nothing_to_find_ranges_on() -> None:
    with pytest.raises(DataError, match="no images in split 'ranges'"):
        ranges_images(index(*rows(3, "one", "train")), 1)


def generators(data: Index) -> Counter[str]:
    return Counter(row.generator for row in data.rows)


def contents(data: Index) -> set[str]:
    return {row.sha256 for row in data.rows}


def test_held_out_images_are_others_in_the_same_shares() -> None:
    data = index(*rows(300, "one"), *rows(300, "camera", label=0), *rows(2, "rare"))
    sample = take_sample(data, 200, few=40, held_out=100)
    assert not contents(sample.ranges) & contents(sample.held_out)
    assert generators(sample.ranges) == {"one": 100, "camera": 100, "rare": 2}
    assert generators(sample.held_out) == {"one": 49, "camera": 49}
    assert contents(sample.few) <= contents(sample.ranges)
    assert generators(sample.few) == {"one": 19, "camera": 19, "rare": 2}


def test_what_there_are_two_of_is_not_torn_apart() -> None:
    twins = [Row(path=f"copy/{n}.png", label=1, generator="two", split="ranges", sha256=f"one-ranges-{n}") for n in range(60)]
    sample = take_sample(index(*rows(60, "one"), *twins), 80, few=10, held_out=40)
    assert len(sample.ranges) + len(sample.held_out) == 120
    assert not contents(sample.ranges) & contents(sample.held_out)


def test_a_small_split_is_shared_out_in_the_same_parts() -> None:
    sample = take_sample(index(*rows(30, "one")), 512, few=128, held_out=256)
    assert (len(sample.ranges), len(sample.few), len(sample.held_out)) == (20, 20, 10)
    assert len(take_sample(index(*rows(30, "one")), 512, few=128).ranges) == 30
    with pytest.raises(DataError, match="2 images is too small to hold some out"):
        take_sample(index(*rows(2, "one")), 512, few=128, held_out=256)


@pytest.fixture
def photographs(tmp_path: Path) -> Index:
    """Ten noise images of 20 x 16 pixels."""
    found = []
    for number in range(10):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found.append(Row(path=path.name, label=number % 2, split="ranges", sha256=digest))
    return Index(tmp_path, tuple(found))


def test_batches_are_the_preprocessed_files_in_order(photographs: Index) -> None:
    preprocess = Preprocess(height=200, width=100)
    batches = list(pixel_batches(photographs, preprocess))
    # 20,000 pixels each: three of them are the most that range-finding holds at a time.
    assert [len(batch) for batch in batches] == [3, 3, 3, 1]
    assert np.array_equal(np.concatenate(batches)[7], preprocess(photographs.read(7)))
    assert [len(batch) for batch in pixel_batches(photographs, Preprocess(height=224, width=300))] == [1] * 10


def test_images_give_the_same_batches_again_and_the_verdict_of_the_artifact(photographs: Index) -> None:
    verdict = Calibration(bias=-1.0).verdict
    images = take_sample(photographs, 6, few=2, held_out=4).images(Preprocess(height=8, width=8), verdict)
    assert images.few is not None
    assert images.held_out is not None
    for batches, count in ((images.ranges, 6), (images.few, 2), (images.held_out, 4)):
        first, again = (np.concatenate(list(batches())) for _ in range(2))
        assert first.shape == (count, 8, 8, 3)
        assert np.array_equal(first, again)
    assert list(images.verdict(np.array([0.5, 1.5], np.float32))) == [False, True]
    assert take_sample(photographs, 6, few=2).images(Preprocess()).held_out is None


def test_an_image_that_cannot_be_decoded_is_named(photographs: Index) -> None:
    path = photographs.root / photographs.rows[1].path
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match=f"{path.name}: not an image in a known format; scan the data set again"):
        list(pixel_batches(photographs, Preprocess(height=20, width=20)))


def test_the_key_is_of_the_files_themselves(photographs: Index) -> None:
    preprocess = Preprocess(height=8, width=8)
    before = content_key(photographs, preprocess)
    assert content_key(photographs, preprocess) == before
    assert content_key(photographs, Preprocess(height=8, width=9)) != before
    assert content_key(photographs.take(range(9)), preprocess) != before
    # Edited behind the index's back.
    path = photographs.root / "3.png"
    path.write_bytes(path.read_bytes() + b"\0")
    assert content_key(photographs, preprocess) != before


def test_patches_come_one_by_one_for_ranges_and_by_image_for_judging() -> None:
    first, second = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((1, 8, 20, 3), np.uint8)
    first[0], first[1], second[0] = 1, 2, np.arange(20)[None, :, None]
    images = Images(lambda: [first, second], held_out=lambda: [first, second], key="k").in_patches(4, lambda value: value[0])
    ranges = list(images.ranges())
    assert [patch.shape for patch in ranges] == [(1, 4, 4, 3)] * 12  # of the last ten only four
    assert [int(patch[0, 0, 0, 0]) for patch in ranges] == [1] * 4 + [2] * 4 + [0, 12, 4, 16]
    assert images.held_out is not None
    assert [patches.shape for patches in images.held_out()] == [(4, 4, 4, 3)] * 3
    assert images.few is None
    assert images.key not in ("", "k")
    assert images.finish is not None
    assert Images(lambda: [first]).in_patches(4, lambda value: value).key == ""
