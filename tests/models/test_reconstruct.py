"""Photographs to a set of aligned pairs: complete, labelled, resumed at any point, every photograph accounted for."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import tiny_autoencoder as tiny
import torch
from command import environment
from full_disk import no_file_beyond

from edgedet.data.index import Index
from edgedet.data.scan import scan
from edgedet.errors import ArtifactError, DataError
from edgedet.models import autoencoder
from edgedet.models.autoencoder import Autoencoder, sources
from edgedet.models.reconstruct import Made, ReconstructConfig, run
from edgedet.preprocess import decode, header

pytest.importorskip("diffusers")

CONFIG = ReconstructConfig(crop=32)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """A folder with `photos`, two of which are no good and one of which is there twice, and `tae`, two autoencoders."""
    root = tmp_path_factory.mktemp("given")
    photos = tiny.photographs(root / "photos", 12)
    (photos / "broken.jpg").write_bytes((photos / "000.jpg").read_bytes()[:200])
    (photos / "copy.jpg").write_bytes((photos / "001.jpg").read_bytes())
    (photos / "small.jpg").write_bytes(tiny.photograph(24, 24, 5))
    for number, name in enumerate(("one", "two")):
        tiny.write(root / "tae", name, seed=number)
    return root


def make(given: Path, out: Path, config: ReconstructConfig = CONFIG, **options) -> Made:
    return run(config, scan(given / "photos", unlabelled=0), sources([str(given / "tae")]), out, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")}


def by_pair(index: Index) -> dict[str, list]:
    pairs = defaultdict(list)
    for row in index.rows:
        pairs[row.pair].append(row)
    return pairs


def test_every_photograph_has_its_reconstruction_of_the_same_size_and_codec(given, tmp_path):
    made = make(given, tmp_path / "set")
    index = scan(tmp_path / "set").index
    assert len(index) == len(made.entries) == 24
    pairs = by_pair(index)
    assert len(pairs) == 12
    for real, fake in pairs.values():
        assert (real.label, real.generator, fake.label) == (0, "camera", 1)
        assert (real.width, real.height, real.quality, real.split) == (32, 32, fake.quality, fake.split)
        files = [header((index.root / row.path).read_bytes()) for row in (real, fake)]
        assert files[0] == files[1]
    assert {row.generator for row in index.rows} == {"camera", "one", "two"}
    assert {row.split for row in index.rows} >= {"train", "val"}


def test_the_fake_is_what_its_autoencoder_makes_of_the_crop(given, tmp_path):
    """Each fake again, from the real side as it was saved: at quality 100 that is nearly the crop itself."""
    config = ReconstructConfig(crop=32, quality=(100, 100), subsampling="4:4:4", every=True)
    make(given, tmp_path / "set", config)
    index = scan(tmp_path / "set").index
    loaded = {source.name: autoencoder.load(source) for source in sources([str(given / "tae")])}
    for real, *fakes in by_pair(index).values():
        assert [fake.generator for fake in fakes] == ["one", "two"]
        crop = np.asarray(decode(index.root / real.path))[None]
        for fake in fakes:
            again = loaded[fake.generator](crop)[0].astype(int)
            assert np.abs(again - np.asarray(decode(index.root / fake.path))).mean() < 1.5


def test_what_is_left_out_is_listed_with_its_reason(given, tmp_path):
    made = make(given, tmp_path / "set")
    with (tmp_path / "set" / "left_out.csv").open() as file:
        written = {line["path"]: line["reason"] for line in csv.DictReader(file)}
    assert written == dict(made.left_out)
    assert set(written) == {"broken.jpg", "copy.jpg", "small.jpg"}
    assert written["copy.jpg"] == "the same bytes as 001.jpg"
    assert "24x24, shrunk by 0.95 at the least, is smaller than the 32 px" in written["small.jpg"]
    assert "12 photographs" not in (tmp_path / "set" / "log.txt").read_text()
    assert "24 images, 3 photographs left out" in (tmp_path / "set" / "log.txt").read_text()


def test_whole_photographs_of_many_sizes_are_batched_by_size(tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(12):
        (photos / f"{number}.png").write_bytes(tiny.photograph(48 + 12 * (number % 3), 72, number, "PNG"))
    _, encoder = tiny.write(tmp_path, "tiny")
    shapes = []
    call = Autoencoder.__call__
    monkeypatch.setattr(Autoencoder, "__call__", lambda self, pixels: shapes.append(pixels.shape[:3]) or call(self, pixels))
    found = scan(photos, unlabelled=0)
    run(ReconstructConfig(old_grid="align", batch=1), found, sources([str(encoder)]), tmp_path / "set")
    assert sorted(shapes) == [(4, 48, 72), (4, 56, 72), (4, 72, 72)]
    assert {(row.height, row.width) for row in scan(tmp_path / "set").index.rows} == {(48, 72), (56, 72), (72, 72)}


def test_splits_and_labels_of_an_index_are_kept_and_fakes_are_not_used(given, tmp_path):
    folder = tmp_path / "labelled"
    for number, place in enumerate(("train/real", "train/real", "test/real", "val/nature", "train/fake")):
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / f"{number}.jpg").write_bytes(tiny.photograph(60, 60, number))
    made = run(CONFIG, scan(folder, unlabelled=0), sources([str(given / "tae")]), tmp_path / "set")
    assert {(entry.source, entry.split) for entry in made.entries} == {
        ("train/real/0.jpg", "train"), ("train/real/1.jpg", "train"), ("test/real/2.jpg", "test"), ("val/nature/3.jpg", "val"),
    }  # fmt: skip
    fakes = scan(folder).index.where(lambda row: row.label == 1)
    with pytest.raises(DataError, match="none of its 1 images is real"):
        run(CONFIG, scan_result(fakes), sources([str(given / "tae")]), tmp_path / "other")


def scan_result(index: Index):
    from edgedet.data.scan import ScanResult

    return ScanResult(index, (), (), {}, "folders")


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_a_run_that_was_interrupted_goes_on_and_ends_the_same(given, tmp_path, monkeypatch, calls):
    config = ReconstructConfig(crop=32, every=True, batch=1)
    monkeypatch.setattr("edgedet.models.reconstruct._AREA", 2 * 32 * 32)
    make(given, tmp_path / "whole", config)
    real, done = Autoencoder.__call__, []

    def interrupted(self, pixels):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(len(pixels))
        return real(self, pixels)

    monkeypatch.setattr(Autoencoder, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(given, tmp_path / "set", config)
    assert not (tmp_path / "set").exists()
    monkeypatch.setattr(Autoencoder, "__call__", lambda self, pixels: done.append(len(pixels)) or real(self, pixels))
    with pytest.raises(DataError, match="holds an unfinished run: add --resume"):
        make(given, tmp_path / "set", config)
    make(given, tmp_path / "set", config, resume=True)
    assert sum(done) == 24  # nothing twice
    assert content(tmp_path / "set") == content(tmp_path / "whole")
    assert (tmp_path / "set" / "manifest.csv").read_bytes() == (tmp_path / "whole" / "manifest.csv").read_bytes()
    with pytest.raises(ArtifactError, match="exists already"):
        make(given, tmp_path / "set", config, resume=True)


def test_half_written_images_never_count(given, tmp_path):
    make(given, tmp_path / "whole")
    make(given, tmp_path / "set")
    work = tmp_path / ".set.work"
    (tmp_path / "set").rename(work)
    (work / "manifest.csv").unlink()
    cut_short, empty, gone, *_ = sorted(work.rglob("*.jpg"))
    cut_short.write_bytes(cut_short.read_bytes()[:100])
    empty.write_bytes(b"")
    gone.rename(gone.with_name(f".{gone.name}.partial-1-1"))
    make(given, tmp_path / "set", resume=True)
    assert content(tmp_path / "set") == content(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(given, tmp_path):
    make(given, tmp_path / "whole", ReconstructConfig(crop=32, batch=1))
    arguments = [given / "photos", given / "tae", tmp_path / "set"]
    command = [sys.executable, tiny.__file__, *map(str, arguments)]
    process = subprocess.Popen(command, env=environment(tmp_path), stderr=subprocess.PIPE)
    while not list((tmp_path / ".set.work").rglob("*.jpg")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "set").exists()
    subprocess.run(command, env=environment(tmp_path), check=True)
    assert content(tmp_path / "set").keys() == content(tmp_path / "whole").keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [({"crop": 40}, "configuration"), ({"seed": 1}, "photographs"), ({"jpeg": "photo"}, "configuration")],
)
def test_a_run_is_not_gone_on_with_under_other_settings(given, tmp_path, monkeypatch, change, words):
    monkeypatch.setattr(Autoencoder, "__call__", lambda self, pixels: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make(given, tmp_path / "set")
    again = scan(given / "photos", unlabelled=0, seed=change.get("seed", 0))
    config = ReconstructConfig(**{"crop": 32, **change})
    with pytest.raises(DataError, match=f"was begun with other .*{words}"):
        run(config, again, sources([str(given / "tae")]), tmp_path / "set", resume=True)


def test_a_full_disk_is_one_error_that_names_the_file_and_leaves_whole_images(given, tmp_path):
    with no_file_beyond(900), pytest.raises(DataError, match=r"\.jpg: cannot be written: File too large.* another folder"):
        make(given, tmp_path / "set", ReconstructConfig(crop=48, quality=(100, 100)))
    assert not list((tmp_path / ".set.work").rglob("*.jpg"))
    make(given, tmp_path / "set", ReconstructConfig(crop=48, quality=(100, 100)), resume=True)


def test_a_photograph_that_changes_under_way_is_left_out(given, tmp_path):
    photos = tiny.photographs(tmp_path / "photos", 3)
    found = scan(photos, unlabelled=0)
    (photos / "001.jpg").write_bytes(tiny.photograph(60, 80, 99))
    (photos / "002.jpg").unlink()
    made = run(CONFIG, found, sources([str(given / "tae")]), tmp_path / "set")
    assert [entry.source for entry in made.entries] == ["000.jpg", "000.jpg"]
    assert dict(made.left_out) == {
        "001.jpg": "has changed since the photographs were scanned",
        "002.jpg": "cannot be read: No such file or directory",
    }


def test_nothing_usable_is_an_error(given, tmp_path):
    tiny.photographs(tmp_path / "photos", 2)
    config = ReconstructConfig(crop=320)
    with pytest.raises(DataError, match=r"none of 2 photographs can be used; the first: 000\.jpg: 80x60"):
        run(config, scan(tmp_path / "photos", unlabelled=0), sources([str(given / "tae")]), tmp_path / "set")
