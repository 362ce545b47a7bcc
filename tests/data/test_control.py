import hashlib
import io

import numpy as np
import pytest
from full_disk import no_file_beyond
from PIL import Image

from edgedet.data.audit import audit
from edgedet.data.control import ControlConfig, control
from edgedet.data.index import Index, Row
from edgedet.errors import ArtifactError, DataError


def picture(seed: int, side: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    return (np.asarray(coarse).astype(float) + rng.normal(0, 5, (side, side, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture
def biased(tmp_path) -> Index:
    """Reals are JPEGs of 40 to 60 pixels with metadata, fakes PNGs of 64."""
    rng, rows, root = np.random.default_rng(0), [], tmp_path / "biased"
    root.mkdir()
    for number in range(80):
        fake, buffer = number % 2, io.BytesIO()
        image, side = Image.fromarray(picture(number, 64)), 64 if fake else int(rng.integers(40, 61))
        image = image.crop((0, 0, side, side))
        image.save(buffer, "PNG") if fake else image.save(buffer, "JPEG", quality=int(rng.integers(70, 96)), icc_profile=b"x")
        (root / f"{number}.img").write_bytes(buffer.getvalue())
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        quality = None if fake else 80
        rows.append(Row(path=f"{number}.img", label=fake, generator="g", split="train", sha256=digest, quality=quality))
    return Index(root, tuple(rows))


def test_a_biased_data_set_is_fair_when_it_is_controlled(biased, tmp_path):
    assert len(audit(biased).biased) >= 3
    made, left_out = control(ControlConfig(size=40), biased, tmp_path / "fair")
    assert left_out == []
    found = audit(made)
    assert set(found.biased) <= {"8-pixel grid"}  # a grid that the reals had before is part of the picture
    assert found.classes["real"]["sizes"] == found.classes["fake"]["sizes"] == {"40x40": 40}
    assert Index.load(tmp_path / "fair" / "index.csv").rows == made.rows


def test_labels_splits_and_generators_stay_and_nothing_else_of_the_file_does(biased, tmp_path):
    made, _ = control(ControlConfig(size=32, quality=90), biased, tmp_path / "fair")
    kept = [(row.label, row.generator, row.split) for row in biased.rows]
    assert [(row.label, row.generator, row.split) for row in made.rows] == kept
    assert {row.quality for row in made.rows} == {90}
    with Image.open(made.root / made.rows[0].path) as image:
        assert not image.info.get("icc_profile")


def test_crops_begin_on_the_grid_and_are_those_of_the_original(tmp_path):
    root = tmp_path / "one"
    root.mkdir()
    pixels = picture(0, 64)
    Image.fromarray(pixels).save(root / "0.png")
    index = Index(root, (Row(path="0.png", label=0, sha256="0"),))
    made, _ = control(ControlConfig(size=32, quality=100), index, tmp_path / "out")
    crop = np.asarray(Image.open(made.root / "0.jpg")).astype(int)
    errors = {
        (top, left): np.abs(crop - pixels[top : top + 32, left : left + 32]).mean() for top in range(33) for left in range(33)
    }
    best = min(errors, key=errors.get)
    assert errors[best] < 4
    assert best[0] % 8 == best[1] % 8 == 0


def test_a_pair_gets_one_crop_and_one_quality_or_is_left_out_whole(tmp_path):
    root, rows = tmp_path / "pairs", []
    root.mkdir()
    for number, side in enumerate((64, 64, 64, 24)):
        Image.fromarray(picture(number // 2, side)).save(root / f"{number}.png")
        rows.append(Row(path=f"{number}.png", label=number % 2, pair=f"pair {number // 2}", sha256=f"{number}"))
    made, left_out = control(ControlConfig(size=32), Index(root, tuple(rows)), tmp_path / "out")
    assert [row.path for row in made.rows] == ["0.jpg", "1.jpg"]
    assert made.rows[0].quality == made.rows[1].quality
    assert made.rows[0].sha256 == made.rows[1].sha256  # the same picture, so the same crop and the same bytes
    reasons = dict(left_out)
    assert "24x24 is smaller than the crop of 32" in reasons["3.png"]
    assert reasons["2.png"] == "the other image of its pair is left out"
    assert sorted(path.name for path in made.root.iterdir()) == ["0.jpg", "1.jpg", "index.csv"]


def test_nothing_left_and_an_existing_folder_are_refused(biased, tmp_path):
    with pytest.raises(DataError, match=r"no image is left: .* is smaller than the crop of 512"):
        control(ControlConfig(size=512), biased, tmp_path / "none")
    (tmp_path / "there").mkdir()
    with pytest.raises(ArtifactError, match="exists already"):
        control(ControlConfig(), biased, tmp_path / "there")


def test_images_of_one_name_and_several_formats_each_have_their_own_copy(tmp_path):
    root, rows = tmp_path / "mixed", []
    (root / "a").mkdir(parents=True)
    for number, name in enumerate(("a/x.png", "a/x.jpg", "a/X.bmp", "a/x-2.png")):
        Image.fromarray(picture(number, 40)).save(root / name)
        rows.append(Row(path=name, label=number % 2, sha256=f"{number}"))
    made, left_out = control(ControlConfig(size=40, quality=95), Index(root, tuple(rows)), tmp_path / "out")
    assert left_out == []
    assert [row.path for row in made.rows] == ["a/x.jpg", "a/x-2.jpg", "a/X-3.jpg", "a/x-2-2.jpg"]
    for number, row in enumerate(made.rows):
        copy = np.asarray(Image.open(made.root / row.path)).astype(int)
        assert np.abs(copy - picture(number, 40)).mean() < 15  # noise that JPEG smooths; other pictures are 60 away


def test_nothing_is_written_outside_the_folder(tmp_path):
    photo = tmp_path / "photo.jpg"
    Image.fromarray(picture(0, 40)).save(photo, quality=100)
    before = photo.read_bytes()
    (tmp_path / "root").mkdir()
    for name in (str(photo), "../photo.jpg"):
        out = tmp_path / f"out{len(name)}"
        made, _ = control(ControlConfig(size=32), Index(tmp_path / "root", (Row(path=name, label=0),)), out)
        assert photo.read_bytes() == before
        assert (out / made.rows[0].path).is_file()


def test_a_full_disk_is_one_error_and_leaves_nothing(biased, tmp_path):
    before = sorted(tmp_path.iterdir())
    with no_file_beyond(200), pytest.raises(DataError, match=r"fair: cannot be written: File too large; make room there"):
        control(ControlConfig(size=40), biased, tmp_path / "fair")
    assert sorted(tmp_path.iterdir()) == before
