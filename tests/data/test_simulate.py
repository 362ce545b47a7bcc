"""The embedded data set: paired, split by photograph, the same every time, and with traces that are really there."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgedet.data import simulate as sim
from edgedet.data.index import Index
from edgedet.data.scan import scan
from edgedet.errors import DataError
from edgedet.preprocess import decode

pytest.importorskip("skimage")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

FEW = {"train": 60, "ranges": 10, "val": 15, "test": 30}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return sim.simulate(tmp_path_factory.mktemp("simulated") / "set", pairs=FEW)


def test_every_real_has_its_fake_at_the_same_quality(small: Index) -> None:
    pairs: dict[str, dict[int, tuple[str, int | None, str]]] = {}
    for row in small.rows:
        pairs.setdefault(row.pair, {})[row.label] = (row.split, row.quality, row.generator)
    assert len(pairs) == sum(FEW.values())
    for sides in pairs.values():
        assert sides[0][:2] == sides[1][:2]
        assert sides[0][2] == "photo"
    assert {generator for sides in pairs.values() for _, _, generator in [sides[1]]} == {each.name for each in sim.DECODERS}


def test_a_scan_of_what_was_written_finds_the_same_and_no_leak(small: Index) -> None:
    result = scan(small.root)
    assert result.index == small
    assert not result.errors
    assert not result.leaks
    assert {path.relative_to(small.root).parts[1] for path in small.root.rglob("*.jpg")} == {"0_real", "1_fake"}
    assert {row.split for row in small.rows} == {"train", "ranges", "val", "test"}


def test_the_same_seed_gives_the_same_bytes_and_more_pairs_begin_with_the_same_ones(small: Index, tmp_path: Path) -> None:
    again = sim.simulate(tmp_path / "again", pairs={"test": 12})
    other = sim.simulate(tmp_path / "other", pairs={"test": 12}, seed=1)
    first = [row.sha256 for row in small.rows if row.split == "test"][:24]
    assert [row.sha256 for row in again.rows] == first
    assert not set(first) & {row.sha256 for row in other.rows}


def test_photographs_are_split_and_test_has_its_own() -> None:
    home = {name: split for name, (_, split) in sim.PHOTOGRAPHS.items()}
    assert home["motorcycle_left.png"] == home["motorcycle_right.png"]  # one scene
    assert sum(split == "test" for split in home.values()) >= 2
    assert set(home.values()) == {"train", "val", "test"}


def test_train_and_ranges_windows_never_overlap() -> None:
    """A photograph whose columns count up: every window tells from where it was cut."""
    columns = np.broadcast_to(np.linspace(0, 255, 400).astype(np.uint8)[None, :, None], (300, 400, 3)).copy()
    border = columns[0, 300, 0]
    for seed in range(50):
        left = sim._window(columns, (0.0, 0.75), 32, np.random.default_rng(seed))
        right = sim._window(columns, (0.75, 1.0), 32, np.random.default_rng(seed))
        assert left.max() <= border
        assert right.min() >= border - 1  # a resize may undershoot by one


@pytest.mark.parametrize("size", [32, 64])
def test_the_size_is_as_asked(tmp_path: Path, size: int) -> None:
    index = sim.simulate(tmp_path / "set", size=size, pairs={"val": 3})
    assert {(row.width, row.height) for row in index.rows} == {(size, size)}
    assert decode(index.read(0)).size == (size, size)


def zero_insertion(image: npt.NDArray[np.float32], factor: int, kernel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A transposed convolution, output by output: every input spreads `kernel` around its own place."""
    rows, columns = image.shape[:2]
    out = np.zeros((rows * factor, columns * factor, image.shape[2]))
    for y in range(-1, rows + 1):
        for x in range(-1, columns + 1):
            value = image[min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)]
            for dy in range(2 * factor):
                for dx in range(2 * factor):
                    to_y, to_x = y * factor + dy - factor // 2, x * factor + dx - factor // 2
                    if 0 <= to_y < out.shape[0] and 0 <= to_x < out.shape[1]:
                        out[to_y, to_x] += value * kernel[dy, dx]
    return out


@pytest.mark.parametrize("factor", [2, 4])
def test_transposed_convolution(factor: int) -> None:
    rng = np.random.default_rng(0)
    image, kernel = rng.random((3, 5, 3), dtype=np.float32), rng.random((2 * factor, 2 * factor))
    expected = zero_insertion(image, factor, kernel)
    assert np.allclose(sim.transposed_convolution(image, factor, kernel), expected, atol=1e-4)


@pytest.mark.parametrize("factor", [2, 4])
def test_bilinear_is_the_usual_one(factor: int) -> None:
    image = np.random.default_rng(0).random((6, 4, 3), dtype=np.float32)
    for channel in range(3):
        pillow = Image.fromarray(image[..., channel]).resize((4 * factor, 6 * factor), Image.Resampling.BILINEAR)
        assert np.allclose(sim.bilinear(image, factor)[..., channel], np.asarray(pillow), atol=1e-5)


@pytest.mark.parametrize("decoder", sim.DECODERS, ids=lambda decoder: decoder.name)
def test_a_decoder_keeps_the_picture_and_leaves_a_trace(decoder: sim.Decoder) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    flat = np.full((64, 64, 3), 100, np.uint8)
    assert abs(decoder(flat).mean() - 100) < 1
    lost = np.abs(decoder(noise).astype(int) - noise).mean()
    assert 10 < lost < 70


def test_golden_images_are_sixteen_files_of_both_containers() -> None:
    images = sim.golden_images()
    assert len(images) == len(set(images)) == 16
    assert images == sim.golden_images()
    assert {Image.open(io.BytesIO(image)).format for image in images} == {"JPEG", "PNG"}
    assert {decode(image).size for image in images} == {(256, 256)}
    assert decode(sim.golden_images(3, size=64)[2]).size == (64, 64)


def test_missing_packages_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"skimage, which is not installed: pip install 'edgedet\[simulate\]'"):
        sim.simulate(tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exists already"):
        sim.simulate(tmp_path)
    with pytest.raises(DataError, match="multiple of 4"):
        sim.simulate(tmp_path / "set", size=30)
