"""An index is written and read without loss, and says which line is wrong."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgedet.data.index import UNLABELLED, Index, Row
from edgedet.errors import DataError

ROWS = (
    Row(path="a/1.jpg", label=0, generator="camera", split="train", pair="1",
        width=3, height=4, format="JPEG", quality=9, sha256="x"),
    Row(path='b/"2", ü\n.png', label=1, generator="sd1, v2", split="test", pair="1", sha256="y"),
    Row(path="c.png", label=1),
)  # fmt: skip


def test_it_survives_the_disk_and_moves_with_its_images(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "c.png").write_bytes(b"content")
    Index(tmp_path / "set", ROWS).save(tmp_path / "index.csv")
    assert Index.load(tmp_path / "index.csv") == Index(tmp_path / "set", ROWS)
    moved = tmp_path.rename(tmp_path.parent / f"{tmp_path.name}-moved")
    assert Index.load(moved / "index.csv").read(2) == b"content"


def test_the_columns_as_arrays() -> None:
    index = Index(Path(), ROWS)
    assert index.labels.tolist() == [0, 1, 1]
    assert index.labels.dtype == np.int64
    assert index.generators.tolist() == ["camera", "sd1, v2", ""]


def test_labels_are_not_read_where_an_image_has_none() -> None:
    rows = (Row(path="a", label=0), Row(path="b", label=UNLABELLED), Row(path="c", label=1))
    with pytest.raises(DataError, match=r"1 of 3 images have no label.*only distillation learns from them"):
        _ = Index(Path("root"), rows).labels
    assert Index(Path("root"), rows).where(lambda row: row.label != UNLABELLED).labels.tolist() == [0, 1]
    known = Index(Path("root"), rows).labels_or_nan
    assert known.dtype == np.float32
    np.testing.assert_array_equal(known, [np.nan if row.label == UNLABELLED else row.label for row in rows])


def test_splits_and_rows_are_picked() -> None:
    index = Index(Path(), ROWS)
    assert index.split("test").rows == ROWS[1:2]
    assert index.take([2, 0]).rows == (ROWS[2], ROWS[0])
    assert len(index.where(lambda row: row.label == 1)) == 2
    with pytest.raises(DataError, match=r"no images in split 'val'; its splits are: \(unassigned\), test, train"):
        index.split("val")


def test_the_digest_is_of_the_content_not_of_the_place() -> None:
    index = Index(Path("one"), ROWS)
    moved = Index(Path("two"), tuple(msgspec.structs.replace(row, path=f"x/{row.path}") for row in reversed(ROWS)))
    relabelled = Index(Path("one"), (msgspec.structs.replace(ROWS[0], label=1), *ROWS[1:]))
    assert moved.digest == index.digest
    assert relabelled.digest != index.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not an index: write one with `edgedet data scan"),
        ("path,label\na,0\n", "not an index"),
        ("# root,.\npath,label\na,0\nb\n", r"index\.csv:4: expected 2 fields, got 1"),
        ("# root,.\npath,label\na,real\n", r"index\.csv:3: .*label"),
        ("# root,.\npath,label\na,2\n", r"index\.csv:3: label 2 is none of 0 \(real\), 1 \(fake\), -1 \(unlabelled\)"),
        ("# root,.\npath,label,split\na,0,dev\n", r"index\.csv:3: .*'dev'"),
        ("# root,.\nlabel\n0\n", r"index\.csv:3: .*path"),
    ],
)
def test_a_bad_index_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "index.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        Index.load(tmp_path / "index.csv")


def test_the_content_of_an_image_is_as_scanned_or_as_it_is_now(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"abc")
    index = Index(tmp_path, (Row(path="a.png", label=0, sha256="0" * 64), Row(path="a.png", label=0)))
    assert [index.content(0), index.content(1)] == ["0" * 64, hashlib.sha256(b"abc").hexdigest()]


def test_an_image_that_went_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"c\.png: cannot be read: No such file.*scan the data set again"):
        Index(tmp_path, ROWS).read(2)


def test_an_index_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(DataError, match="cannot be written"):
        Index(tmp_path, ROWS).save(tmp_path / "taken" / "index.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
