"""Splits are stratified, keep groups together, and depend on content and seed alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest

from edgedet.data.index import UNLABELLED, Row, Split
from edgedet.data.split import SHARES, Share, assign, leaks
from edgedet.errors import DataError


def rows(count: int = 4000, split: Split = "") -> list[Row]:
    """Half real; the fakes of two generators, one three times as common."""
    generators = ["camera", "sd1", "camera", "sd1", "camera", "sd1", "camera", "flux"]
    return [
        Row(path=f"{n}.png", label=n % 2, generator=generators[n % 8], split=split, sha256=f"{n:064}") for n in range(count)
    ]


def sides(assigned: Sequence[Row]) -> dict[str, str]:
    return {row.path: row.split for row in assigned}


def test_every_missing_split_has_its_share_of_every_stratum() -> None:
    assigned = assign(rows(20_000))
    count = Counter((row.split, row.generator) for row in assigned)
    for split, wanted in {"ranges": 512, "val": 2000, "test": 2000}.items():
        share = wanted / 20_000
        for generator, total in {"camera": 10_000, "sd1": 7_500, "flux": 2_500}.items():
            assert abs(count[split, generator] - share * total) <= 1
    assert sum(count.values()) == 20_000


def test_images_without_a_label_and_their_pairs_stay_in_train() -> None:
    labelled = rows(1000)
    without = [Row(path=f"u{n}.png", label=UNLABELLED, sha256=f"u{n}", pair="p" if not n else "") for n in range(500)]
    paired = msgspec.structs.replace(labelled[0], pair="p")
    found = sides(assign([paired, *labelled[1:], *without]))
    assert Counter(found[row.path] for row in without) == {"train": 500}
    assert found[paired.path] == "train"
    # The others are cut as if these were not there, but for the one that is tied to them.
    assert Counter(found[row.path] for row in labelled)["test"] == round(0.15 * 999)


def test_a_small_set_keeps_most_for_training() -> None:
    count = Counter(row.split for row in assign(rows(1000)))
    assert count == {"train": 700, "ranges": 50, "val": 100, "test": 150}


def test_what_is_there_is_kept_and_the_rest_comes_from_train() -> None:
    given = [*rows(4000, "train"), *(Row(path=f"t{n}", label=n % 2, split="test", sha256=f"t{n}") for n in range(500))]
    assigned = assign(given)
    assert all(row.split == "test" for row in assigned[4000:])
    assert Counter(row.split for row in assigned[:4000]) == {"train": 3400, "ranges": 200, "val": 400}


def test_a_set_only_for_testing_stays_as_it_is() -> None:
    given = rows(100, "test")
    assert list(assign(given)) == given


def test_pairs_and_duplicates_stay_on_one_side() -> None:
    given = rows(3000)
    paired = [
        msgspec.structs.replace(row, pair=str(n // 2), sha256=row.sha256[:-1] + "0") if n < 1000 else row
        for n, row in enumerate(given)
    ]
    side = sides(assign(paired))
    for n in range(0, 1000, 2):
        assert side[f"{n}.png"] == side[f"{n + 1}.png"]
    by_content: dict[str, set[str]] = {}
    for row in paired:
        by_content.setdefault(row.sha256, set()).add(side[row.path])
    assert {len(found) for found in by_content.values()} == {1}


def test_the_seed_and_the_content_decide_not_the_order_or_the_names() -> None:
    given = rows(2000)
    by_content = {row.sha256: row.split for row in assign(given)}
    renamed = [msgspec.structs.replace(row, path=f"other/{row.path}") for row in given[::-1]]
    assert {row.sha256: row.split for row in assign(renamed)} == by_content
    assert {row.sha256: row.split for row in assign(given, seed=1)} != by_content


def test_shares_can_be_given() -> None:
    count = Counter(row.split for row in assign(rows(1000), shares={"val": Share(0.5)}))
    assert count == {"train": 500, "val": 500}
    assert {row.split for row in assign(rows(10), shares={})} == {"train"}
    assert SHARES["val"].of(100_000) == 5000
    with pytest.raises(DataError, match="a fraction from 0 up to 1"):
        Share(1.5)


def test_leaks_name_the_copy_in_the_earlier_split() -> None:
    given = [
        Row(path="a", label=1, split="train", sha256="x"),
        Row(path="b", label=1, split="test", sha256="x"),
        Row(path="c", label=1, split="val", sha256="y"),
        Row(path="d", label=1, split="test", sha256="y"),
        Row(path="e", label=1, split="test", sha256="z"),
        Row(path="f", label=1, split="test", sha256="z"),
    ]
    assert [(leak.path, leak.first_path, leak.first_split) for leak in leaks(given)] == [("b", "a", "train"), ("d", "c", "val")]
