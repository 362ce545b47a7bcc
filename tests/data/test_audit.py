"""The audit on planted data sets: a fair one passes, and each bias is named."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgedet.data.audit import audit, headline, keep, recall
from edgedet.data.index import Index, Row
from edgedet.data.shortcuts import shortcuts
from edgedet.errors import DataError

N = 60


def picture(seed: int, side: int = 48) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    return Image.fromarray((np.asarray(coarse).astype(float) + rng.normal(0, 5, (side, side, 3))).clip(0, 255).astype(np.uint8))


def write(root: Path, name: str, image: Image.Image, form: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    (root / name).write_bytes(buffer.getvalue())
    return buffer.getvalue()


def data_set(root: Path, fake=lambda root, name, image, quality: write(root, name, image, quality=quality)) -> Index:
    """Half fakes, of random content; reals are JPEGs of random quality, and `fake` writes the fakes."""
    rng, rows = np.random.default_rng(0), []
    root.mkdir()
    for number in range(2 * N):
        quality, name = int(rng.integers(60, 96)), f"{number}.img"
        image = picture(number)
        data = fake(root, name, image, quality) if number % 2 else write(root, name, image, quality=quality)
        split = "train" if number < N else "test"
        rows.append(Row(path=name, label=number % 2, generator="g", split=split, sha256=hashlib.sha256(data).hexdigest()))
    return Index(root, tuple(rows))


def test_a_fair_data_set_has_no_shortcut(tmp_path):
    found = audit(data_set(tmp_path / "fair"))
    assert found.biased == []
    assert (found.leaks, found.near, found.repeats, found.unreadable) == ([], [], {}, [])
    assert "no shortcut above AUC 0.6" in found.headline
    assert found.classes["real"]["formats"] == {"JPEG": N}
    assert 60 <= found.classes["fake"]["jpeg_quality"]["p50"] <= 95


@pytest.mark.parametrize(
    ("name", "fake"),
    [
        ("container", lambda root, name, image, _: write(root, name, image, "PNG")),
        ("JPEG quality and chroma", lambda root, name, image, _: write(root, name, image, quality=97)),
        ("size in pixels", lambda root, name, image, q: write(root, name, image.resize((64, 64)), quality=q)),
        ("metadata", lambda root, name, image, q: write(root, name, image, quality=q, icc_profile=b"x")),
    ],
)
def test_a_planted_bias_is_named(tmp_path, name, fake):
    found = audit(data_set(tmp_path / "biased", fake))
    assert name in found.biased
    assert found.headline.startswith("audited: biased: ")


def test_an_old_jpeg_grid_in_reals_alone_is_seen_in_the_pixels(tmp_path):
    """Reals that were JPEGs before and are PNGs now: nothing of the file tells, the grid does."""
    index = data_set(tmp_path / "grid", lambda root, name, image, _: write(root, name, image, "PNG"))
    for row in index.rows:
        if row.label == 0:
            old = Image.open(root := index.root / row.path)
            old.load()
            old.convert("RGB").save(root, "PNG")
    found = audit(index)
    assert "8-pixel grid" in found.biased
    assert "container" not in found.biased


def test_copies_in_two_splits_and_the_same_picture_again_are_found(tmp_path):
    index = data_set(tmp_path / "leaky")
    (index.root / "119.img").write_bytes((index.root / "1.img").read_bytes())
    data = write(index.root, "118.img", picture(0), quality=50)
    rows = list(index.rows)
    rows[119] = Row(path="119.img", label=1, generator="g", split="test", sha256=rows[1].sha256)
    rows[118] = Row(path="118.img", label=0, generator="g", split="test", sha256=hashlib.sha256(data).hexdigest())
    rows[3] = Row(path="3.img", label=1, generator="g", split="train", sha256=rows[1].sha256)
    (index.root / "3.img").write_bytes((index.root / "1.img").read_bytes())
    found = audit(Index(index.root, tuple(rows)))
    assert found.leaks == [("119.img", "1.img")]
    assert [(first, second) for first, second, _ in found.near] == [("0.img", "118.img")]
    assert found.repeats == {"train": 1}


def test_what_cannot_be_read_is_listed(tmp_path):
    index = data_set(tmp_path / "damaged")
    (index.root / "7.img").write_bytes(b"no image")
    found = audit(index)
    assert [path for path, _ in found.unreadable] == ["7.img"]
    assert found.classes["fake"]["images"] == N - 1


def test_too_few_images_are_refused():
    with pytest.raises(DataError, match="at least 10 images of each class, got 3"):
        shortcuts([], np.array([0] * 20 + [1] * 3), [])


def test_an_audit_is_remembered_by_the_content_of_the_data_set(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "cache"))
    index = data_set(tmp_path / "fair")
    assert headline(index).startswith("unaudited")
    assert recall(index.digest) is None
    found = audit(index)
    keep(found)
    assert recall(index.digest) == found
    assert headline(index) == found.headline
    assert headline(index.split("test")).startswith("unaudited")
