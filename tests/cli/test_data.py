"""``edgedet data``: layouts to an index, and the embedded data set."""

import io
import json
import signal
import subprocess
import tarfile
import time

import pytest
from command import COMMAND, assert_one_line, environment
from PIL import Image

from edgedet.data.index import Index


def test_the_demonstration_set_is_as_small_as_asked(demo):
    said = json.loads(demo.said["data"])
    index = Index.load(demo.data / "index.csv")
    assert said == {"out": str(demo.data), "images": len(index)}
    assert {name: len(index.split(name)) for name in ("train", "ranges", "val", "test")} == {
        "train": 160, "ranges": 20, "val": 40, "test": 80,
    }  # fmt: skip


def test_scan_writes_an_index_and_says_what_is_in_it(edgedet, demo, tmp_path):
    done = edgedet("data", "scan", demo.data, "--out", tmp_path / "index.csv", "--json", tmp_path / "scan.json")
    assert done.code == 0
    assert "300 images, 0 that cannot be read" in done.out
    said = json.loads((tmp_path / "scan.json").read_text())
    assert (said["images"], said["errors"], said["leaks"]) == (300, [], [])
    assert Index.load(tmp_path / "index.csv").digest == Index.load(demo.data / "index.csv").digest


def test_what_is_left_out_is_counted_and_listed_whatever_its_name(edgedet, demo, tmp_path):
    folder = tmp_path / "set" / "fake"
    folder.mkdir(parents=True)
    good = sorted((demo.data / "val").rglob("*.jpg"))[:8]
    for number, path in enumerate(good):
        (folder / f"{number}.jpg").write_bytes(path.read_bytes())
    (folder / "bro\nken.jpg").write_bytes(b"no image")
    (folder / "caf\udce9.jpg").write_bytes(b"no image")
    done = edgedet("data", "scan", folder.parent, "--out", tmp_path / "index.csv", "--json", "-")
    assert done.code == 0
    said = json.loads(done.out)
    assert said["images"] == 8
    assert [each["path"] for each in said["errors"]] == ["fake/bro\nken.jpg", "fake/caf\\udce9.jpg"]
    assert [line.split(":")[:2] for line in done.err.splitlines()] == [["edgedet", " left out"]] * 2


@pytest.mark.parametrize(("kind", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended")])
def test_an_archive_is_unpacked_whole_or_not_at_all(tmp_path, kind, code, word):
    image = io.BytesIO()
    Image.new("L", (4, 4)).save(image, "PNG")
    with tarfile.open(tmp_path / "set.tar", "w") as packed:
        for number in range(10_000):
            member = tarfile.TarInfo(f"real/{number}.png")
            member.size = len(image.getvalue())
            packed.addfile(member, io.BytesIO(image.getvalue()))
    command = [*COMMAND, "data", "scan", tmp_path / "set.tar", "--out", tmp_path / "index.csv"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(tmp_path / "cache"))
    while not any(tmp_path.glob("cache/archives/.*.partial-*/real/*")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(kind)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert err.splitlines()[-1].startswith(f"edgedet: {word}")
    assert "Traceback" not in err
    assert not list(tmp_path.glob("cache/archives/*")) + list(tmp_path.glob("cache/archives/.*"))
    assert not (tmp_path / "index.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["data", "scan", "{tmp}/nothing", "--out", "{tmp}/i.csv"], 1, ["no such file or folder"]),
        (["data", "scan", "{tmp}/photos", "--out", "{tmp}/i.csv"], 1, ["no images found"]),
        (["data", "scan", "{tmp}", "--out", "{tmp}/there.csv"], 1, ["there.csv: exists already"]),
        (["data", "scan", "{tmp}", "--out", "{tmp}/i.csv", "--label", "photos=genuine"], 2, ["FOLDER=real or FOLDER=fake"]),
        (["data", "simulate", "{tmp}/photos"], 1, ["exists already"]),
        (["data", "simulate", "{tmp}/new", "--size", "33"], 1, ["a multiple of 4"]),
    ],
)
def test_bad_requests_are_one_line(edgedet, tmp_path, arguments, code, words):
    (tmp_path / "photos").mkdir()
    (tmp_path / "there.csv").touch()
    done = edgedet(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.code == code
    assert_one_line(done.err, *words)
    assert not (tmp_path / "new").exists()


def test_an_audit_is_a_table_and_evaluations_show_its_headline(edgedet, demo, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "cache"))
    before = edgedet("eval", demo.int8, "--data", demo.data)
    assert before.code == 0, before.err
    assert before.out.startswith("unaudited: `edgedet data audit`")
    done = edgedet("data", "audit", demo.data, "--json", tmp_path / "audit.json")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "audit.json").read_text())
    assert set(found["classes"]) == {"real", "fake"}
    assert found["leaks"] == []
    assert "shortcut baselines" in done.out
    after = edgedet("eval", demo.int8, "--data", demo.data)
    assert after.out.startswith("audited: ")


