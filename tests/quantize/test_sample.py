from collections import Counter
from pathlib import Path

import pytest

from edgedet.data.index import Index, Row
from edgedet.errors import DataError
from edgedet.quantize.sample import ranges_images


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
