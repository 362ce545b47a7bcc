"""Every layout gives the same rows; nothing is dropped without being listed."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgedet.data.facts import Facts, facts_of, jpeg_quality
from edgedet.data.index import UNLABELLED, Index
from edgedet.data.scan import ScanResult, scan
from edgedet.data.split import Leak
from edgedet.errors import DataError, UnknownLabel


def put(root: Path, paths: Sequence[str], seed: int = 0) -> Path:
    """A small image of its own at every path."""
    rng = np.random.default_rng(seed)
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(root / path)
    return root


def said(result: ScanResult) -> set[tuple[str, int, str, str]]:
    return {(row.path, row.label, row.generator, row.split) for row in result.index.rows}


LAYOUTS = {
    "CIFAKE": {
        "train/REAL/0.jpg": (0, "real", "train"), "train/FAKE/0.jpg": (1, "fake", "train"),
        "test/REAL/1.jpg": (0, "real", "test"), "test/FAKE/1.jpg": (1, "fake", "test"),
    },
    "CNNDetection": {
        "train/progan/cat/0_real/0.png": (0, "progan", "train"), "train/progan/cat/1_fake/0.png": (1, "progan", "train"),
        "val/biggan/0_real/1.PNG": (0, "biggan", "val"), "val/biggan/1_fake/1.Jpeg": (1, "biggan", "val"),
    },
    "generator below the label": {
        "train/0_real/camera/0.jpg": (0, "camera", "train"), "train/1_fake/sd1/0.jpg": (1, "sd1", "train"),
    },
    "GenImage": {
        "BigGAN/train/ai/0.PNG": (1, "BigGAN", "train"), "BigGAN/train/nature/0.JPEG": (0, "BigGAN", "train"),
        "Midjourney/imagenet_midjourney/val/ai/0.png": (1, "Midjourney", "val"),
        "Midjourney/imagenet_midjourney/val/nature/0.JPEG": (0, "Midjourney", "val"),
    },
    "no split folders": {"sd3/1_fake/0.jpg": (1, "sd3", ""), "0_real/0.jpg": (0, "real", "")},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_are_understood(tmp_path: Path, layout: str) -> None:
    expected = LAYOUTS[layout]
    result = scan(put(tmp_path, list(expected)), shares={})
    want = {(path, label, generator, split or "train") for path, (label, generator, split) in expected.items()}
    assert said(result) == want
    assert not result.errors


@pytest.mark.parametrize(("real", "fake"), [("nature", "ai"), ("0_real", "1_fake"), ("REAL", "FAKE"), ("Real", "AI")])
def test_fake_is_one_whatever_the_folders_are_called(tmp_path: Path, real: str, fake: str) -> None:
    """Also where the alphabet says otherwise (`ai` before `nature`), and with extensions in capitals."""
    index = scan(put(tmp_path, [f"{real}/a.JPG", f"{real}/b.PNG", f"{fake}/a.JPEG", f"{fake}/b.WebP"])).index
    assert {row.path.split("/")[0]: row.label for row in index.rows} == {real: 0, fake: 1}
    assert len(index) == 4


def test_an_unknown_name_is_refused_and_can_be_mapped(tmp_path: Path) -> None:
    put(tmp_path, ["train/real/0.png", "train/synthetic/0.png"])
    with pytest.raises(UnknownLabel, match=r"train/synthetic: .*known for real: 0_real, nature, real; for fake: "):
        scan(tmp_path)
    assert scan(tmp_path, label_map={"Synthetic": 1}).index.labels.tolist() == [0, 1]
    with pytest.raises(DataError, match="0 \\(real\\) or 1 \\(fake\\)"):
        scan(tmp_path, label_map={"synthetic": 2})


def test_photographs_need_no_label_where_that_is_said_and_no_folder_has_one(tmp_path: Path) -> None:
    result = scan(put(tmp_path, ["0.jpg", "holiday/1.jpg", "holiday/test/2.jpg"]), unlabelled=0, shares={})
    assert said(result) == {
        ("0.jpg", 0, "real", "train"), ("holiday/1.jpg", 0, "holiday", "train"), ("holiday/test/2.jpg", 0, "holiday", "test"),
    }  # fmt: skip
    put(tmp_path, ["fake/3.jpg"], seed=1)
    with pytest.raises(UnknownLabel, match="holds images, but no folder name"):
        scan(tmp_path, unlabelled=0)


def test_images_without_a_label_are_for_training_alone(tmp_path: Path) -> None:
    put(tmp_path, [f"{label}/{n}.png" for label in ("real", "fake") for n in range(40)])
    put(tmp_path, [f"unlabelled/{n}.png" for n in range(40)], seed=1)
    index = scan(tmp_path).index
    without = [row for row in index.rows if row.label == UNLABELLED]
    assert {(row.generator, row.split) for row in without} == {("unlabelled", "train")}
    assert len(without) == 40
    assert len(index.split("val").labels) == len(index.split("test").labels) * 8 // 12 == 8
    put(tmp_path, ["test/Unlabeled/0.png"], seed=2)
    with pytest.raises(DataError, match=r"test/Unlabeled/0\.png: has no label, and is in split test"):
        scan(tmp_path)


def test_the_same_bytes_with_and_without_a_label_are_no_contradiction(tmp_path: Path) -> None:
    put(tmp_path, ["fake/a.png", "fake/b.png"])
    (tmp_path / "unlabelled").mkdir()
    (tmp_path / "unlabelled" / "c.png").write_bytes((tmp_path / "fake" / "a.png").read_bytes())
    assert [row.label for row in scan(tmp_path, shares={}).index.rows] == [1, 1, UNLABELLED]


def test_a_folder_cannot_be_both(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="which is it"):
        scan(put(tmp_path, ["real/fake/0.png"]))


@pytest.mark.parametrize(
    "header",
    ["path,label,generator,split,pair", "Filename,Class,Model,Subset,Pair ID", "\ufeffimage,is_fake,method,set,pair_id"],
)
def test_a_table_is_understood(tmp_path: Path, header: str) -> None:
    put(tmp_path, ["x/a.png", "x/b.png"])
    table = tmp_path / "list.csv"
    table.write_text(f"{header}\nx/a.png,real,camera,training,7\nx/b.png,1,sd1,VAL,7\n", encoding="utf-8")
    result = scan(table, shares={})
    assert said(result) == {("x/a.png", 0, "camera", "train"), ("x/b.png", 1, "sd1", "val")}
    assert {row.pair for row in result.index.rows} == {"7"}
    assert result.layout == "list.csv"


def test_the_table_of_a_folder_goes_before_its_folders(tmp_path: Path) -> None:
    put(tmp_path / "set", ["real/a.png", "fake/b.png"])
    (tmp_path / "set" / "manifest.csv").write_text("path,label,generator\nreal/a.png,0,phone\nfake/b.png,1,flux\n")
    for source in (tmp_path / "set", tmp_path):
        assert sorted(row.generator for row in scan(source).index.rows) == ["flux", "phone"]


def test_a_table_may_name_files_elsewhere_and_missing_ones_are_listed(tmp_path: Path) -> None:
    put(tmp_path / "photos", ["a.png", "b.png"])
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "list.csv"
    table.write_text(f"file,label\n../photos/a.png,real\n{tmp_path}/photos/b.png,fake\n../photos/c.png,fake\n")
    result = scan(table)
    assert [row.path for row in result.index.rows] == ["photos/a.png", "photos/b.png"]
    assert result.errors == (("photos/c.png", "cannot be read: No such file or directory"),)
    assert Image.open(io.BytesIO(result.index.read(0))).size == (8, 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,kind\na,b\n", "no column for the path; its columns are name, kind"),
        ("path\na\n", "no column for the label"),
        ("path,label\na.png,human\n", r"list\.csv:2: label 'human' is neither real nor fake"),
        ("path,label,split\na.png,0,dev\n", "unknown split 'dev'; allowed: train"),
        ("path,label\na.png\n", "too few"),
        ("", "is empty"),
    ],
)
def test_a_bad_table_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        scan(tmp_path / "list.csv")


def test_our_own_index_is_a_layout(tmp_path: Path) -> None:
    first = scan(put(tmp_path / "set", ["train/real/0.png", "train/sd1/fake/1.png", "test/real/2.png"])).index
    first.save(tmp_path / "index.csv")
    again = scan(tmp_path / "index.csv").index
    assert again == first
    assert Index.load(tmp_path / "index.csv") == first


def test_the_facts_of_an_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", quality=83, exif=exif)
    Image.new("RGB", (5, 4)).save(tmp_path / "b.jpg", format="PNG")
    jpeg, png = facts_of(tmp_path / "a.jpg"), facts_of(tmp_path / "b.jpg")
    assert (jpeg.width, jpeg.height, jpeg.format, jpeg.quality) == (20, 30, "JPEG", 83)
    assert (png.width, png.height, png.format, png.quality) == (5, 4, "PNG", None)


@pytest.mark.parametrize("subsampling", [0, 2])
def test_the_quality_of_a_jpeg_is_what_it_was_saved_with(subsampling: int) -> None:
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "JPEG", quality=quality, subsampling=subsampling)
        with Image.open(file) as image:
            found = jpeg_quality(image.quantization)
        assert found is not None
        assert _tables(found) == _tables(quality)


def _tables(quality: int) -> list[int]:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return list(image.quantization[0])


def test_bad_files_are_listed_and_the_good_ones_are_there(tmp_path: Path) -> None:
    put(tmp_path, ["real/good.png", "fake/good.png"])
    (tmp_path / "real" / "text.jpg").write_text("no image")
    (tmp_path / "real" / "empty.jpg").touch()
    (tmp_path / "real" / "folder.jpg").mkdir()
    (tmp_path / "real" / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "real" / "self.jpg").symlink_to(tmp_path / "real" / "self.jpg")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "real" / "pipe.jpg")
    (tmp_path / "real" / "notes.txt").touch()
    (tmp_path / "real" / ".hidden.jpg").touch()
    result = scan(tmp_path)
    assert sorted(row.path for row in result.index.rows) == ["fake/good.png", "real/good.png"]
    assert {path for path, _ in result.errors} == {
        f"real/{name}" for name in ("text.jpg", "empty.jpg", "folder.jpg", "dangling.jpg", "self.jpg", "loop", "pipe.jpg")
    }
    assert result.ignored == {".txt": 1}


def test_names_that_are_not_utf8_survive_the_index(tmp_path: Path) -> None:
    put(tmp_path, ["real/a.png", "fake/b.png"])
    (tmp_path / "real" / "a.png").rename(tmp_path / "real" / os.fsdecode(b"caf\xe9,\n.png"))
    index = scan(tmp_path).index
    index.save(tmp_path / "index.csv")
    loaded = Index.load(tmp_path / "index.csv")
    assert loaded == index
    assert all(loaded.read(position) for position in range(2))


def test_a_generator_that_is_not_utf8_has_a_name_that_a_manifest_can_hold(tmp_path: Path) -> None:
    put(tmp_path, ["real/a.png", "fake/x/b.png"])
    (tmp_path / "fake" / "x").rename(tmp_path / "fake" / os.fsdecode(b"g\xe9n"))
    index = scan(tmp_path).index
    assert {row.generator for row in index.rows} == {"real", r"g\xe9n"}
    assert len(index.digest) == 64
    index.save(tmp_path / "new.csv")
    (tmp_path / "old.csv").write_bytes((tmp_path / "new.csv").read_bytes().replace(rb"g\xe9n,", b"g\xe9n,"))
    assert (tmp_path / "old.csv").read_bytes() != (tmp_path / "new.csv").read_bytes()
    assert Index.load(tmp_path / "old.csv").rows == index.rows
    assert all(index.read(position) for position in range(2))


def test_leaks_are_dropped_from_test_or_kept(tmp_path: Path) -> None:
    put(tmp_path, [f"{split}/{label}/{n}.png" for split in ("train", "test") for label in ("REAL", "FAKE") for n in range(9)])
    leaked = tmp_path / "test" / "FAKE" / "leaked.png"
    leaked.write_bytes((tmp_path / "train" / "FAKE" / "3.png").read_bytes())
    dropped, kept = scan(tmp_path), scan(tmp_path, keep_leaks=True)
    assert dropped.leaks == kept.leaks == (Leak("test/FAKE/leaked.png", "test", "train/FAKE/3.png", "train"),)
    assert len(dropped.index) == 36
    assert len(kept.index) == 37


def test_bytes_under_both_labels_are_an_error(tmp_path: Path) -> None:
    put(tmp_path, ["real/a.png", "real/b.png", "fake/c.png"])
    (tmp_path / "fake" / "d.png").write_bytes((tmp_path / "real" / "a.png").read_bytes())
    result = scan(tmp_path)
    assert [row.path for row in result.index.rows] == ["fake/c.png", "real/b.png"]
    assert dict(result.errors) == {
        "fake/d.png": "the same bytes are labelled the other way at real/a.png",
        "real/a.png": "the same bytes are labelled the other way at fake/d.png",
    }


def test_a_second_scan_opens_no_image_unless_one_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = put(tmp_path / "set", [f"{label}/{n}.png" for label in ("real", "fake") for n in range(5)])
    first = scan(source, cache=tmp_path / "cache")
    opened: Counter[str] = Counter()
    monkeypatch.setattr("edgedet.data.scan.facts_of", lambda path: opened.update([path.name]) or facts_of(path))
    assert scan(source, cache=tmp_path / "cache", seed=1).index.digest
    assert scan(source, cache=tmp_path / "cache") == first
    assert not opened
    put(source, ["real/0.png"], seed=9)
    assert scan(source, cache=tmp_path / "cache") != first
    assert sum(opened.values()) == 10


def test_an_image_that_the_disk_failed_to_give_once_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = put(tmp_path / "set", [f"{label}/{n}.png" for label in ("real", "fake") for n in range(5)])
    (source / "real" / "bad.png").write_bytes(b"no image")
    failing = {"2.png": Facts(error="cannot be read: Input/output error"), "3.png": Facts(error="damaged image: MemoryError: ")}
    with monkeypatch.context() as patch:
        patch.setattr("edgedet.data.scan.facts_of", lambda path: failing.get(path.name) or facts_of(path))
        assert len(scan(source, cache=tmp_path / "cache").index) == 6
    opened: Counter[str] = Counter()
    monkeypatch.setattr("edgedet.data.scan.facts_of", lambda path: opened.update([path.name]) or facts_of(path))
    for _ in range(2):
        assert len(scan(source, cache=tmp_path / "cache").index) == 10
    assert opened == {"2.png": 2, "3.png": 2}


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        scan(tmp_path / "missing")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.heic").touch()
    with pytest.raises(DataError, match=r"no images found; there is 1 x \.heic"):
        scan(tmp_path)
    (tmp_path / "real" / "a.jpg").touch()
    with pytest.raises(DataError, match="none of its 1 images is usable"):
        scan(tmp_path)