def test_a_controlled_copy_is_a_data_set(edgedet, demo, tmp_path):
    out = tmp_path / "fair"
    done = edgedet("data", "control", demo.data, "--out", out, "--size", "32", "--quality", "90")
    assert done.code == 0, done.err
    again = edgedet("data", "audit", out)
    assert again.code == 0, again.err
    assert "JPEG" in again.out
    refused = edgedet("data", "control", demo.data, "--out", tmp_path / "x", "--size", "30")
    assert refused.code == 1
    assert_one_line(refused.err, "size")


@pytest.fixture
def photos(tmp_path):
    """Three photographs, one of them damaged, and an autoencoder."""
    pytest.importorskip("diffusers")
    import tiny_autoencoder as tiny

    folder = tiny.photographs(tmp_path / "photos", 3)
    (folder / "002.jpg").write_bytes(b"no photograph")
    tiny.write(tmp_path, "tiny")
    return folder


def test_photographs_become_pairs_and_what_is_left_out_is_said(edgedet, photos, tmp_path):
    command = ["data", "reconstruct", photos, "--autoencoder", f"mine={tmp_path}/tiny_encoder.safetensors"]
    options = ["--crop", "32", "--jpeg", "photo", "quality=[80,80]", "--json", tmp_path / "j"]
    done = edgedet(*command, *options, "--out", tmp_path / "set")
    assert done.code == 0
    assert "4 images, 1 photographs left out (left_out.csv)" in done.out
    assert "left out: 002.jpg: not an image in a known format" in done.err
    said = json.loads((tmp_path / "j").read_text())
    assert said == {
        "out": str(tmp_path / "set"),
        "images": 4,
        "left_out": [{"path": "002.jpg", "reason": "not an image in a known format"}],
    }
    scanned = edgedet("data", "scan", tmp_path / "set", "--out", tmp_path / "index.csv")
    assert "4 images, 0 that cannot be read" in scanned.out
    rows = Index.load(tmp_path / "index.csv").rows
    assert {(row.label, row.generator) for row in rows} == {(0, "camera"), (1, "mine")}
    again = edgedet(*command, "--out", tmp_path / "set")
    assert again.code == 1
    assert_one_line(again.err, "set: exists already")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--autoencoder", "{tmp}"], 1, ["crop", "multiple"]),
        (["--autoencoder", "{tmp}/none"], 1, ["none: no autoencoder there"]),
        (["--autoencoder", "{tmp}", "old_grid=keep"], 1, ["old_grid"]),
    ],
)
def test_a_reconstruction_that_makes_no_sense_is_one_line(edgedet, photos, tmp_path, options, code, words):
    crop = "30" if "crop" in words else "32"
    arguments = [option.format(tmp=tmp_path) for option in options]
    done = edgedet("data", "reconstruct", photos, *arguments, "--crop", crop, "--out", tmp_path / "set")
    assert done.code == code
    assert_one_line(done.err, *words)
